"""DETR and its relatives: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._tiny import BACKBONE, THREE_STAGES

_WITHOUT_TIMM = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}
ARCHITECTURES = (
    Architecture(
        ("dab-detr", "table-transformer"),
        tiny=Tiny(base={**_WITHOUT_TIMM, "backbone_config": BACKBONE}),
    ),
    Architecture(("deformable_detr",), tiny=Tiny(base={**_WITHOUT_TIMM, "backbone_config": THREE_STAGES})),
    Architecture(
        ("detr", "conditional_detr"),
        tiny=Tiny(
            fields={"encoder_attention_heads": 8, "decoder_attention_heads": 8},
            base={**_WITHOUT_TIMM, "backbone_config": BACKBONE},
        ),
    ),
)
