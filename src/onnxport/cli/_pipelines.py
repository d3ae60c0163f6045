"""Run a task with its Transformers pipeline: what each pipeline is called with, and how its results are printed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import OnnxportError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.load import pipeline

if TYPE_CHECKING:
    from transformers import Pipeline

TOP_K = 5
Values = Any
"""What a pipeline returns: dictionaries and lists of labels, scores, boxes, …"""


@dataclass(frozen=True)
class PipelineTask:
    """Describe how a pipeline runs.

    Attributes:
        takes: the modalities of its inputs.
        inputs: returns what the pipeline is called with, from the request.
        lines: returns the printed lines of one result.
        options: options of each call.
        arguments: arguments that build the pipeline.
        name: the pipeline's task; empty for the directory's.
        prefix: begins each line, with `{}` for the number of the input.
        plain: returns a result without images and tensors, for JSON.
    """

    takes: frozenset[str]
    inputs: Callable[[RunRequest, Pipeline], Iterable[Any]]
    lines: Callable[[Values], list[str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    prefix: str = ""
    plain: Callable[[Values], Values] = lambda values: values


def run_pipeline(directory: Directory, request: RunRequest, options: Mapping[str, Any] | None = None) -> RunResult:
    """Run the pipeline of the directory's task on each input.

    Args:
        directory: the exported directory, for a task of `PIPELINES`.
        request: the inputs.
        options: further options of each call.

    Raises:
        OptionError: an input is missing, or the pipeline refuses one.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
    """
    task = PIPELINES[directory.task]
    name = task.name or directory.task
    pipe = pipeline(name, directory.path, adapter=directory.settings.adapter, **task.arguments)
    calls = {**task.options, **(options or {})}
    if directory.task == "text-classification" and pipe.model.config.num_labels == 1:
        calls["function_to_apply"] = "none"  # a regression
    values = []
    for inputs in task.inputs(request, pipe):
        with translating(refused(name)):
            values.append(task.plain(pipe(**inputs, **calls) if isinstance(inputs, _Named) else pipe(inputs, **calls)))
    lines = [task.prefix.format(i) + line for i, value in enumerate(values, 1) for line in task.lines(value)]
    return RunResult(lines, values)


def seeded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seed torch with the `seed` of generation settings; return the others, those of Transformers' `generate`."""
    import torch

    if (seed := settings.get("seed")) is not None:
        torch.manual_seed(seed)
    return {name: value for name, value in settings.items() if name != "seed"}


class _Named(dict[str, Any]):
    """Arguments of a pipeline by name."""


def refused(name: str) -> Callable[[Exception], Exception | None]:
    """Return a function that makes an OptionError of what a pipeline raises; None for an error of this package."""

    def translate(error: Exception) -> Exception | None:
        if isinstance(error, OnnxportError):
            return None
        return OptionError(f"Transformers' pipeline for {name} refuses the input: {' '.join(str(error).split())[:300]}")

    return translate


def _texts(request: RunRequest, pipe: Pipeline) -> Iterator[Any]:
    if not request.texts:
        raise OptionError("pass at least one --text (or token ids with --input-ids)")
    if not request.text_pairs:
        return iter(request.texts)
    pairs = zip(request.texts, request.text_pairs, strict=True)
    return iter([{"text": text, "text_pair": pair} for text, pair in pairs])


def _texts_with_masks(request: RunRequest, pipe: Pipeline) -> Iterator[str]:
    for text in _texts(request, pipe):
        if pipe.tokenizer.mask_token not in text:
            raise OptionError(f"{text!r} has no mask: put {pipe.tokenizer.mask_token} in place of a token to predict")
        yield text


def _images(request: RunRequest, pipe: Pipeline) -> Iterator[Any]:
    return iter(request.load_images())


def _labelled_images(request: RunRequest, pipe: Pipeline) -> Iterator[_Named]:
    if not request.texts:
        raise OptionError("pass the labels to choose from with --text, once for each")
    for image in request.load_images():
        yield _Named(image=image, candidate_labels=list(request.texts))


def _clips(request: RunRequest, pipe: Pipeline) -> Iterator[Any]:
    return iter(request.load_audio(pipe.feature_extractor.sampling_rate))


