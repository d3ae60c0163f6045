"""PP-DocLayout: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

ARCHITECTURES = (
    Architecture(("pp_doclayout_v2",), tiny=Tiny(fields={"class_thresholds": [0.5, 0.5], "class_order": [0, 1]})),
    Architecture(("pp_doclayout_v3",), tiny=Tiny(fields={"x4_feat_dim": 16})),
)
