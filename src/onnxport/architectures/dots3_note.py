"""Dots3 Note: fields of their tiny configurations."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_WINDOWED_HEADS = {
    **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8},
    **{"swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8},
}
_AUDIO = {"conv_output_size": 512}
_VISION = {"num_hidden_layers": 4, "pyramid_num_routed": [-1, -1, 4, 4]}
ARCHITECTURES = (
    Architecture(
        ("dots3_note",),
        tiny=Tiny(
            fields={
                "vision_config": {"...": 0, "pyramid_num_routed": [-1, -1, 4, 4]},
                "audio_config": {"...": 0, **_AUDIO},
            },
            base={"vision_config": _VISION},
        ),
    ),
    Architecture(("dots3_note_text",), tiny=Tiny(fields=_WINDOWED_HEADS)),
    Architecture(("dots3_note_audio_encoder",), tiny=Tiny(fields=_AUDIO)),
    Architecture(("dots3_note_vision", "dots3_note_vision_encoder"), tiny=Tiny(base=_VISION)),
)
