"""Model types to the files that describe them: a literal table, so that a family is imported when it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxport.architectures._architecture import Architecture

MODULES: dict[str, str] = {
    "autoformer": "autoformer",
    "canine": "canine",
    "clap": "clap",
    "clap_audio_model": "clap",
    "clvp": "clvp",
    "clvp_decoder": "clvp",
    "clvp_encoder": "clvp",
    "cpmant": "cpmant",
    "dbrx": "dbrx",
    "depth_anything": "depth_anything",
    "donut-swin": "swin",
    "encodec": "encodec",
    "eomt": "eomt",
    "eomt_dinov3": "eomt",
    "fastspeech2_conformer": "fastspeech2_conformer",
    "fastspeech2_conformer_with_hifigan": "fastspeech2_conformer",
    "fsmt": "fsmt",
    "granite_speech5_ctc": "granite_speech5",
    "granite_speech5_encoder": "granite_speech5",
    "higgs_audio_v2": "higgs_audio_v2",
    "led": "led",
    "llama4": "llama4",
    "llama4_text": "llama4",
    "longcat_flash": "longcat_flash",
    "longformer": "longformer",
    "maskformer-swin": "swin",
    "mimi": "mimi",
    "mimi_decoder": "mimi",
    "mimi_encoder": "mimi",
    "minimax": "minimax",
    "mobilevit": "mobilevit",
    "moonshine": "moonshine",
    "neucodec": "neucodec",
    "nllb-moe": "nllb_moe",
    "parakeet_ctc": "parakeet",
    "parakeet_encoder": "parakeet",
    "parakeet_rnnt": "parakeet",
    "parakeet_tdt": "parakeet",
    "pegasus_x": "pegasus_x",
    "pocket_tts_audio_tokenizer": "pocket_tts_audio_tokenizer",
    "pocket_tts_audio_tokenizer_decoder": "pocket_tts_audio_tokenizer",
    "pocket_tts_audio_tokenizer_encoder": "pocket_tts_audio_tokenizer",
    "qwen4_exp": "qwen4_exp",
    "qwen4_exp_text": "qwen4_exp",
    "recurrent_gemma": "recurrent_gemma",
    "reformer": "reformer",
    "rwkv": "rwkv",
    "sam2": "sam2",
    "sam2_hiera_det_model": "sam2",
    "sam2_vision_model": "sam2",
    "sam3": "sam3",
    "sam3_vision_model": "sam3",
    "sam3_vit_model": "sam3",
    "siglip2": "siglip2",
    "siglip2_vision_model": "siglip2",
    "step3p5": "step3p7",
    "step3p7": "step3p7",
    "swin": "swin",
    "swin2sr": "swin",
    "swinv2": "swin",
    "switch_transformers": "switch_transformers",
    "vitdet": "vitdet",
    "xlstm": "xlstm",
}
"""Model type to the module of `onnxport.architectures` whose `ARCHITECTURES` has its record."""


@cache
def architecture_of(model_type: str) -> Architecture | None:
    """Return the record of a model type, None where its traits tell everything.

    Args:
        model_type: as in `config.json`.
    """
    if model_type not in MODULES:
        return None
    found: tuple[Architecture, ...] = import_module(f"onnxport.architectures.{MODULES[model_type]}").ARCHITECTURES
    return next(record for record in found if model_type in record.model_types)
