"""ModernVBERT: the image processor, which Transformers maps no class to."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture

ARCHITECTURES = (
    Architecture(("modernvbert", "colmodernvbert", "ultravbert"), image_processor="Idefics3ImageProcessorPil"),
)
