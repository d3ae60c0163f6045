"""LayoutLM, LayoutLMv2 and LayoutLMv3: tokens without boxes are at the origin; fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny


def _defaults(_: str) -> dict[str, str]:
    return {"bbox": "zeros"}


ARCHITECTURES = (
    Architecture(("layoutlm",), defaults=_defaults),
    Architecture(
        ("layoutlmv2", "layoutlmv3"),
        defaults=_defaults,
        tiny=Tiny(fields={"coordinate_size": 4, "shape_size": 8, "input_size": 64}),
    ),
)
