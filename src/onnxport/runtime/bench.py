"""Measure an exported directory: load time, prefill and decode throughput, latency and peak memory."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.axes import LOGITS_TO_KEEP
from onnxport.description.components import PROJECTIONS
from onnxport.errors import UnsupportedError
from onnxport.runtime.decoder import Decoder, DecoderCache
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph
from onnxport.runtime.light import LightModel, complete_inputs, encode_for_decoder
from onnxport.runtime.modalities import embed_and_merge
from onnxport.runtime.settings import RunSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Measurements:
    """Hold the results.

    Attributes:
        load_seconds: time to open the directory and load its graphs.
        prompt_tokens: length of the prompt, 0 for a model that doesn't generate.
        prefill_tokens_per_second: throughput of the prompt; None for a model that doesn't generate.
        decode_tokens_per_second: throughput of generated tokens, from the median step; None for a model that doesn't
            generate.
        latency_ms: percentile to milliseconds of one step, or of one run of a model that doesn't generate.
        session_share: share of a step that is spent in ONNX Runtime; None for a model that doesn't generate.
        peak_memory_bytes: largest resident set size of the process.
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
    """Choose the size of the inputs.

    Attributes:
        prompt_tokens: length of the prompt, or of the sequences of a model that doesn't generate.
        new_tokens: number of tokens to generate, or of runs of a model that doesn't generate.
        batch_size: batch size.
    """

    prompt_tokens: int = 128
    new_tokens: int = 128
    batch_size: int = 1


def bench(path: str | Path, workload: Workload, settings: RunSettings) -> Measurements:
    """Measure a directory on synthetic inputs: a decoder on text, also if it takes images or audio.

    Raises:
        CheckpointNotFoundError: the directory wasn't written by onnxport.
        UnsupportedError: its graphs can't be run on synthetic inputs.
    """
    start = time.perf_counter()
    directory = Directory(path, settings)
    model = LightModel(directory)
    for name in directory.component_names:
        directory.graph(name)
    load_seconds = time.perf_counter() - start
    if directory.has("decoder_model_merged") or model.can_generate:
        return _measure_generation(directory, workload, load_seconds)
    return _measure_runs(directory, workload, load_seconds)


def _measure_runs(directory: Directory, workload: Workload, load_seconds: float) -> Measurements:
    """Measure runs of all graphs, one after another."""
    graphs, sizes = [directory.graph(name) for name in directory.component_names], _image_size(directory)
    feeds = [(graph, complete_inputs(graph, _synthetic_inputs(graph, workload, sizes))) for graph in graphs]

    def run() -> None:
        for graph, feed in feeds:
            graph.run(feed)

    run()  # warm-up
    times = [_seconds(run) for _ in range(workload.new_tokens)]
    return Measurements(load_seconds, 0, None, None, _percentiles(times), None, _peak_memory())


def _measure_generation(directory: Directory, workload: Workload, load_seconds: float) -> Measurements:
    merged = directory.graph("decoder_model_merged") if directory.has("decoder_model_merged") else None
    decoder = Decoder(merged or directory.graph("model"))
    encoder_outputs = _encoder_outputs(directory, decoder.graph, workload)
    prompt_tokens = 1 if _encoder_name(directory) else workload.prompt_tokens
    takes_embeds = "inputs_embeds" in decoder.graph.inputs

    def step(count: int, cache: DecoderCache) -> None:
        if takes_embeds:
            feed = embed_and_merge(directory, np.ones((workload.batch_size, count), dtype=np.int64), ())
        else:  # tokens, codes or a spectrogram
            feed = _synthetic_inputs(decoder.graph, replace(workload, prompt_tokens=count), {})
        decoder.step({**feed, **encoder_outputs}, cache)

    for _ in range(2):  # the first pass is the warm-up
        cache = decoder.empty_cache(workload.batch_size)
        prefill = _seconds(lambda: step(prompt_tokens, cache))  # noqa: B023
        steps, in_sessions = [], []
        for count in range(1, workload.new_tokens + 1):
            before = session_seconds(directory)
            if decoder.has_cache:
                steps.append(_seconds(lambda: step(1, cache)))  # noqa: B023
            else:  # the whole sequence is recomputed in every step
                whole = prompt_tokens + count
                steps.append(_seconds(lambda: step(whole, decoder.empty_cache(workload.batch_size))))  # noqa: B023
            in_sessions.append(session_seconds(directory) - before)
    latency_ms = _percentiles(steps)
    return Measurements(
        load_seconds=load_seconds,
        prompt_tokens=prompt_tokens,
        prefill_tokens_per_second=workload.batch_size * prompt_tokens / prefill,
        decode_tokens_per_second=1000 * workload.batch_size / latency_ms["p50"],
        latency_ms=latency_ms,
        session_share=sum(in_sessions) / sum(steps),
        peak_memory_bytes=_peak_memory(),
    )


