"""FocalNet: images of any size are padded to whole patches."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._image_windows import patch_padding

ARCHITECTURES = (
    Architecture(("focalnet",), patches=(patch_padding("transformers.models.focalnet.modeling_focalnet", "FocalNet"),)),
)
