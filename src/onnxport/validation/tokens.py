"""Compare the tokens that an export generates with those of the original: greedy, in a left-padded batch and alone.

The graphs generate step by step from their own cache. The original then reads the whole sequence at once: the most
probable token after each of its tokens is the one that the graphs have chosen, or has the same logit within the
tolerance.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.description.axes import is_cached
from onnxport.description.description import GraphDescription
from onnxport.description.image_processing import IMAGES, PIXEL_VALUES
from onnxport.description.lengths import positions_of
from onnxport.description.raw_images import Preprocess
from onnxport.description.tolerances import Tolerance
from onnxport.errors import OnnxportError
from onnxport.runtime.decoder import Decoder, position_ids
from onnxport.runtime.graph import to_array
from onnxport.runtime.light import encode_for_decoder
from onnxport.runtime.token_embedding import EMBEDDING, EMBEDS
from onnxport.validation.report import Case, OutputDifference

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from onnxport.runtime.directory import Directory
    from onnxport.runtime.graph import Graph

TOKENS = 32
"""Number of generated tokens."""
_BATCH, _PROMPT, _PADDING = 2, 8, 3
_NO_TOKEN = 2**31 - 1
"""Id that no vocabulary has: the graphs generate beyond the end of a text, too."""
_RANK = 2
_LOGITS = "logits"
_DECODER_INPUTS = {
    "input_ids",
    EMBEDS,
    "attention_mask",
    "position_ids",
    "encoder_hidden_states",
    "encoder_attention_mask",
}


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
    groups = (_ENCODERS, _DECODERS, (EMBEDDING,))
    encoder, decoder, embedding = (next((g for g in graphs if g.name in group), None) for group in groups)
    others = [graph for graph in (encoder, embedding) if graph is not None]
    if decoder is None or not _takes_tokens(decoder) or len(graphs) > 1 + len(others):
        return []
    loaded = {graph.name: directory.graph(graph.name) for graph in (decoder, *others)}
    if _LOGITS not in loaded[decoder.name].outputs:  # a model without a head
        return []
    specs = [spec for graph in loaded.values() for spec in graph.inputs.values()]
    if _fixes_length(decoder) or any(isinstance(spec.axes[0], int) for spec in specs if spec.axes):
        return []  # the batch or the number of tokens is fixed
    first_graph = encoder or embedding or decoder
    prompt = _prompt(first_graph)
    if encoder is None and len(prompt["input_ids"]) != _BATCH:
        return []  # a sequence for each codebook
    run = _Run(
        Decoder(loaded[decoder.name], directory.manifest.reread_length),
        None if encoder is None else loaded[encoder.name],
        model,
        tolerance,
        loaded[EMBEDDING] if encoder is None and embedding is not None else None,
        getattr(first_graph.code.config, "preprocess", None),
    )
    padded = _generate(run, prompt)
    problem = _difference(run, padded, prompt)
    first = {name: array[:1] for name, array in prompt.items()}
    alone = problem if _chooses_alone(run, padded, first) else _difference(run, _generate(run, first), first)
    names = {f"{TOKENS} tokens": (1, alone), f"{TOKENS} tokens, padded batch": (_BATCH, problem)}
    return [
        Case(decoder.name, name, {"batch_size": batch}, (tokens_output((batch, TOKENS), problem),))
        for name, (batch, problem) in names.items()
    ]


def tokens_output(shape: tuple[int, ...], problem: str) -> OutputDifference:
    """Return the comparison of generated tokens.

    Args:
        shape: shape of the export's tokens.
        problem: the difference; empty if there is none.
    """
    return OutputDifference("tokens", "int64", shape, None if problem else 0.0, None, not problem, problem)


def _fixes_length(decoder: GraphDescription) -> bool:
    """Return whether the export fixes the number of a decoder's tokens or of its cached ones."""
    return any("sequence" in symbol and symbol != "encoder_sequence_length" for symbol in decoder.fixed_sizes)


_ENCODERS, _DECODERS = ("encoder_model",), ("model", "decoder_model_merged")


def _takes_tokens(graph: GraphDescription) -> bool:
    names = {spec.name for spec in graph.inputs if not is_cached(spec.name)}
    if any(spec.name == "input_ids" and len(spec.axes) != _RANK for spec in graph.inputs):
        return False  # several codes for each token
    takes_tokens = not names.isdisjoint(("input_ids", EMBEDS))
    return len(names) < len(graph.inputs) and takes_tokens and names <= _DECODER_INPUTS


