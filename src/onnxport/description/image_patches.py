"""Describe what encodes images that come cut into patches, where a checkpoint ships nothing here that cuts them.

A patch is a row of its values, or a small image of some frames; a model may ask where each of them stands.
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
"""Patches of an example image: a square of them, and some that are padding."""


class ImagePatchesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an encoder of patches.

    Args:
        model: the whole model; it is run once.
        component: `vision_encoder`.
        preprocessor: the checkpoint's, which makes no patches.

    Raises:
        UnsupportedError: the model needs more than can be made.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        self._patch_shape = _patch_shape_of(model)
        vision = getattr(model.config, "vision_config", None)
        self._count = getattr(vision, "num_position_embeddings", None)
        super().__init__(model, component, preprocessor)

    @property
    def _image_axes(self) -> Mapping[int, str]:
        free = len(self._patch_shape) == 1 and self._count is None
        return {0: "batch", 1: "patches"} if free else {0: "batch"}

    def _preprocessed(self, preprocessor: Any, batch_size: int = -1, **sizes: Any) -> dict[str, Any]:
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        count = (self._count or _PATCH_COUNT,) if len(self._patch_shape) == 1 else ()
        return {self._input: torch.zeros(batch, *count, *self._patch_shape)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, the states of all images stay together."""
        import torch

        if not torch.compiler.is_exporting():
            return super().run(forward, arguments)
        with unsplit_features():
            return super().run(forward, arguments)

    @staticmethod
    def fits(model: PreTrainedModel, component: str) -> bool:
        """Say whether a model's images may come in patches."""
        return component == "vision_encoder" and bool(_patch_shape_of(model))


def _patch_shape_of(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the shape of a patch; nothing where no part of the model projects one."""
    vision = getattr(model.config, "vision_config", None)
    sizes = (getattr(vision, f"{name}_size", None) for name in ("temporal_patch", "patch", "patch"))
    embeds = (part for name, part in model.named_modules() if "vision" in name and ("patch" in name or "embed" in name))
    row = next((part.in_features for part in embeds if hasattr(part, "in_features")), None)
    if row is not None:
        return (int(row),)
    shape = (*sizes, getattr(vision, "num_channels", None))
    return tuple(int(size) for size in shape) if all(shape) else ()  # type: ignore[arg-type]
