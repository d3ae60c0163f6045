"""Use an export as Transformers' model is used: with its own forward's inputs, and to generate."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxport
from onnxport._transformers_api import call_forward
from onnxport.blueprints.describing import describe_model
from onnxport.blueprints.subject import subject_of
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.description.axes import PADDING_MASKS, is_cached
from onnxport.errors import UnsupportedError
from onnxport.options import ExportOptions
from onnxport.runtime.modalities import POSITION_MASK, TOKEN_TYPES, encode
from onnxport.runtime.models import as_arrays
from onnxport.runtime.multimodal import OnnxMultimodal

if TYPE_CHECKING:
    import torch

    from onnxport.description.description import Description, GraphDescription

    Inputs = dict[str, torch.Tensor]

SIZES = {
    **{"batch_size": 2, "sequence_length": 13, "decoder_sequence_length": 5, "encoder_sequence_length": 9},
    **{"image_batch_size": 2, "num_choices": 3, "past_sequence_length + sequence_length": 13},
    **{"prompts": 2, "points": 4, "box_coordinates": 4, "num_masks": 2},
}
"""Label of an axis to the size at which a class is used; a graph with other dynamic axes is at the traced sizes."""
_TOLERANCE = 2e-3
"""Largest difference, relative to the largest expected value, at least 1."""
_PROMPT, _PADDING, _NEW_TOKENS = 9, 3, 24
_PLACEHOLDER = re.compile(r"(image|video|audio|media|speech|sound)\w*token_(id|index)")
_TEXT = (5, 40)
"""Range of the ids of random tokens: neither special tokens nor placeholders."""


@dataclass(frozen=True)
class Use:
    """How an export was used.

    Attributes:
        problem: how it differs from the model; empty if it doesn't.
        compared: whether its outputs were compared.
        generated: whether the tokens that it generates were.
    """

    problem: str = ""
    compared: bool = True
    generated: bool = False


@dataclass(frozen=True)
class Reference:
    """What a model returns.

    Attributes:
        inputs: random inputs, by name.
        outputs: the model's outputs that are tensors, by name.
    """

    inputs: Inputs
    outputs: Inputs


def refer(model: Any, checkpoint: Path, loaded: Any, manifest: Mapping[str, Any]) -> Reference | None:
    """Run a model on random inputs; return None if it refuses them, or returns other numbers each time.

    Args:
        model: as Transformers loads it.
        checkpoint: its directory.
        loaded: the export, as `onnxport.load` loads it.
        manifest: content of `onnxport.json`.

    Raises:
        UnsupportedError: `onnxport.load` can't run the graphs together.
    """
    import torch

    inputs = _inputs(model, checkpoint, loaded, manifest)
    if inputs is None:
        return None
    try:
        with torch.no_grad():
            expected, again = call_forward(model, inputs), call_forward(model, inputs)
    except Exception:  # random inputs that the model refuses, such as boxes beyond the page
        return None
    outputs = {name: value for name, value in expected.items() if isinstance(value, torch.Tensor)}
    for name, value in outputs.items():  # the model masks, samples or draws lengths at random
        if value.shape != again[name].shape or not value.allclose(again[name], 0, 0, equal_nan=True):
            return None
    return Reference(inputs, outputs)


def use(model: Any, checkpoint: Path, output: Path, manifest: Mapping[str, Any]) -> Use:
    """Call a loaded export as the model, and generate with both.

    Args:
        model: as Transformers loads it.
        checkpoint: its directory.
        output: directory of the export.
        manifest: content of `onnxport.json`.
    """
    import torch

    loaded = onnxport.load(output)
    try:
        reference = refer(model, checkpoint, loaded, manifest)
    except UnsupportedError as error:  # graphs that `onnxport.load` can't run together
        return Use(str(error))
    if reference is None:
        return Use(compared=False)
    inputs, expected = reference.inputs, reference.outputs
    try:
        found = loaded(**inputs)
    except Exception as error:  # what a user would see
        return Use(f"{type(error).__name__}: {' '.join(str(error).split())}")
    mask = inputs.get("attention_mask")
    for name in (name for name in expected if name in found):
        wanted, actual = expected[name].float(), found[name].float()
        if actual.ndim > 1 and loaded.can_generate():
            actual = actual[:, -wanted.shape[1] :]  # an image before the prompt
        if actual.shape != wanted.shape:
            return Use(f"{name} has the shape {list(actual.shape)} instead of {list(wanted.shape)}")
        if loaded.can_generate() and mask is not None and mask.shape == wanted.shape[:2]:
            actual, wanted = actual[mask == 1], wanted[mask == 1]  # what padding computes depends on the mask
        largest = wanted[wanted.isfinite()].abs().max() if wanted.isfinite().any() else 1
        if not torch.allclose(actual, wanted, rtol=0, atol=_TOLERANCE * max(1, float(largest)), equal_nan=True):
            return Use(f"{name} differs by {float((actual - wanted).abs().max()):.3g}")
    return _generated(model, loaded, inputs)


def _generated(model: Any, loaded: Any, inputs: Inputs) -> Use:
    """Compare generated tokens, if both generate."""
    import torch

    if not (loaded.can_generate() and model.can_generate()):
        return Use()
    given = {name: value for name, value in inputs.items() if name != "decoder_input_ids"}
    settings = {
        **{"max_new_tokens": _NEW_TOKENS, "min_new_tokens": _NEW_TOKENS, "do_sample": False},
        "suppress_tokens": sorted(_placeholders(model.config.to_dict())) or None,
    }
    try:
        with torch.no_grad():
            expected = model.generate(**given, **settings)
    except Exception:  # some models generate with methods or inputs of their own
        return Use()
    try:
        found = loaded.generate(**given, **settings)
    except Exception as error:  # what a user would see
        return Use(f"generate: {type(error).__name__}: {' '.join(str(error).split())}")
    if torch.equal(expected, found) or _would_continue(model, given, found):
        return Use(generated=True)
    return Use(f"generates {found[:, -_NEW_TOKENS:].tolist()}, not {expected[:, -_NEW_TOKENS:].tolist()}")


def _placeholders(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield the ids of the tokens that images, videos and sounds replace; a trained model doesn't generate them."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _placeholders(value)
        elif isinstance(value, int) and _PLACEHOLDER.fullmatch(str(name)):
            yield value


def _would_continue(model: Any, given: Inputs, tokens: torch.Tensor) -> bool:
    """Return whether a decoder that reads all tokens at once chooses them: `generate` of RWKV 5.23 drops its state."""
    import torch

    if given.keys() != {"input_ids", "attention_mask"} or model.config.is_encoder_decoder:
        return False
    mask = torch.nn.functional.pad(given["attention_mask"], (0, _NEW_TOKENS), value=1)
    with torch.no_grad():
        chosen = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.argmax(dim=-1)
    return torch.equal(chosen[:, -_NEW_TOKENS - 1 : -1], tokens[:, -_NEW_TOKENS:])


def _inputs(model: Any, checkpoint: Path, loaded: Any, manifest: Mapping[str, Any]) -> Inputs | None:
    """Return random inputs: of other sizes than the traced ones, if those of all axes are known."""
    import torch

    if isinstance(loaded, OnnxMultimodal):
        return _multimodal_inputs(model, loaded, describe_checkpoint(model, checkpoint))
    if loaded.can_generate():
        return _generation_inputs(model, describe_checkpoint(model, checkpoint).graphs[0])
    if len(manifest["components"]) > 1:
        return None
    random = _random_inputs(manifest)
    if random is not None:
        return random
    graph = describe_checkpoint(model, checkpoint).graphs[0]
    return _randomized(graph, graph.sizes, torch.Generator().manual_seed(1))


def describe_checkpoint(model: Any, checkpoint: Path) -> Description:
    """Describe a model with the task and the preprocessor of its checkpoint.

    Args:
        model: as Transformers loads it. A copy is run: DonutSwin keeps the window of the smallest image that it saw.
        checkpoint: its directory.
    """
    options = ExportOptions()
    return describe_model(
        copy.deepcopy(model), subject_of(open_checkpoint(checkpoint, options.checkpoint), options), options.graph
    )


def _random_inputs(manifest: Mapping[str, Any]) -> Inputs | None:
    """Return inputs of a single graph without past; None if the size of an axis is unknown."""
    import torch

    generator, inputs = torch.Generator().manual_seed(1), {}
    for tensor in manifest["components"][0]["inputs"]:
        if is_cached(tensor["name"]) or any(axis not in SIZES for axis in tensor["axes"] if isinstance(axis, str)):
            return None
        shape = [axis if isinstance(axis, int) else SIZES[axis] for axis in tensor["axes"]]
        inputs[tensor["name"]] = _values(tensor["name"], tensor["dtype"], shape, generator)
    if "p_mask" in inputs and "attention_mask" in inputs:  # else padding of equal scores is among the answers
        inputs["p_mask"] = (1 - inputs["attention_mask"]).to(inputs["p_mask"].dtype)
    return inputs


def _values(name: str, dtype: str, shape: list[int], generator: torch.Generator) -> torch.Tensor:
    import torch

    if name in PADDING_MASKS:
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    if name.endswith("mask"):
        mask = torch.ones(shape, dtype=getattr(torch, dtype))
        if len(shape) > 1:
            mask[1:, ..., -2:] = 0
        return mask
    if dtype == "int64" and name == "position_ids":
        return torch.arange(shape[-1]).expand(shape).clone()
    if name == "bbox" and dtype == "int64":
        return torch.randint(0, 20, shape, generator=generator).sort(dim=-1).values
    if dtype == "int64":
        return torch.randint(0, 20 if name.endswith("input_ids") else 2, shape, generator=generator)
    return torch.randn(shape, generator=generator) if dtype.startswith("float") else torch.ones(shape) == 1


def _generation_inputs(model: Any, graph: GraphDescription) -> Inputs | None:
    """Return the inputs of a decoder or of an encoder, the second sequence of the batch with padding."""
    import torch

    generator = torch.Generator().manual_seed(1)
    inputs = _randomized(graph, graph.sizes, generator)
    if "input_ids" in inputs:
        batch, shape = inputs["input_ids"].shape[0], inputs["input_ids"].shape
        others = inputs.keys() - {"input_ids", "attention_mask", "position_ids"}
        if any(inputs[name].shape != shape or inputs[name].is_floating_point() for name in others):
            return None  # others depend on the tokens
        samples = len(inputs.get("attention_mask", inputs["input_ids"]))  # fewer than sequences, if each has codebooks
        mask = torch.ones(samples, _PROMPT, dtype=torch.int64)
        mask[1:, :_PADDING] = 0
        if model.config.is_encoder_decoder:
            mask = mask.flip(-1)
        tokens = torch.randint(*_TEXT, (batch, _PROMPT), generator=generator)
        padding = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
        if samples == batch:
            tokens = torch.where(mask == 1, tokens, padding or 0)
        inputs = {"input_ids": tokens, "attention_mask": mask}
        inputs |= {name: torch.randint(0, 2, tokens.shape, generator=generator) for name in sorted(others)}
    known = inspect.signature(type(model).forward).parameters
    if model.config.is_encoder_decoder and "decoder_input_ids" in known:
        batch = len(next(iter(inputs.values())))
        inputs["decoder_input_ids"] = torch.randint(*_TEXT, (batch, _PADDING), generator=generator)
    return {name: value for name, value in inputs.items() if name in known}


def _multimodal_inputs(model: Any, loaded: OnnxMultimodal, description: Description) -> Inputs | None:
    """Return an image or a sound and a prompt with a placeholder token for each of its embeddings."""
    import torch

    generator, graph = torch.Generator().manual_seed(1), description.graphs[0]
    encoded = _randomized(graph, {**graph.sizes, "batch_size": 1}, generator)
    marks = {POSITION_MASK: torch.ones(1)}  # of models without a placeholder token
    features = encode(loaded.directory, loaded._modalities[:1], as_arrays({**encoded, **marks}))[0]
    modality, count = features.modality, len(features.embeddings)
    token = 3 if modality.placeholder_token_id is None else modality.placeholder_token_id
    tokens = torch.randint(*_TEXT, (1, _PROMPT), generator=generator)
    start = getattr(model.config, "vision_start_token_id", None)
    if start is not None:  # transformers.js counts the positions of Qwen's images from it
        tokens[:, 2] = start
    if modality.merge == "replace":
        tokens = torch.cat([tokens[:, :3], torch.full((1, count), token), tokens[:, 3:]], dim=1)
    types = (tokens == token).long()
    inputs = {"attention_mask": torch.ones_like(tokens), **encoded, "input_ids": tokens}  # some encoders take a prompt
    inputs |= dict.fromkeys((*TOKEN_TYPES, "mm_token_type_ids"), types)
    if modality.placeholder_token_id is None:
        inputs[POSITION_MASK] = types
    if loaded.directory.graph(modality.component).inputs[modality.input].axes[0] == 1:  # an image without padding
        inputs["image_sizes"] = torch.tensor([encoded[modality.input].shape[-2:]])
    if "aspect_ratio_mask" in encoded:  # without the mask, Mllama's cross-attention is causal with SDPA only
        inputs["cross_attention_mask"] = encoded["aspect_ratio_mask"][:, None].expand(-1, tokens.shape[1], -1, -1)
    known = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


def _randomized(graph: GraphDescription, sizes: Mapping[str, int], generator: torch.Generator) -> Inputs:
    """Return the dummy inputs of a graph without its cache, samples and hidden states with random values."""
    import torch

    found = graph.code.layout(sizes).flat
    inputs = {name: value for name, value in found.items() if not is_cached(name)}
    return {
        name: torch.randn(value.shape, generator=generator)
        if value.is_floating_point() and name not in _POSITIONS and not name.endswith("mask")
        else value
        for name, value in inputs.items()
    }


_POSITIONS = ("flattened_patches",)
"""Floating-point inputs with indices among their values."""
