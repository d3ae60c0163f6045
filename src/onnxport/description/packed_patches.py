"""Describe the graphs of models whose images are of any size: patches, and grids of their rows and columns.

Transformers finds where each patch stands with Python loops over the grids. Here the same is arithmetic on the
number of each patch, and attention within frames and windows is attention with a mask, so that one graph does for all
grids.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description._packed_patch_tracing import PackedPatchTracing, repeats_as_lookups
from onnxport.description.derived import move
from onnxport.description.multimodal import (
    DeepstackDecoderOnnxConfig,
    EmbedsDecoderOnnxConfig,
    method_of,
    missing_inputs,
)
from onnxport.description.text_configs import text_config_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


_EXAMPLE_SIZES = ((4, 6), (6, 4))
"""Heights and widths of example images, in merged patches: they fill more than one window, and as many patches."""
_GRID_PARAMETERS = ("image_grid_thw", "target_sizes")
"""What a whole model calls the grids; of the second, which has rows and columns only, the patches are one image."""
_VECTOR, _IMAGE, _BLOCK = "row", "image", "block"
_PATCH_FORMATS = (_VECTOR, _IMAGE, _BLOCK)
"""What a patch may be: a row of its values, a small image, or an image of a block of patches, channels last."""
_ENCODER_GRID_PARAMETERS = ("grid_thw", *_GRID_PARAMETERS)


def takes_packed_patches(model: PreTrainedModel) -> bool:
    """Return whether a model takes images beside a prompt as patches and grids."""
    return _grid_parameter_of_model(model) is not None


def _grid_parameter_of_model(model: PreTrainedModel) -> str | None:
    """Return what the method that encodes images calls the grids; a head hands all it is given to the model in it."""
    methods = (getattr(part, "get_image_features", None) for part in (model, model.base_model))
    return next((grid for method in methods if method and (grid := _grid_parameter_of(method, _GRID_PARAMETERS))), None)


def is_packed_patch_model(model: PreTrainedModel) -> bool:
    """Return whether a model is an image encoder alone that takes patches and grids."""
    forward = type(model).forward
    return (
        "input_ids" not in inspect.signature(forward).parameters
        and _grid_parameter_of(forward, _ENCODER_GRID_PARAMETERS) is not None
    )


def _grid_parameter_of(method: Any, names: tuple[str, ...]) -> str | None:
    """Return what a method calls the grids."""
    known = inspect.signature(method).parameters
    return next((name for name in names if name in known), None)


def has_deepstack(config: PreTrainedConfig) -> bool:
    """Say whether states of some of the encoder's layers go into the decoder's first layers."""
    return bool(getattr(config.vision_config, "deepstack_visual_indexes", None))


def uses_mrope(config: PreTrainedConfig) -> bool:
    """Say whether a decoder's tokens have three positions each: in time, in height, in width."""
    rope = getattr(text_config_of(config), "rope_parameters", None) or {}
    return any("mrope_section" in part for part in (rope, *rope.values()) if isinstance(part, dict))


class PackedPatchEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes images that are given as patches.

    The mask takes memory that grows with the square of the patches.

    Args:
        model: the whole model.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model.config, task="default")
        self._tracing = PackedPatchTracing(model)
        self._encoder = _vision_encoder_of(model)
        self._grid_name, self._patches_name = self._input_names(model)
        self._patch_format = _PATCH_FORMATS[0]
        self._inspect_forward(model)

    @property
    def inputs(self) -> Axes:
        """Grids, [images, 3] (frames, rows and columns of patches), and patches, [all patches, values of each]."""
        return {
            self._grid_name: {0: "batch"},
            self._patches_name: {3 if self._grid_name == _GRID_PARAMETERS[1] else 0: "batch"},
        }

    def _input_names(self, model: PreTrainedModel) -> tuple[str, str]:
        """Return what the model calls grids and patches."""
        return _grid_parameter_of_model(model) or "", "pixel_values"

    @property
    def outputs(self) -> Axes:
        """The features of all images, concatenated, [rows, hidden size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images, in portrait and in landscape format."""
        grids, patches = self._make_images(batch_size)
        return {self._grid_name: grids, self._patches_name: patches}

    def _make_images(self, batch_size: int) -> tuple[Any, Any]:
        """Make grids and patches."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = (
            1 if self._patch_format == _BLOCK else _merge_size_of(self._encoder.config) * _merge_size_of(self._config)
        )
        grids = [
            (1, high * side, wide * side)
            for high, wide in (_EXAMPLE_SIZES[i % len(_EXAMPLE_SIZES)] for i in range(count))
        ]
        patches = sum(high * wide for _, high, wide in grids)
        shape = _patch_shape_of(self._encoder, self._patch_format)
        if self._grid_name == _GRID_PARAMETERS[1]:
            return torch.tensor(grids)[:, 1:], torch.zeros(1, *shape[:-1], patches * shape[-1])
        return torch.tensor(grids), torch.zeros(patches, *shape)

    def _inspect_forward(self, model: PreTrainedModel) -> dict[str, Any]:
        """Run the model, to see whether a patch is a row of values, or a small image; return its output.

        Raises:
            UnsupportedError: it takes neither.
        """
        import torch

        forms = _PATCH_FORMATS if self._grid_name != _GRID_PARAMETERS[1] else (_IMAGE,)
        for self._patch_format in forms:
            try:
                with torch.no_grad():
                    return dict(self.run(model, move(self.generate_dummy_inputs(None), model)))
            except (RuntimeError, TypeError, ValueError) as error:
                failure = error
        raise missing_inputs(
            model, f"{self._patches_name} and {self._grid_name} to encode images", failure
        ) from failure

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder: while it is traced, with what it would find by loops."""
        import torch

        if not torch.compiler.is_exporting():
            return self._named_outputs(self._encode(forward, arguments))
        images = self._grids_and_patch_count(arguments)
        repeating = repeats_as_lookups(*images) if self._patch_format == _BLOCK else nullcontext()
        with self._tracing.replaced(*images), repeating:
            return self._named_outputs(self._encode(forward, arguments))

    def _grids_and_patch_count(self, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return grids, and how many patches there are."""
        import torch

        grids, patches = arguments[self._grid_name], arguments[self._patches_name]
        if self._patch_format == _BLOCK:
            side = _merge_size_of(self._encoder.config)
            return grids * grids.new_tensor([1, side, side]), patches.shape[0] * side**2
        if self._grid_name != _GRID_PARAMETERS[1]:
            return grids, patches.shape[0]
        return torch.nn.functional.pad(grids, (1, 0), value=1), patches.shape[3] // patches.shape[2]

    def _encode(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the model's output for images."""
        model, given = model_of(forward), dict(arguments)
        if "merge_sizes" in inspect.signature(type(self._encoder).forward).parameters:  # only videos are shrunk
            given["image_merge_sizes"] = given[self._grid_name].new_ones(given[self._grid_name].shape[0])
        return method_of(model, "get_image_features")(**given, return_dict=True)

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        """Return the outputs by name."""
        return {"image_features": _concatenated(outputs.pooler_output)}


class PackedPatchModelOnnxConfig(PackedPatchEncoderOnnxConfig):
    """Describe an encoder of patches that is a model of its own.

    Args:
        model: the encoder; it is run once.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._takes_merge_sizes = "merge_sizes" in inspect.signature(type(model).forward).parameters
        self._outputs: Axes = {}
        super().__init__(model)
        self._outputs = {name: {} for name in self._inspect_forward(model)}

    def _input_names(self, model: PreTrainedModel) -> tuple[str, str]:
        forward = type(model).forward
        patches = next(name for name in inspect.signature(forward).parameters if name != "self")
        return _grid_parameter_of(forward, _ENCODER_GRID_PARAMETERS) or "", patches

    @property
    def inputs(self) -> Axes:
        """Grids and patches, as the encoder calls them."""
        sides: Axes = {"merge_sizes": {0: "batch"}} if self._takes_merge_sizes else {}
        return {**sides, **super().inputs}

    @property
    def outputs(self) -> Axes:
        """All outputs of the encoder, of all images, concatenated."""
        return self._outputs

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images, in portrait and in landscape format."""
        made = dict(super().generate_dummy_inputs(preprocessor, batch_size))
        grids = made[self._grid_name]
        return {**({"merge_sizes": grids.new_ones(len(grids))} if self._takes_merge_sizes else {}), **made}

    def _encode(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        return forward(**arguments, return_dict=True)

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        import torch

        rows = {name: list(value) for name, value in outputs.items() if name == "deepstack_features"}
        found = {f"{name}.{index}": states for name, row in rows.items() for index, states in enumerate(row)}
        return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)} | found


