"""RADIO: images of one size instead of packed patches."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

_PACKED = "for packed patches instead of pixel_values of images of one size"
ARCHITECTURES = (Architecture(("radio",), left_out={"image_grid_hw": _PACKED}),)