def _encoder_name(directory: Directory) -> str:
    """Return the name of the encoder of an encoder-decoder; empty if there is none."""
    if any(map(directory.has, PROJECTIONS)):  # MusicGen Melody's decoder has no cross-attention
        return ""
    return next((name for name in ("encoder_model", "text_encoder") if directory.has(name)), "")


def _encoder_outputs(directory: Directory, decoder: Graph, workload: Workload) -> Mapping[str, Any]:
    """Return what a decoder takes of the encoder; embeddings that precede the first token are left out."""
    if name := _encoder_name(directory):
        encoder = directory.graph(name)
        return encode_for_decoder(encoder, _synthetic_inputs(encoder, workload, _image_size(directory)), decoder)
    states = decoder.inputs.get("encoder_hidden_states")
    return {} if states is None else {"encoder_hidden_states": states.empty(workload.batch_size)}


def session_seconds(directory: Directory) -> float:
    """Return the time spent inside ONNX Runtime so far, in seconds."""
    return sum(directory.graph(name).seconds for name in directory.component_names)


def _synthetic_inputs(graph: Graph, workload: Workload, image_size: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Return main inputs of the workload's size: ones for integer inputs, 0.1 for floating-point ones.

    Raises:
        UnsupportedError: the graph has no main input.
    """
    sizes = {**_AXIS_SIZES, **image_size}
    inputs: dict[str, NDArray[Any]] = {}
    for name, spec in graph.inputs.items():
        if "." in name or "mask" in name or name in ("position_ids", "token_type_ids", LOGITS_TO_KEEP):
            continue
        shape = []
        for axis in spec.axes:
            size = axis if isinstance(axis, int) else sizes.get(axis, workload.prompt_tokens)
            multiple = re.match(r"(\d+)\*batch", str(axis))  # a sequence for each codebook
            batch = workload.batch_size * (int(multiple[1]) if multiple else 1)
            shape.append(batch if isinstance(axis, str) and "batch" in axis else size)
        integer = np.dtype(spec.dtype).kind in "iub"
        inputs[name] = np.ones(shape, spec.dtype) if integer else np.full(shape, 0.1, spec.dtype)
    if not inputs:
        raise UnsupportedError(
            f"onnxport bench has no synthetic values for the inputs of {graph.file.name}: {', '.join(graph.inputs)}"
        )
    return inputs


_AXIS_SIZES = {"num_choices": 2, "audio_sequence": 16_000}
"""Sizes of dynamic axes that aren't sequences of tokens."""
_IMAGE_SIZE = 224


def _image_size(directory: Directory) -> dict[str, int]:
    """Return height and width of the images that the directory's preprocessor makes, or that the model is made for."""
    config = directory.config
    preprocessor: Mapping[str, Any] = directory.read("preprocessor_config.json")
    preprocessor = preprocessor or _part(directory.read("processor_config.json"), "image_processor")
    sizes = [preprocessor.get("crop_size"), preprocessor.get("size"), config.get("image_size")]
    sizes.append(_part(config, "vision_config").get("image_size"))
    for size in sizes:
        if isinstance(size, dict):
            size = [size.get("height"), size.get("width")] if "height" in size else size.get("shortest_edge")
        height, width = size if isinstance(size, list) and len(size) == 2 else (size, size)
        if isinstance(height, int) and isinstance(width, int):
            return {"height": height, "width": width}
    return {"height": _IMAGE_SIZE, "width": _IMAGE_SIZE}


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, dict) else {}


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {f"p{p}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 90, 99)}


def _peak_memory() -> int:
    """Return the largest resident set size in bytes; Linux reports KiB, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
