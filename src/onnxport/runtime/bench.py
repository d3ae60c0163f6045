"""Measure an exported directory: how long it takes to load, to read a prompt and to write, and how much memory."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxport.errors import UnsupportedError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph
from onnxport.runtime.light import LightModel, completed, encoded
from onnxport.runtime.settings import RunSettings


@dataclass(frozen=True)
class Measured:
    """Hold what was measured.

    Attributes:
        load_seconds: opening the directory and loading its graphs.
        prompt_tokens: length of the prompt, 0 for a model that doesn't generate.
        prefill_tokens_per_second: tokens of a prompt that are read in a second; None for a model that doesn't generate.
        decode_tokens_per_second: tokens that are written in a second, from the median step.
        latency_ms: percentile to milliseconds of one step, or of one run of a model that doesn't generate.
        session_share: share of a step that ONNX Runtime takes; None for a model that doesn't generate.
        peak_memory_bytes: largest resident set of the process, where the system tells.
    """

    load_seconds: float
    prompt_tokens: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    latency_ms: dict[str, float]
    session_share: float | None
    peak_memory_bytes: int


@dataclass(frozen=True)
class Workload:
    """Choose what is measured.

    Attributes:
        prompt: tokens of the prompt, or of the text that a model which doesn't generate reads.
        new: tokens to write, or runs of a model that doesn't generate.
        batch: texts at once.
    """

    prompt: int = 128
    new: int = 128
    batch: int = 1


def bench(path: str | Path, workload: Workload, settings: RunSettings) -> Measured:
    """Measure a directory.

    Raises:
        CheckpointNotFoundError: it isn't a directory that onnxport wrote.
        UnsupportedError: it can't be run on made-up inputs.
    """
    start = time.perf_counter()
    directory = Directory(path, settings)
    model = LightModel(directory)
    names = [item.name for item in directory.manifest.components]
    graphs = {name: directory.graph(name) for name in names}
    load = time.perf_counter() - start
    if model.can_generate:
        return _decoding(graphs, workload, load)
    if "model" not in graphs:
        raise UnsupportedError(f"{path} holds {', '.join(names)}, which make no model that can be run")
    return _running(graphs["model"], workload, load)


def _running(graph: Graph, workload: Workload, load: float) -> Measured:
    inputs = completed(graph, _made_up(graph, workload))
    graph.run(inputs)
    times = [_timed(lambda: graph.run(inputs)) for _ in range(workload.new)]
    return Measured(load, 0, None, None, _percentiles(times), None, _peak())


def _decoding(graphs: dict[str, Graph], workload: Workload, load: float) -> Measured:
    merged = graphs.get("decoder_model_merged")
    decoder = Decoder(merged or graphs["model"])
    fixed: dict[str, Any] = {}
    prompt = workload.prompt
    if merged is not None:
        encoder = graphs["encoder_model"]
        fixed = encoded(encoder, _made_up(encoder, workload), merged)
        prompt = 1
    tokens = np.ones((workload.batch, prompt), dtype=np.int64)
    one = tokens[:, :1]
    for _ in range(2):  # once to warm up
        states = decoder.begin(workload.batch)
        prefill = _timed(lambda: decoder.step({"input_ids": tokens, **fixed}, states))  # noqa: B023
        steps, inside = [], []
        for _ in range(workload.new):
            before = decoder.graph.seconds
            steps.append(_timed(lambda: decoder.step({"input_ids": one, **fixed}, states)))  # noqa: B023
            inside.append(decoder.graph.seconds - before)
    share = sum(inside) / sum(steps)
    rate = workload.batch / statistics.median(steps)
    reading = workload.batch * prompt / prefill
    return Measured(load, prompt, reading, rate, _percentiles(steps), share, _peak())


def _made_up(graph: Graph, workload: Workload) -> dict[str, Any]:
    """Return inputs that fit: ones for tokens, small numbers for pictures and sounds.

    Raises:
        UnsupportedError: how long an axis of a picture or a sound has to be isn't known.
    """
    made: dict[str, Any] = {}
    for name, place in graph.inputs.items():
        if name.startswith("past_") or "mask" in name or name in ("position_ids", "token_type_ids"):
            continue
        shape = []
        for label in place.axes:
            size = label if isinstance(label, int) else _SIZES.get(label, workload.prompt)
            shape.append(workload.batch if isinstance(label, str) and "batch" in label else size)
        kind = np.dtype(place.dtype).kind
        made[name] = np.ones(shape, place.dtype) if kind in "iub" else np.full(shape, 0.1, place.dtype)
    if not made:
        raise UnsupportedError(f"{graph.file.name} takes {', '.join(graph.inputs)}, which can't be made up")
    return made


_SIZES = {"height": 224, "width": 224, "num_choices": 2, "audio_sequence": 16_000}
"""Lengths of axes that aren't texts."""


def _timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
