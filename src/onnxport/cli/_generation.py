"""Generate text for the command line, all at once or token by token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.cli import _preprocess
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import CheckpointNotFoundError, MissingDependencyError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.tokenizer import DirectoryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import ProcessorMixin


def generate(directory: Directory, request: RunRequest, settings: dict[str, Any], *, stream: bool) -> RunResult:
    """Generate the continuation of each prompt, or the text of an image or audio clip.

    Args:
        directory: the exported directory.
        request: prompts, image, audio or token ids.
        settings: see `onnxport.runtime.sampling.GenerationSettings`.
        stream: print the text token by token; the result then has no lines.

    Raises:
        OptionError: an input that the model requires is missing.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        MissingDependencyError: the model is multimodal, and torch or Transformers isn't installed.
    """
    if directory.has("embed_tokens"):
        return _generate_multimodal(directory, request, settings, stream=stream)
    tokenizer = _tokenizer(directory, request)
    values: list[dict[str, Any]] = []
    for prompt in request.texts or ("",):
        inputs = _model_inputs(directory, request, prompt, tokenizer)
        _, steps = LightModel(directory).stream(inputs, **settings)
        token_ids = _collect(steps, tokenizer if stream else None)
        new_ids = [index for index in token_ids if index not in directory.eos_token_ids]
        values.append({"text": tokenizer.decode(new_ids) if tokenizer is not None else "", "tokens": new_ids})
    lines = [value["text"] or f"(no text, token ids {value['tokens']})" for value in values]
    return RunResult([] if stream and tokenizer is not None else lines, values)


def _collect(steps: Iterator[NDArray[Any]], tokenizer: DirectoryTokenizer | None) -> list[int]:
    """Return the first sequence's token ids; print their text step by step if there is a tokenizer."""
    token_ids: list[int] = []

    def generated() -> Iterator[int]:
        for step in steps:
            token_ids.append(int(step[0]))
            yield token_ids[-1]

    if tokenizer is None:
        return list(generated())
    for text in tokenizer.decode_stream(generated()):
        write(text)
    write("\n")
    return token_ids


def write(text: str) -> None:
    """Write to standard output, and flush."""
    sys.stdout.write(text)
    sys.stdout.flush()


def _tokenizer(directory: Directory, request: RunRequest) -> DirectoryTokenizer | None:
    """Return the tokenizer; None if the directory has none and the request has no text."""
    try:
        return DirectoryTokenizer(directory)
    except CheckpointNotFoundError:
        if request.texts:
            raise
        return None


def _model_inputs(
    directory: Directory, request: RunRequest, prompt: str, tokenizer: DirectoryTokenizer | None
) -> dict[str, NDArray[Any]]:
    """Make the inputs of one sequence, image or audio clip."""
    if request.input_ids:
        return {"input_ids": np.array([request.input_ids], dtype=np.int64)}
    graph = directory.graph("encoder_model" if directory.has("encoder_model") else "model")
    if "input_ids" in graph.inputs:
        if not request.texts or tokenizer is None:
            raise OptionError("pass at least one --text (or token ids with --input-ids)")
        return dict(tokenizer.encode([prompt]))
    if "pixel_values" in graph.inputs:
        return _preprocess.image_inputs(directory, request)
    return _preprocess.audio_inputs(directory, request)


def _generate_multimodal(
    directory: Directory, request: RunRequest, settings: dict[str, Any], *, stream: bool
) -> RunResult:
    """Generate from one prompt and an image or audio clip, with the processor and Transformers' `generate`."""
    from onnxport.runtime.load import load

    processor = _preprocess.load(directory, "AutoProcessor")
    model: Any = load(directory.path, adapter=directory.settings.adapter)
    if isinstance(model, LightModel):
        raise MissingDependencyError("multimodal models need torch and transformers: pip install 'onnxport[export]'")
    import torch
    from transformers import TextStreamer

    if (seed := settings.pop("seed", None)) is not None:
        torch.manual_seed(seed)
    inputs = _multimodal_inputs(processor, request)
    options = {"skip_prompt": True, "skip_special_tokens": True}
    streamer = TextStreamer(processor.tokenizer, **options) if stream else None
    sequences = model.generate(**inputs, **settings, streamer=streamer)
    token_ids = sequences[0, inputs["input_ids"].shape[1] :].tolist()
    text = processor.tokenizer.decode(token_ids, skip_special_tokens=True)
    new_ids = [index for index in token_ids if index not in directory.eos_token_ids]
    return RunResult([] if stream else [text], [{"text": text, "tokens": new_ids}])


def _multimodal_inputs(processor: ProcessorMixin, request: RunRequest) -> dict[str, Any]:
    """Make the inputs of a multimodal model: one chat message, or the prompt if the processor has no chat template."""
    if len(request.texts) != 1 or request.input_ids:
        raise OptionError("pass one --prompt, with --image or --audio")
    (prompt,) = request.texts
    content: list[dict[str, Any]] = []
    arguments: dict[str, Any] = {}
    if request.image:
        arguments["images"] = request.load_image()
        content.append({"type": "image", "image": arguments["images"]})
    if request.audio:
        rate = processor.feature_extractor.sampling_rate
        arguments |= {"audio": request.load_audio(rate), "sampling_rate": rate}
        content.append({"type": "audio", "audio": arguments["audio"]})
    if not processor.chat_template:
        return dict(processor(text=prompt, return_tensors="pt", **arguments))
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]
    return dict(
        processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
    )
