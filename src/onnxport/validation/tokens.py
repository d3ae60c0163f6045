"""Compare the tokens that an export generates with those of the original: greedy, alone and in a left-padded batch.

The graphs generate step by step from their own cache. The original then reads the whole sequence at once: the most
probable token after each of its tokens is the one that the graphs have chosen, or has the same logit within the
tolerance.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.description.axes import is_cached
from onnxport.description.description import GraphDescription
from onnxport.description.lengths import positions_of
from onnxport.description.tolerances import Tolerance
from onnxport.runtime.decoder import Decoder, position_ids
from onnxport.runtime.light import encode_for_decoder
from onnxport.validation.report import Case, OutputDifference

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from onnxport.runtime.directory import Directory
    from onnxport.runtime.graph import Graph

TOKENS = 32
"""Number of generated tokens."""
_PROMPT, _PADDING = 8, 3
_RANK = 2
_DECODER_INPUTS = {"input_ids", "attention_mask", "position_ids", "encoder_hidden_states", "encoder_attention_mask"}


def compare_tokens(
    graphs: Sequence[GraphDescription], model: PreTrainedModel, directory: Directory, tolerance: Tolerance
) -> list[Case]:
    """Generate with the graphs of a decoder or of an encoder-decoder, and compare the tokens with the original's.

    Args:
        graphs: their descriptions, with code.
        model: the original.
        directory: the export.
        tolerance: bounds of logits that count as equal.

    Returns:
        One case for each batch; empty if the graphs don't generate from token ids, or if the model has fewer positions.
    """
    if min(positions_of(model.config), default=TOKENS + _PROMPT) < TOKENS + _PROMPT:
        return []
    loaded = {graph.name: directory.graph(graph.name) for graph in graphs if _takes_tokens(graph)}
    encoder, decoder = (next((g for g in graphs if g.name in names), None) for names in (_ENCODERS, _DECODERS))
    if decoder is None or decoder.name not in loaded or len(graphs) > 1 + (encoder is not None):
        return []
    if encoder is not None:
        loaded[encoder.name] = directory.graph(encoder.name)
    if any(isinstance(spec.axes[0], int) for graph in loaded.values() for spec in graph.inputs.values() if spec.axes):
        return []  # the batch is fixed
    cases = []
    for name, batch in ((f"{TOKENS} tokens", 1), (f"{TOKENS} tokens, padded batch", 2)):
        prompt = _prompt(encoder or decoder, batch)
        if encoder is None and len(prompt["input_ids"]) != batch:
            return []  # a sequence for each codebook
        encoder_graph = None if encoder is None else loaded[encoder.name]
        generated = _generate(Decoder(loaded[decoder.name]), encoder_graph, prompt, model)
        problem = _difference(generated, prompt, model, encoder is not None, tolerance)
        shape = (batch, TOKENS)
        output = OutputDifference("tokens", "int64", shape, None if problem else 0.0, None, not problem, problem)
        cases.append(Case(decoder.name, name, {"batch_size": batch}, (output,)))
    return cases


_ENCODERS, _DECODERS = ("encoder_model",), ("model", "decoder_model_merged")


def _takes_tokens(graph: GraphDescription) -> bool:
    names = {spec.name for spec in graph.inputs if not is_cached(spec.name)}
    if any(spec.name == "input_ids" and len(spec.axes) != _RANK for spec in graph.inputs):
        return False  # several codes for each token
    return len(names) < len(graph.inputs) and "input_ids" in names and names <= _DECODER_INPUTS


@dataclass(frozen=True)
class _Generated:
    """Hold the token ids that a decoder read and chose, [batch, tokens], and their mask."""

    tokens: NDArray[Any]
    mask: NDArray[Any]


def _prompt(graph: GraphDescription, batch: int) -> dict[str, NDArray[Any]]:
    """Return inputs of the decoder or the encoder; sequences but the first are padded, on the left for a decoder."""
    sizes = {symbol: batch for symbol in graph.sizes if "batch" in symbol}
    if not any(spec.name == "pixel_values" for spec in graph.inputs):  # whose prompt has a placeholder for each feature
        sizes |= {symbol: _PROMPT for symbol in graph.sizes if symbol == "sequence_length"}
    layout = graph.code.examples.at({**graph.sizes, **sizes}, padding=batch > 1)
    inputs = {name: tensor.numpy() for name, tensor in layout.flat.items() if not is_cached(name)}
    if graph.name in _DECODERS:
        mask = np.ones_like(inputs["input_ids"])
        mask[1:, :_PADDING] = 0
        return {"input_ids": inputs["input_ids"], "attention_mask": mask}
    return inputs


def _generate(
    decoder: Decoder, encoder: Graph | None, prompt: Mapping[str, NDArray[Any]], model: PreTrainedModel
) -> _Generated:
    """Generate greedily with the graphs."""
    if encoder is None:
        tokens, mask, fixed = prompt["input_ids"], prompt["attention_mask"], {}
    else:
        batch = len(next(iter(prompt.values())))
        tokens = np.full((batch, 1), _start_token(model), dtype=np.int64)
        mask, fixed = np.ones_like(tokens), encode_for_decoder(encoder, prompt, decoder.graph)
    cache, step = decoder.empty_cache(len(tokens)), tokens
    for _ in range(TOKENS):
        masks = {} if encoder is not None else {"attention_mask": mask}
        step = decoder.step({"input_ids": step, **masks, **fixed}, cache)[:, -1:].argmax(-1)
        tokens = np.concatenate([tokens, step], axis=1)
        mask = np.concatenate([mask, np.ones_like(step)], axis=1)
    return _Generated(tokens, mask)


def _difference(
    generated: _Generated,
    prompt: Mapping[str, NDArray[Any]],
    model: PreTrainedModel,
    from_encoder: bool,
    tolerance: Tolerance,
) -> str:
    """Return the first token that the original wouldn't choose; empty if there is none.

    Models whose code reads a whole sequence in another way than one token after another, such as recurrent ones with
    padding, and ProphetNet, are asked to generate instead.
    """
    try:
        with translating(_UnreadableError):
            logits = _logits(generated, prompt, model, from_encoder)
    except _UnreadableError as error:
        problem = f"the original can't read the tokens: {error}"
    else:
        problem = _first_difference(generated, logits, tolerance)
    if not problem:
        return ""
    try:
        with translating(_UnreadableError):
            expected = _original_tokens(prompt, model)
    except _UnreadableError:
        return problem
    return "" if np.array_equal(expected, generated.tokens) else problem


def _start_token(model: PreTrainedModel) -> int:
    return getattr(model.config, "decoder_start_token_id", None) or 0


class _UnreadableError(Exception):
    """The original raised an exception, of any type."""


def _logits(
    generated: _Generated, prompt: Mapping[str, NDArray[Any]], model: PreTrainedModel, from_encoder: bool
) -> NDArray[Any]:
    """Return the original's logits for the generated tokens, [batch, tokens, vocabulary]."""
    import torch

    inputs: dict[str, NDArray[Any]] = {"input_ids": generated.tokens, "attention_mask": generated.mask}
    parameters = inspect.signature(model.forward).parameters
    if from_encoder:  # BLIP's decoder of captions has the only token ids
        inputs = {**prompt, "decoder_input_ids" if "decoder_input_ids" in parameters else "input_ids": generated.tokens}
    elif "position_ids" in parameters:
        inputs["position_ids"] = position_ids(generated.mask, generated.tokens.shape[1])
    with torch.no_grad():
        result = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, use_cache=False)
    logits: NDArray[Any] = result.logits.float().numpy()[:, -TOKENS - 1 : -1]
    return logits


def _first_difference(generated: _Generated, logits: NDArray[Any], tolerance: Tolerance) -> str:
    chosen = generated.tokens[:, -TOKENS:]
    best, found = logits.max(-1), np.take_along_axis(logits, chosen[..., None], -1)[..., 0]
    bound = tolerance.atol + tolerance.rtol * np.abs(logits).max()
    for row, index in np.argwhere(~(best - found <= bound)):
        return (
            f"token {index} of sequence {row} is {chosen[row, index]}, the original's is "
            f"{logits[row, index].argmax()} (logits {found[row, index]:.6g} and {best[row, index]:.6g})"
        )
    return ""


def _original_tokens(prompt: Mapping[str, NDArray[Any]], model: PreTrainedModel) -> NDArray[Any]:
    """Return the tokens that the original generates greedily, after those of the prompt."""
    import torch
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
        pad_token_id=0,
        decoder_start_token_id=_start_token(model),
    )
    inputs = {name: torch.from_numpy(array) for name, array in prompt.items()}
    tokens: NDArray[Any] = model.generate(**inputs, generation_config=settings).numpy()  # type: ignore[operator]
    return tokens
