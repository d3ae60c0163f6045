"""BEiT and Data2Vec for images: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(
        ("beit", "data2vec-vision"), tiny=Tiny(fields={"out_features": ["stage1", "stage2", "stage3", "stage4"]})
    ),
)
