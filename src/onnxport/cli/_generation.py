"""Generate texts for the command line: all at once, or piece by piece while they are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxport.cli._answers import Answer
from onnxport.cli._exported import Exported
from onnxport.cli._feeds import Given, audio_feed, image_feed
from onnxport.errors import CheckpointNotFoundError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.tokenizer import DirectoryTokenizer as Text


@dataclass(frozen=True)
class Wanted:
    """Choose how a text is generated.

    Attributes:
        settings: arguments of `Sampling`.
        stream: print the text while it is made.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    stream: bool = False


def generate(directory: Directory, given: Given, wanted: Wanted) -> Answer:
    """Generate what follows each text, or what a text, picture or sound becomes.

    Raises:
        OptionError: the options don't give what the model needs.
        CheckpointNotFoundError: a text was given, and the directory has no tokenizer.
    """
    text = _text_of(directory, given)
    rows: list[tuple[str, ...]] = [(one,) for one in given.texts] or [()]
    values = [_one(directory, _inputs(directory, given, (row, text)), (text, wanted)) for row in rows]
    shown = [value["text"] or f"(no text, tokens {value['tokens']})" for value in values]
    return Answer([] if wanted.stream else shown, values)


def _one(directory: Directory, inputs: dict[str, Any], how: tuple[Text | None, Wanted]) -> dict[str, Any]:
    text, wanted = how
    _, steps = LightModel(directory).stream(inputs, **wanted.settings)
    tokens: list[int] = []
    if text is not None and wanted.stream:
        for piece in text.decode_stream(_recorded(steps, tokens)):
            _show(piece)
        _show("\n")
    else:
        tokens += [int(step[0]) for step in steps]
    ends = directory.setting("eos_token_id")
    kept = [token for token in tokens if token not in (ends if isinstance(ends, list) else [ends])]
    return {"text": text.decode(kept) if text is not None else "", "tokens": kept}


def _recorded(steps: Iterator[Any], tokens: list[int]) -> Iterator[int]:
    for step in steps:
        tokens.append(int(step[0]))
        yield tokens[-1]


def _show(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _text_of(directory: Directory, given: Given) -> Text | None:
    try:
        return Text(directory)
    except CheckpointNotFoundError:
        if given.texts:
            raise
        return None


def _inputs(directory: Directory, given: Given, row: tuple[tuple[str, ...], Text | None]) -> dict[str, Any]:
    """Make the inputs of one text, picture or sound."""
    texts, text = row
    first = "encoder_model" if directory.has("encoder_model") else "model"
    takes = directory.graph(first).inputs
    if given.input_ids:
        return {"input_ids": np.array([given.input_ids], dtype=np.int64)}
    if "input_ids" in takes:
        if not texts or text is None:
            raise OptionError("give at least one --text (or token numbers with --input-ids)")
        return dict(text.encode(texts))
    exported = Exported(directory, directory.graph(first).session)
    return image_feed(exported, given) if "pixel_values" in takes else audio_feed(exported, given)


def pieces(text: Text, steps: Iterator[Any]) -> Iterator[str]:
    """Yield a text piece by piece as its tokens come in."""
    yield from text.decode_stream(int(step[0]) for step in steps)