@dataclass(frozen=True)
class _Generated:
    """Hold the token ids that a decoder read and chose, [batch, tokens], and their mask."""

    tokens: NDArray[Any]
    mask: NDArray[Any]


def _prompt(graph: GraphDescription) -> dict[str, NDArray[Any]]:
    """Return inputs of the encoder, or of the decoder or its token embeddings.

    Sequences but the first are padded, on the left for a decoder.
    """
    sizes: dict[str, int] = {symbol: _BATCH for symbol in graph.sizes if "batch" in symbol}
    if not any(spec.name == "pixel_values" for spec in graph.inputs):  # whose prompt has a placeholder for each feature
        sizes |= {symbol: _PROMPT for symbol in graph.sizes if symbol == "sequence_length"}
    sizes |= graph.fixed_sizes
    layout = graph.code.examples.at({**graph.sizes, **sizes}, padding=True)
    inputs = {name: tensor.numpy() for name, tensor in layout.flat.items() if not is_cached(name)}
    if graph.name not in _ENCODERS:
        mask = np.ones_like(inputs["input_ids"])
        mask[1:, :_PADDING] = 0
        return {"input_ids": inputs["input_ids"], "attention_mask": mask}
    return inputs


@dataclass(frozen=True)
class _Run:
    """Hold the graphs that generate, and the original.

    Attributes:
        decoder: the decoder.
        encoder: the encoder of an encoder-decoder.
        model: the original.
        tolerance: bounds of logits that count as equal.
        embedding: the token embeddings of a decoder that takes `inputs_embeds`.
        preprocess: makes the original's pixel values of images, of an encoder that does so in its graph.
    """

    decoder: Decoder
    encoder: Graph | None
    model: PreTrainedModel
    tolerance: Tolerance
    embedding: Graph | None = None
    preprocess: Preprocess | None = None

    def of_original(self, prompt: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return a prompt as the original takes it."""
        if self.preprocess is None:
            return dict(prompt)
        others = {name: array for name, array in prompt.items() if name != IMAGES}
        return {PIXEL_VALUES: self.preprocess(prompt[IMAGES]), **others}

    def tokens(self, token_ids: NDArray[Any]) -> dict[str, Any]:
        """Return token ids as the input of the decoder that it takes."""
        inputs = {"input_ids": token_ids}
        return inputs if self.embedding is None else {EMBEDS: to_array(self.embedding.run(inputs)[EMBEDS])}


def _chooses_alone(run: _Run, padded: _Generated, prompt: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether the first sequence of a batch, which has no padding, gets the same tokens in a batch of its own.

    The decoder reads its tokens in two steps, the prompt and the tokens that were generated.
    """
    tokens, count = padded.tokens[:1], padded.tokens.shape[1] - TOKENS
    fixed = {} if run.encoder is None else encode_for_decoder(run.encoder, prompt, run.decoder.graph)
    cache, logits = run.decoder.empty_cache(1), []
    for start, end in ((0, count), (count, count + TOKENS - 1)):
        masks = {"attention_mask": np.ones_like(tokens[:, :end])} if run.encoder is None else {}
        try:
            logits.append(run.decoder.step({**run.tokens(tokens[:, start:end]), **masks, **fixed}, cache))
        except OnnxportError:  # of a graph for one token at a time
            return False
    chosen = np.concatenate([logits[0][:, -1:], logits[1]], axis=1).argmax(-1)
    return np.array_equal(chosen, tokens[:, -TOKENS:])


def _generate(run: _Run, prompt: Mapping[str, NDArray[Any]]) -> _Generated:
    """Generate greedily with the graphs."""
    decoder, encoder, model = run.decoder, run.encoder, run.model
    if encoder is None:
        tokens, mask, fixed = prompt["input_ids"], prompt["attention_mask"], {}
    else:
        batch = len(next(iter(prompt.values())))
        tokens = np.full((batch, 1), start_token(model), dtype=np.int64)
        mask, fixed = np.ones_like(tokens), encode_for_decoder(encoder, prompt, decoder.graph)
    cache, step = decoder.empty_cache(len(tokens)), tokens
    for _ in range(TOKENS):
        if decoder.is_stale(cache, tokens.shape[1]):
            cache, step = decoder.empty_cache(len(tokens)), tokens
        masks = {} if encoder is not None else {"attention_mask": mask}
        step = decoder.step({**run.tokens(step), **masks, **fixed}, cache)[:, -1:].argmax(-1)
        tokens = np.concatenate([tokens, step], axis=1)
        mask = np.concatenate([mask, np.ones_like(step)], axis=1)
    return _Generated(tokens, mask)


def _difference(run: _Run, generated: _Generated, prompt: Mapping[str, NDArray[Any]]) -> str:
    """Return the first token that the original wouldn't choose; empty if there is none.

    Models whose code reads a whole sequence in another way than one token after another, such as recurrent ones with
    padding, and ProphetNet, are asked to generate instead.
    """
    try:
        with translating(_UnreadableError):
            problem = _first_difference(run, generated, prompt)
    except _UnreadableError as error:
        problem = f"the original can't read the tokens: {error}"
    if not problem:
        return ""
    try:
        with translating(_UnreadableError):
            expected = _original_tokens(run.of_original(prompt), run.model)
    except _UnreadableError:
        return problem
    return "" if np.array_equal(expected, generated.tokens) else problem


def start_token(model: PreTrainedModel) -> int:
    """Return the id of the token with which a decoder begins.

    Args:
        model: the original.
    """
    return getattr(model.config, "decoder_start_token_id", None) or 0


class _UnreadableError(Exception):
    """The original raised an exception, of any type."""


def _inputs(run: _Run, generated: _Generated, prompt: Mapping[str, NDArray[Any]]) -> dict[str, torch.Tensor]:
    """Return the original's inputs with which it reads the generated tokens at once."""
    inputs: dict[str, NDArray[Any]] = {"input_ids": generated.tokens, "attention_mask": generated.mask}
    parameters = inspect.signature(run.model.forward).parameters
    if run.encoder is not None:  # BLIP's decoder of captions has the only token ids
        name = "decoder_input_ids" if "decoder_input_ids" in parameters else "input_ids"
        inputs = {**run.of_original(prompt), name: generated.tokens}
    elif "position_ids" in parameters:
        inputs["position_ids"] = position_ids(generated.mask, generated.tokens.shape[1])
    return _as_tensors(inputs, run.model)


def _logits(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the original's logits for the generated tokens, float32[batch, tokens, vocabulary]."""
    import torch

    with torch.no_grad():
        result = model(**inputs, use_cache=False)
    return {_LOGITS: result.logits.float()[:, -TOKENS - 1 : -1]}


def _as_tensors(inputs: Mapping[str, NDArray[Any]], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return arrays as tensors; images and audio in the model's dtype, which a graph of another casts itself."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def _first_difference(run: _Run, generated: _Generated, prompt: Mapping[str, NDArray[Any]]) -> str:
    """Return the first token whose logit isn't the largest, beyond the tolerance and what rounding changes."""
    from onnxport.validation.own_rounding import allowed_in_any_case

    inputs, read = _inputs(run, generated, prompt), partial(_logits, run.model)
    expected = read(inputs)
    logits, chosen = expected[_LOGITS].numpy(), generated.tokens[:, -TOKENS:]
    best, found = logits.max(-1), np.take_along_axis(logits, chosen[..., None], -1)[..., 0]
    bound = run.tolerance.atol + run.tolerance.rtol * np.abs(logits).max()
    if not (best - found <= bound).all():
        bound = max(bound, allowed_in_any_case(run.model, inputs, read, expected, run.tolerance).get(_LOGITS, 0.0))
    for row, index in np.argwhere(~(best - found <= bound)):
        return (
            f"token {index} of sequence {row} is {chosen[row, index]}, the original's is "
            f"{logits[row, index].argmax()} (logits {found[row, index]:.6g} and {best[row, index]:.6g})"
        )
    return ""


def _original_tokens(prompt: Mapping[str, NDArray[Any]], model: PreTrainedModel) -> NDArray[Any]:
    """Return the tokens that the original generates greedily, after those of the prompt."""
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=TOKENS,
        eos_token_id=_NO_TOKEN,
        do_sample=False,
        pad_token_id=0,
        decoder_start_token_id=start_token(model),
    )
    inputs = _as_tensors(prompt, model)
    tokens: NDArray[Any] = model.generate(**inputs, generation_config=settings).numpy()  # type: ignore[operator]
    return tokens
