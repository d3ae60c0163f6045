"""Measure the generation speed of exported models, PyTorch and optimum-onnx's runtime.

python -m benchmarks.generation [--runs 5]      # prints the section, stores the figures for `python -m benchmarks page`

Each side is one process for all rounds: it loads, generates once to warm up, and then once in each round. All use two
threads, the same token ids or audio features, and their own `generate`, with the same number of new tokens.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.results import measured_at, new_record, write_record
from benchmarks.served import serve, started
from benchmarks.sides import WORK

RESULT = WORK / "results" / "generation.json"
THREADS, PROMPT, NEW = 2, 128, 128
SIDES = {"onnxport": "", "PyTorch": "", "optimum-onnx": "optimum"}
"""Side to the name of its environment; empty for this one."""
MINIMUM_RATIO = {("smollm2", "PyTorch"): 1.2, ("smollm2", "optimum-onnx"): 1.0, ("whisper-tiny", "PyTorch"): 1.2}
"""(Checkpoint, side) to the minimum of onnxport's speed divided by the side's speed."""
OVERHEAD = 0.15
"""Maximum time in Python, as a share of the time in ONNX Runtime's session."""


def main() -> int:
    """Measure, or run one side."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation")
    parser.add_argument("--runs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "MODEL", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return serve(lambda: _load(*arguments.side))
    record = new_record(arguments.runs)
    for model in ("smollm2", "whisper-tiny"):
        record["sides"][model] = _measure(model, arguments.runs)
    write_record(RESULT, record)
    print(section(record))
    return 0


def section(result: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"## h. Generation: prompt of {PROMPT} tokens (or 30 s of audio), {NEW} new tokens, greedy, {THREADS} threads",
        "",
        "| checkpoint | side | tokens/s | ours / its | to reach | reached |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, sides in result["sides"].items():
        rates = {side: NEW / statistics.median(run["seconds"] for run in runs) for side, runs in sides.items()}
        for side, rate in rates.items():
            ratio, minimum = rates["onnxport"] / rate, MINIMUM_RATIO.get((model, side))
            judged = ("", "", "") if minimum is None else (f"{ratio:.2f}", f"≥ {minimum}", _reached(ratio >= minimum))
            lines.append(f"| {model} | {side} | {rate:.1f} | {' | '.join(judged)} |")
        runs = sides["onnxport"]
        share = statistics.median((run["seconds"] - run["session"]) / run["session"] for run in runs)
        judged = f"{share:.1%} | ≤ {OVERHEAD:.0%} | {_reached(share <= OVERHEAD)}"
        lines.append(f"| {model} | Python, of the session's own time | | {judged} |")
    return "\n".join([*lines, "", measured_at(result), ""])


def _reached(yes: bool) -> str:
    return "yes" if yes else "**no**"


def _measure(model: str, runs: int) -> dict[str, list[dict[str, float]]]:
    from benchmarks.rounds import Bench

    checkpoint = Bench(WORK, gigabytes=1, limit=3600).checkpoint(model)
    output = WORK / "generation" / model
    if not output.is_dir():
        from benchmarks.checkpoints import SHAPES

        command = ["-m", "onnxport", "export", str(checkpoint), str(output), "--task", SHAPES[model].task]
        subprocess.run([sys.executable, *command, "--validate", "none", "--quiet"], check=True)
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(started(_command(side, model, checkpoint if side == "PyTorch" else output)))
            for side in SIDES
        }
        for _ in range(runs):
            for side, process in sides.items():
                found[side].append(process.ask())
    return found


def _command(side: str, model: str, directory: Path) -> list[str]:
    name = SIDES[side]
    python = str(WORK / "environments" / name / "bin" / "python") if name else sys.executable
    return [python, "-m", "benchmarks.generation", "--side", side, model, str(directory)]


def _load(side: str, model: str, directory: str) -> Callable[[], dict[str, float]]:
    """Load a side; return what generates once."""
    import torch

    torch.set_num_threads(THREADS)
    loaded = {"onnxport": _ours, "PyTorch": _torch, "optimum-onnx": _optimum}[side](model, directory)
    torch.manual_seed(0)
    speech = model.startswith("whisper")
    if speech:
        inputs = {"input_features": torch.randn(1, loaded.config.num_mel_bins, 2 * loaded.config.max_source_positions)}
    else:
        ids = torch.randint(5, loaded.config.vocab_size - 5, (1, PROMPT))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "num_beams": 1}
    if not speech:
        settings["pad_token_id"] = 0

    opened = getattr(loaded, "directory", None)

    def in_sessions() -> float:
        from onnxport.runtime.bench import session_seconds  # other sides' environments lack its packages

        return session_seconds(opened)

    def generate() -> dict[str, float]:
        before = in_sessions() if opened else 0.0
        start = time.perf_counter()
        with torch.no_grad():
            loaded.generate(**inputs, **settings)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "session": in_sessions() - before if opened else seconds}

    return generate


def _ours(model: str, directory: str) -> Any:
    import onnxport

    return onnxport.load(directory, threads=THREADS)


def _torch(model: str, directory: str) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(directory)
    return getattr(transformers, config.architectures[0]).from_pretrained(directory).eval()


def _optimum(model: str, directory: str) -> Any:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSpeechSeq2Seq

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    model_class = ORTModelForSpeechSeq2Seq if model.startswith("whisper") else ORTModelForCausalLM
    return model_class.from_pretrained(directory, session_options=options)


if __name__ == "__main__":
    sys.exit(main())