def _speech(request: RunRequest, pipe: Pipeline) -> Iterator[_Named]:
    """Yield the clips; one that is longer than Whisper's window is transcribed by segments, with timestamps."""
    for clip in _clips(request, pipe):
        is_long = pipe.type == "seq2seq_whisper" and len(clip) > pipe.feature_extractor.n_samples
        yield _Named(inputs=clip, **({"return_timestamps": True} if is_long else {}))


def _masks(values: Values) -> Values:
    """Return one list for each mask token."""
    return values if isinstance(values[0], list) else [values]


def _scores_as_numbers(values: Values) -> Values:
    return [{**token, "score": float(token["score"])} for token in values]


def _segments(values: Values) -> Values:
    """Return the segments with the share of pixels instead of their masks."""
    return [
        {"label": item["label"], "score": item["score"], "share": float((np.asarray(item["mask"]) > 0).mean())}
        for item in values
    ]


def _depth(values: Values) -> Values:
    """Return the shape and range of the depth."""
    depth = np.asarray(values["predicted_depth"], dtype=np.float64)
    return {"shape": list(depth.shape), "min": float(depth.min()), "max": float(depth.max())}


def scores(entries: Iterable[Mapping[str, Any]], name: str = "label") -> str:
    """Format labels with their scores, in one line."""
    return ", ".join(f"{entry[name]} {entry['score']:.3f}" for entry in entries)


def _score_line(values: Values) -> list[str]:
    return [scores(values)]


def _mask_lines(values: Values) -> list[str]:
    return [f"mask {column + 1}: {scores(best, 'token_str')}" for column, best in enumerate(values)]


def _token_line(values: Values) -> list[str]:
    return [" ".join(f"{token['word']}/{token['entity']}" for token in values)]


def _box_lines(values: Values) -> list[str]:
    lines = [f"{item['label']} {item['score']:.3f} {list(item['box'].values())}" for item in values]
    return lines or ["(nothing detected)"]


def _segment_lines(values: Values) -> list[str]:
    lines = [
        " ".join([item["label"], *([f"{item['score']:.3f}"] if item["score"] is not None else []), _percent(item)])
        for item in values
    ]
    return lines or ["(nothing detected)"]


def _percent(item: Mapping[str, Any]) -> str:
    return f"{100 * item['share']:.1f} % of the image"


def _depth_line(values: Values) -> list[str]:
    return [f"depth {values['shape']}: {values['min']:.4g} to {values['max']:.4g}"]


def _text_line(values: Values) -> list[str]:
    return [values["text"].strip() or "(no text)"]


_TEXT, _IMAGE, _AUDIO = frozenset({"text"}), frozenset({"image"}), frozenset({"audio"})
_SEGMENTATION = PipelineTask(
    _IMAGE, _images, _segment_lines, name="image-segmentation", prefix="image {}: ", plain=_segments
)
PIPELINES: dict[str, PipelineTask] = {
    "fill-mask": PipelineTask(
        _TEXT,
        _texts_with_masks,
        _mask_lines,
        {"top_k": TOP_K, "tokenizer_kwargs": {"truncation": True}},
        prefix="text {}, ",
        plain=_masks,
    ),
    "text-classification": PipelineTask(_TEXT, _texts, _score_line, {"top_k": TOP_K, "truncation": True}),
    "token-classification": PipelineTask(
        _TEXT, _texts, _token_line, arguments={"ignore_labels": []}, plain=_scores_as_numbers
    ),
    "image-classification": PipelineTask(_IMAGE, _images, _score_line, {"top_k": TOP_K}),
    "audio-classification": PipelineTask(_AUDIO, _clips, _score_line, {"top_k": TOP_K}),
    "object-detection": PipelineTask(_IMAGE, _images, _box_lines, prefix="image {}: "),
    "image-segmentation": _SEGMENTATION,
    "semantic-segmentation": _SEGMENTATION,
    "depth-estimation": PipelineTask(_IMAGE, _images, _depth_line, plain=_depth),
    "zero-shot-image-classification": PipelineTask(_TEXT | _IMAGE, _labelled_images, _score_line),
    "zero-shot-object-detection": PipelineTask(_TEXT | _IMAGE, _labelled_images, _box_lines, prefix="image {}: "),
    "automatic-speech-recognition": PipelineTask(_AUDIO, _speech, _text_line),
}
"""Tasks that run with a pipeline; the others show the graph's outputs, or have a result of their own."""
