"""Describe an encoder that takes images as patches, for checkpoints whose preprocessor makes none.

A patch is a vector of its values, or a small image of some frames; a model may also require position ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description._packed_patch_tracing import unsplit_features
from onnxport.description.multimodal import ModalityEncoderOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_PATCH_COUNT = 20
"""Number of patches of a dummy image: a square, and some padding."""


class ImagePatchesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an encoder of patches.

    Args:
        model: the multimodal model; its encoder is run once.
        component: `vision_encoder`.
        preprocessor: the checkpoint's preprocessor, which isn't used.

    Raises:
        UnsupportedError: there are no dummies of some required inputs.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        self._patch_shape = _patch_shape_of(model)
        vision = getattr(model.config, "vision_config", None)
        self._count = getattr(vision, "num_position_embeddings", None)
        super().__init__(model, component, preprocessor)

    @property
    def _image_axes(self) -> Mapping[int, str]:
        is_dynamic = len(self._patch_shape) == 1 and self._count is None
        return {0: "batch", 1: "patches"} if is_dynamic else {0: "batch"}

    def _preprocessed(self, preprocessor: Any, batch_size: int = -1, **sizes: Any) -> dict[str, Any]:
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        count = (self._count or _PATCH_COUNT,) if len(self._patch_shape) == 1 else ()
        return {self._input: torch.zeros(batch, *count, *self._patch_shape)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; during tracing, the features of all images stay in one tensor."""
        import torch

        if not torch.compiler.is_exporting():
            return super().run(forward, arguments)
        with unsplit_features():
            return super().run(forward, arguments)

    @staticmethod
    def fits(model: PreTrainedModel, component: str) -> bool:
        """Return whether a model may take images as patches."""
        return component == "vision_encoder" and bool(_patch_shape_of(model))


def _patch_shape_of(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the shape of a patch; empty if no module of the model projects patches."""
    vision = getattr(model.config, "vision_config", None)
    sizes = (getattr(vision, f"{name}_size", None) for name in ("temporal_patch", "patch", "patch"))
    embeds = (m for name, m in model.named_modules() if "vision" in name and ("patch" in name or "embed" in name))
    size = next((module.in_features for module in embeds if hasattr(module, "in_features")), None)
    if size is not None:
        return (int(size),)
    shape = (*sizes, getattr(vision, "num_channels", None))
    return tuple(int(size) for size in shape) if all(shape) else ()  # type: ignore[arg-type]
