"""Measure how fast MiniLM embeds 10,000 sentences: `onnxport.ray.Predictor`, a loop over ONNX Runtime, PyTorch, Ray.

python -m benchmarks.embeddings DIRECTORY CHECKPOINT [--runs 5] [--rows 10000]

DIRECTORY is an export for sentence-similarity, CHECKPOINT its original. Each side is a function of this process with
one thread, run once in each round after a round to warm up; medians are compared. PyTorch's side does what
`SentenceTransformer.encode` does: texts in order of their length, batches of 32, mean pooling, normalization. The Ray
sides time a dataset from its rows to its embeddings, with the start of the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

BATCH, SEED = 32, 0
MINIMUM_RATIO = {"loop": 0.9, "torch": 1.2}
"""Side to the minimum of its time divided by the predictor's."""
MINIMUM_SPEEDUP = 1.7
"""Minimum of the time of one Ray worker divided by that of two."""
WORDS = "the of model graph tensor and runs fast on a small machine without any network that reads sentences about cats"


def main() -> int:
    """Print the medians of all sides, and whether the targets are reached."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings")
    parser.add_argument("directory")
    parser.add_argument("checkpoint")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    arguments = parser.parse_args()
    texts = sentences(arguments.rows)
    sides: dict[str, Callable[[list[str]], Any]] = {
        "Predictor": _predictor(arguments.directory),
        "loop": _loop(arguments.directory),
        "torch": _torch(arguments.checkpoint),
    }
    expected = sides["torch"](texts[:256])
    for name in ("Predictor", "loop"):
        np.testing.assert_allclose(sides[name](texts[:256]), expected, atol=1e-4)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(arguments.runs):
        for name, side in sides.items():
            found[name].append(_seconds(partial(side, texts)))
    workers = {f"Ray, {count}": [] for count in (1, 2)}
    for _ in range(min(3, arguments.runs)):
        for count, seconds in zip((1, 2), workers.values(), strict=True):
            seconds.append(_seconds(partial(_ray, arguments.directory, texts, count)))
    medians = {name: statistics.median(seconds) for name, seconds in {**found, **workers}.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{len(texts)} sentences, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, commit {commit}")
    for name, seconds in medians.items():
        print(f"{name:10} {seconds:6.2f} s  {len(texts) / seconds:7.0f} rows/s  {json.dumps((found | workers)[name])}")
    ratios = {name: medians[name] / medians["Predictor"] for name in MINIMUM_RATIO}
    speedup = medians["Ray, 1"] / medians["Ray, 2"]
    for name, ratio in ratios.items():
        print(f"{name} / Predictor: {ratio:.2f} (to reach: {MINIMUM_RATIO[name]})")
    print(f"one worker / two workers: {speedup:.2f} (to reach: {MINIMUM_SPEEDUP} on two idle cores or more)")
    reached = all(ratio >= MINIMUM_RATIO[name] for name, ratio in ratios.items())
    return int(not reached or speedup < MINIMUM_SPEEDUP)


def sentences(count: int) -> list[str]:
    """Return sentences of 3 to 60 words, most of them short."""
    draw, words = random.Random(SEED), WORDS.split()
    return [" ".join(draw.choices(words, k=3 + int(draw.betavariate(1.2, 4) * 58))) for _ in range(count)]


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _predictor(directory: str) -> Callable[[list[str]], Any]:
    from onnxport.ray import Predictor

    predict = Predictor(directory, "text", batch_size=BATCH)
    return lambda texts: predict({"text": np.array(texts, dtype=object)})["embedding"]


def _loop(directory: str) -> Callable[[list[str]], Any]:
    """Return what a user would write with ONNX Runtime and tokenizers: batches of texts in order of their length."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(Path(directory) / "model.onnx", options)
    names = {value.name for value in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(Path(directory) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)

    def embed(texts: list[str]) -> Any:
        rows = tokenizer.encode_batch_fast(texts)
        order = np.argsort([-len(row.ids) for row in rows], kind="stable")
        embeddings = np.empty((len(texts), 384), np.float32)
        for start in range(0, len(texts), BATCH):
            chosen = order[start : start + BATCH]
            length = len(rows[chosen[0]].ids)
            ids, mask = np.zeros((2, len(chosen), length), np.int64)
            for index, row in enumerate(chosen):
                ids[index, : len(rows[row].ids)] = rows[row].ids
                mask[index, : len(rows[row].ids)] = 1
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (found,) = session.run(["sentence_embedding"], {name: feed[name] for name in names})
            embeddings[chosen] = found
        return embeddings

    return embed


def _torch(checkpoint: str) -> Callable[[list[str]], Any]:
    import torch
    import transformers

    torch.set_num_threads(1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()

    def embed(texts: list[str]) -> Any:
        order = np.argsort([-len(text) for text in texts], kind="stable")
        parts = []
        for start in range(0, len(texts), BATCH):
            chosen = [texts[row] for row in order[start : start + BATCH]]
            inputs = tokenizer(chosen, padding=True, truncation=True, max_length=256, return_tensors="pt")
            with torch.no_grad():
                states = model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].float()
            pooled = (states * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(pooled, dim=-1).numpy())
        return np.concatenate(parts)[np.argsort(order)]

    return embed


def _ray(directory: str, texts: list[str], workers: int) -> None:
    import ray

    from onnxport.ray import Predictor

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    dataset = ray.data.from_items([{"text": text} for text in texts], override_num_blocks=20)
    named = {"directory": str(Path(directory).absolute()), "column": "text", "batch_size": BATCH}
    done = dataset.map_batches(Predictor, fn_constructor_kwargs=named, concurrency=workers, batch_size=500)
    assert done.materialize().count() == len(texts)


if __name__ == "__main__":
    sys.exit(main())
