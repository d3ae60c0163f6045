"""Describe the graphs of models that take images of any size as packed patches and grids (`grid_thw`).

Transformers computes the position of each patch with Python loops over the grids. Here it is arithmetic on patch
indices, and attention within frames and windows is attention with a mask, so that one graph serves all grids.
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


_SIZES = ((4, 6), (6, 4))
"""Heights and widths of dummy images, in merged patches: larger than one window, with equal numbers of patches."""
_GRIDS = ("image_grid_thw", "target_sizes", "image_grid_hw")
"""Parameter names of a multimodal model for the grids; with the second, patches are one image."""
_FRAMELESS = _GRIDS[1:]
"""Those of grids without frames, [images, 2]."""
_VECTOR, _IMAGE, _BLOCK, _SAMPLE = "vector", "image", "block", "sample"
_PATCH_FORMATS = (_VECTOR, _IMAGE, _BLOCK, _SAMPLE)
"""Formats of a patch: a vector of its values, an image, an image of a block of patches, channels last, or an image in
a sample of all patches."""
_ENCODER_GRIDS = ("grid_thw", *_GRIDS)
_ALONE = _ENCODER_GRIDS[:-1]
"""Those of encoders that are exported alone: RADIO also takes images of one size, without grids."""


def takes_packed_patches(model: PreTrainedModel) -> bool:
    """Return whether a multimodal model takes images as packed patches and grids."""
    return _model_grid_name(model) is not None


def _model_grid_name(model: PreTrainedModel) -> str | None:
    """Return the grid parameter of `get_image_features`, in the model or, behind a head's **kwargs, its base model."""
    methods = (getattr(module, "get_image_features", None) for module in (model, model.base_model))
    return next((grid for method in methods if method and (grid := _grid_name_of(method, _GRIDS))), None)


def is_packed_patch_model(model: PreTrainedModel) -> bool:
    """Return whether a model is a vision encoder that takes packed patches and grids."""
    return _takes_grids(model, _ALONE)


def _takes_grids(module: Any, names: tuple[str, ...]) -> bool:
    """Return whether a module is a vision encoder with a parameter of one of these names."""
    forward = type(module).forward
    return "input_ids" not in inspect.signature(forward).parameters and _grid_name_of(forward, names) is not None


def _grid_name_of(method: Any, names: tuple[str, ...]) -> str | None:
    """Return the first of the names that is a parameter of a method; None if none is."""
    known = inspect.signature(method).parameters
    return next((name for name in names if name in known), None)


def has_deepstack(config: PreTrainedConfig) -> bool:
    """Return whether a model has DeepStack: hidden states of encoder layers are added in the decoder's first layers."""
    return bool(getattr(config.vision_config, "deepstack_visual_indexes", None))


def uses_mrope(config: PreTrainedConfig) -> bool:
    """Return whether a decoder has multimodal RoPE: three positions per token, in time, height and width."""
    rope = getattr(text_config_of(config), "rope_parameters", None) or {}
    return any("mrope_section" in entry for entry in (rope, *rope.values()) if isinstance(entry, dict))


