"""Generate text for the command line, all at once or token by token."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from onnxport._process import writing_output
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.generators import Generator, Prompt, open_generator
from onnxport.runtime.languages import Languages


def generate(directory: Directory, request: RunRequest, settings: Mapping[str, Any], *, stream: bool) -> RunResult:
    """Generate the continuation of each prompt, or the text of each image or audio clip.

    Args:
        directory: the exported directory.
        request: prompts, images, audio, token ids and languages.
        settings: settings of Transformers' `generate`, and `seed`.
        stream: print the text token by token; the result then has no lines.

    Raises:
        OptionError: an input that the model requires is missing, or the model doesn't take one.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        MissingDependencyError: the prompt or a setting requires Transformers, which isn't installed.
    """
    _check_request(directory, request)
    languages = Languages(request.source_language, request.target_language)
    generator = open_generator(
        directory,
        needs_processor=bool(request.images or request.audio),
        languages=languages if languages != Languages() else None,
    )
    values: list[dict[str, Any]] = []
    lines: list[str] = []
    for inputs in _inputs(directory, request, generator):
        for one in generator.generate(inputs, settings, write if stream else None):
            values.append({"text": one.text, "tokens": list(one.token_ids)})
            lines.append(one.text or f"(no text, token ids {list(one.token_ids)})")
        if stream:
            write("\n" if values[-1]["text"] else f"{lines[-1]}\n")
    return RunResult([] if stream else lines, values)


def write(text: str) -> None:
    """Write to standard output, and flush."""
    with writing_output():
        sys.stdout.write(text)
        sys.stdout.flush()


def _check_request(directory: Directory, request: RunRequest) -> None:
    """Check that the request has the inputs that the graphs require, and no others.

    Raises:
        OptionError: it doesn't.
    """
    components = [item for item in directory.manifest.components if not item.name.startswith("decoder")]
    names = [value.name for item in components for value in item.inputs]
    takes_text = "input_ids" in names
    request.check_files(directory.task, names)
    if request.text_pairs or request.question:
        raise OptionError(f"--text-pair and --question don't apply to {directory.task}: pass --prompt")
    if request.input_ids and (request.images or request.audio):
        raise OptionError("pass --prompt, not --input-ids, with --image or --audio")
    if request.input_ids and not takes_text:
        raise OptionError(f"the encoder takes no token ids: pass {request.options_for(names)}")
    if not (request.texts or request.input_ids or request.images or request.audio):
        raise OptionError(
            "pass at least one --text (or token ids with --input-ids)"
            if takes_text
            else f"pass {request.options_for(names)}"
        )
    if takes_text and directory.has("encoder_model") and (missing := request.missing_options(names) - {"--text"}):
        raise OptionError(f"the encoder takes images or audio with its text: pass {' and '.join(missing)}, too")
    if request.texts and not takes_text and not (request.images or request.audio):
        raise OptionError(f"the encoder takes no text: pass {request.options_for(names)}, with the text as its prompt")


def _inputs(directory: Directory, request: RunRequest, generator: Generator) -> Iterator[Mapping[str, Any]]:
    """Yield the model's inputs of each prompt.

    All images and audio clips belong to each prompt of a multimodal decoder; an encoder-decoder takes one at a time.
    """
    if request.input_ids:
        yield {"input_ids": np.array([request.input_ids], dtype=np.int64)}
        return
    images = request.load_images() if request.images else ()
    audio = request.load_audio(generator.sampling_rate) if request.audio else ()
    whole = Prompt(images=images, audio=audio)
    is_single = directory.has("encoder_model") and len(images) + len(audio) > 1
    parts = [Prompt(images=(image,)) for image in images] + [Prompt(audio=(clip,)) for clip in audio]
    for text, part in product(request.texts or ("",), parts if is_single else [whole]):
        yield generator.encode(replace(part, text=text))