class DeepstackPatchEncoderOnnxConfig(PackedPatchEncoderOnnxConfig):
    """Describe the encoder of Qwen3-VL: hidden states of some of its layers go into the decoder's first layers."""

    @property
    def outputs(self) -> Axes:
        """The states, and those of the layers whose numbers the configuration lists, [such layers, places, size]."""
        return {**super().outputs, "deepstack_features": {}}

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        import torch

        deep = torch.stack([_concatenated(states) for states in outputs.deepstack_features])
        return {**super()._named_outputs(outputs), "deepstack_features": deep}


class MropeDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder whose tokens have three positions each: in time, in height, in width."""

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """As of any decoder that takes states, but for `position_ids` [3, batch, tokens]."""
        return {**super().inputs, "position_ids": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make states of a text, and positions that differ."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        made["position_ids"] = torch.stack([made["position_ids"] + more for more in range(3)])
        return made


class DeepstackMropeDecoderOnnxConfig(DeepstackDecoderOnnxConfig, MropeDecoderOnnxConfig):
    """Describe the decoder of Qwen3-VL, whose first layers each add features of the images."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        return range(len(self._config.vision_config.deepstack_visual_indexes))

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder, which adds states at places that a mask chooses: here, at all places."""
        text = model_of(forward).model.language_model
        given = dict(arguments)
        deep = given.pop("deepstack_embeds")

        def hand_on(_: Any, taken: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return taken, {**named, "deepstack_visual_embeds": list(deep)}

        handle = text.register_forward_pre_hook(hand_on, with_kwargs=True)
        text._deepstack_process = lambda states, _, more: states + more
        try:
            return super().run(forward, given)
        finally:
            handle.remove()
            del text._deepstack_process


def _concatenated(states: Any) -> Any:
    """Return the features of all images, [rows, hidden size]: the whole model splits them by image."""
    import torch

    return states if isinstance(states, torch.Tensor) else torch.cat(tuple(states))


def _vision_encoder_of(model: PreTrainedModel) -> Any:
    """Return the part of a model that is given patches and grids."""
    return next(module for module in model.modules() if is_packed_patch_model(module) and hasattr(module, "config"))


def _merge_size_of(config: PreTrainedConfig) -> int:
    """Return how many patches, in both directions, become one state in a part of a model."""
    kernels = [getattr(config, name, None) for name in ("merge_kernel_size", "window_kernel_size")]
    sides = [kernel[0] for kernel in kernels if kernel]
    sides += [getattr(config, name, None) or 1 for name in ("spatial_merge_size", "merge_size")]
    return int(max(sides) ** (getattr(config, "merger_times", None) or 1))


def _patch_shape_of(encoder: Any, form: str) -> tuple[int, ...]:
    """Return the shape of a patch."""
    if form == _BLOCK:
        side, channels = (getattr(encoder.config, name, 1) for name in ("patch_size", "num_channels"))
        return side * _merge_size_of(encoder.config), side * _merge_size_of(encoder.config), channels
    embeds = (module for name, module in encoder.named_modules() if "patch" in name or "embed" in name)
    projects = (part for part in embeds if hasattr(part, "in_features") or hasattr(part, "in_channels"))
    shape = next(tuple(part.weight.shape[1:]) for part in projects if hasattr(part, "weight"))
    return (math.prod(shape),) if form == _VECTOR else shape