class PackedPatchEncoderOnnxConfig(OnnxConfig):
    """Describe a vision encoder that takes packed patches.

    The memory of its attention mask grows with the square of the number of patches.

    Args:
        model: the multimodal model; its encoder is run once.
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
        """Grids, [images, 3] (frames, rows and columns of patches), and packed patches, [patches, values per patch]."""
        return {self._grid_name: {0: "batch"}, self._patches_name: {self._patch_axis: "batch"}}

    @property
    def _patch_axis(self) -> int:
        return 3 if self._grid_name == _GRIDS[1] else int(self._patch_format == _SAMPLE)

    def _input_names(self, model: PreTrainedModel) -> tuple[str, str]:
        """Return the model's parameter names for grids and patches."""
        return _model_grid_name(model) or "", "pixel_values"

    @property
    def outputs(self) -> Axes:
        """The features of all images, concatenated, [features, hidden_size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images, in landscape and portrait format."""
        grids, patches = self._make_images(batch_size)
        return {self._grid_name: grids, self._patches_name: patches}

    def _make_images(self, batch_size: int) -> tuple[Any, Any]:
        """Make grids and patches."""
        import torch

        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = 1 if self._patch_format == _BLOCK else _merge_size(self._encoder.config) * _merge_size(self._config)
        grids = [(1, high * side, wide * side) for high, wide in (_SIZES[i % len(_SIZES)] for i in range(count))]
        patches = sum(high * wide for _, high, wide in grids)
        shape = _patch_shape_of(self._encoder, self._patch_format)
        sizes = torch.tensor(grids)[:, int(self._grid_name in _FRAMELESS) :]
        if self._grid_name == _GRIDS[1]:
            return sizes, torch.zeros(1, *shape[:-1], patches * shape[-1])
        batch = (1,) if self._patch_format == _SAMPLE else ()
        return sizes, torch.zeros(*batch, patches, *shape)

    def _inspect_forward(self, model: PreTrainedModel) -> dict[str, Any]:
        """Run the model with each format of patches until one is accepted; return its outputs.

        Raises:
            UnsupportedError: the model accepts no format.
        """
        import torch
        from torch._subclasses.fake_tensor import DynamicOutputShapeException

        formats = _PATCH_FORMATS if self._grid_name != _GRIDS[1] else (_IMAGE,)
        for self._patch_format in formats:
            try:
                with torch.no_grad():
                    return dict(self.run(model, move(self.generate_dummy_inputs(None), model)))
            except DynamicOutputShapeException:  # the model selects features by their positions (RADIO)
                return {"image_features": None}
            except (RuntimeError, TypeError, ValueError) as error:
                failure = error
        raise missing_inputs(
            model, f"{self._patches_name} and {self._grid_name} to encode images", failure
        ) from failure

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; during tracing, with replacements of its loops over images."""
        import torch

        if not torch.compiler.is_exporting():
            return self._named_outputs(self._encode(forward, arguments))
        sizes = self._grids_and_patch_count(arguments)
        repeats = repeats_as_lookups(*sizes) if self._patch_format == _BLOCK else nullcontext()
        with self._tracing.replaced(*sizes), repeats:
            return self._named_outputs(self._encode(forward, arguments))

    def _grids_and_patch_count(self, arguments: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the grids, [images, 3], and the number of patches."""
        import torch

        grids, patches = arguments[self._grid_name], arguments[self._patches_name]
        if self._patch_format == _BLOCK:
            side = _merge_size(self._encoder.config)
            return grids * grids.new_tensor([1, side, side]), patches.shape[0] * side**2
        if self._grid_name in _FRAMELESS:
            grids = torch.nn.functional.pad(grids, (1, 0), value=1)
        is_image = self._grid_name == _GRIDS[1]
        return grids, patches.shape[3] // patches.shape[2] if is_image else patches.shape[self._patch_axis]

    def _encode(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the output of `get_image_features`."""
        model, inputs = model_of(forward), dict(arguments)
        if "merge_sizes" in inspect.signature(type(self._encoder).forward).parameters:  # only videos are downsampled
            inputs["image_merge_sizes"] = inputs[self._grid_name].new_ones(inputs[self._grid_name].shape[0])
        return method_of(model, "get_image_features")(**inputs, return_dict=True)

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        """Return the outputs by name."""
        return {"image_features": _concatenated(outputs.pooler_output)}


class PackedPatchModelOnnxConfig(PackedPatchEncoderOnnxConfig):
    """Describe a vision encoder that takes packed patches and is exported on its own.

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
        return _grid_name_of(forward, _ENCODER_GRIDS) or "", patches

    @property
    def inputs(self) -> Axes:
        """Grids and patches, by the encoder's parameter names."""
        merge_sizes: Axes = {"merge_sizes": {0: "batch"}} if self._takes_merge_sizes else {}
        return {**merge_sizes, **super().inputs}

    @property
    def outputs(self) -> Axes:
        """All outputs of the encoder; those of all images are concatenated."""
        return self._outputs

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images, in landscape and portrait format."""
        inputs = dict(super().generate_dummy_inputs(preprocessor, batch_size))
        grids = inputs[self._grid_name]
        return {**({"merge_sizes": grids.new_ones(len(grids))} if self._takes_merge_sizes else {}), **inputs}

    def _encode(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        return forward(**arguments, return_dict=True)

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        import torch

        lists = {name: list(value) for name, value in outputs.items() if name == "deepstack_features"}
        items = {f"{name}.{index}": tensor for name, tensors in lists.items() for index, tensor in enumerate(tensors)}
        return {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)} | items


class DeepstackPatchEncoderOnnxConfig(PackedPatchEncoderOnnxConfig):
    """Describe the encoder of Qwen3-VL, which also returns features of some layers (DeepStack)."""

    @property
    def outputs(self) -> Axes:
        """The features, and those of `deepstack_visual_indexes`, [DeepStack layers, features, hidden_size]."""
        return {**super().outputs, "deepstack_features": {}}

    def _named_outputs(self, outputs: Any) -> dict[str, Any]:
        import torch

        stacked = torch.stack([_concatenated(features) for features in outputs.deepstack_features])
        return {**super()._named_outputs(outputs), "deepstack_features": stacked}


class MropeDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder with multimodal RoPE: three positions per token, in time, height and width."""

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """The decoder's inputs, with `position_ids` of shape [3, batch, sequence]."""
        return {**super().inputs, "position_ids": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make the decoder's inputs; positions in time, height and width differ."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        batch, length = inputs["inputs_embeds"].shape[:2]
        positions = inputs.get("position_ids", torch.arange(length).expand(batch, length))
        inputs["position_ids"] = torch.stack([positions + offset for offset in range(3)])
        return inputs


class DeepstackMropeDecoderOnnxConfig(DeepstackDecoderOnnxConfig, MropeDecoderOnnxConfig):
    """Describe the decoder of Qwen3-VL, whose first layers add image features (DeepStack)."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        return range(len(self._config.vision_config.deepstack_visual_indexes))

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder, which adds image features at positions selected by a mask; here it adds them at all."""
        language_model = model_of(forward).base_model.language_model
        inputs = dict(arguments)
        deepstack_embeds = inputs.pop("deepstack_embeds")

        def add_argument(_: Any, positional: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return positional, {**named, "deepstack_visual_embeds": list(deepstack_embeds)}

        handle = language_model.register_forward_pre_hook(add_argument, with_kwargs=True)
        language_model._deepstack_process = lambda hidden_states, _, features: hidden_states + features
        try:
            return super().run(forward, inputs)
        finally:
            handle.remove()
            del language_model._deepstack_process


def _concatenated(features: Any) -> Any:
    """Return the features of all images, [features, hidden_size]; a multimodal model returns them split by image."""
    import torch

    return features if isinstance(features, torch.Tensor) else torch.cat(tuple(features))


def _vision_encoder_of(model: PreTrainedModel) -> Any:
    """Return the submodule that takes packed patches and grids."""
    return next(one for one in model.modules() if _takes_grids(one, _ENCODER_GRIDS) and hasattr(one, "config"))


def _merge_size(config: PreTrainedConfig) -> int:
    """Return the number of patches, per side, that are merged into one feature by an encoder or a projector."""
    kernels = [getattr(config, name, None) for name in ("merge_kernel_size", "window_kernel_size")]
    sides = [kernel[0] for kernel in kernels if kernel]
    sides += [getattr(config, name, None) or 1 for name in ("spatial_merge_size", "merge_size")]
    sides.append(round(1 / (getattr(config, "downsample_ratio", None) or 1)))
    return int(max(sides) ** (getattr(config, "merger_times", None) or 1))


def _patch_shape_of(encoder: Any, patch_format: str) -> tuple[int, ...]:
    """Return the shape of a patch."""
    if patch_format == _BLOCK:
        side, channels = (getattr(encoder.config, name, 1) for name in ("patch_size", "num_channels"))
        return side * _merge_size(encoder.config), side * _merge_size(encoder.config), channels
    embeds = (module for name, module in encoder.named_modules() if "patch" in name or "embed" in name)
    projections = (module for module in embeds if hasattr(module, "in_features") or hasattr(module, "in_channels"))
    shape = next(tuple(module.weight.shape[1:]) for module in projections if hasattr(module, "weight"))
    return (math.prod(shape),) if patch_format == _VECTOR else shape
