"""ViTDet: windowed attention on images of any size."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._image_windows import partition_patches

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("vitdet",), patches=partition_patches("transformers.models.vitdet.modeling_vitdet")),
)
