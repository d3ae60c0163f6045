"""Run an exported directory once: prepare the input, run ONNX Runtime, say what the output means for the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnxport.cli import _answers
from onnxport.cli._answers import Answer
from onnxport.cli._exported import Exported, open_exported
from onnxport.cli._feeds import Given, feed_of
from onnxport.cli._generation import Wanted, generate
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel


def quick_run(directory: str | Path, given: Given, wanted: Wanted | None = None) -> Answer:
    """Run an exported directory on what the command line gives.

    Args:
        directory: what an export wrote.
        given: what the command line gives.
        wanted: how texts are generated.

    Raises:
        CheckpointNotFoundError: the directory isn't one that onnxport wrote, or lacks a preprocessor.
        OptionError: the options don't give what the graph needs.
        UnsupportedError: the directory holds several graphs.
        ValidationError: ONNX Runtime can't load or run the graph.
    """
    opened = Directory(directory)
    if LightModel(opened).can_generate:
        return generate(opened, given, wanted or Wanted())
    exported = open_exported(opened)
    answer = _ANSWERS.get(opened.task, _shapes)
    return answer(exported, given)


def _shapes(exported: Exported, given: Given) -> Answer:
    return _answers.shapes(exported.run(feed_of(exported, given)))


_ANSWERS: dict[str, Callable[[Exported, Given], Answer]] = {
    "feature-extraction": _answers.embeddings,
    "sentence-similarity": _answers.sentences,
    "fill-mask": _answers.fill_mask,
    "text-classification": _answers.classes,
    "image-classification": _answers.classes,
    "audio-classification": _answers.classes,
    "token-classification": _answers.tokens,
    "question-answering": _answers.span,
    "multiple-choice": _answers.choices,
}
"""Tasks to what answers for them; all others show the shapes of the outputs."""
