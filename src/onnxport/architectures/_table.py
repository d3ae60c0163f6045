"""Model types to the files that describe them: a literal table, so that a family is imported when it is needed.

Another package adds records with an entry point of the group `onnxport.architectures`, whose value is an `Architecture`
or a tuple of them; for a model type that is in both, the package's record is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from onnxport.architectures._architecture import Architecture

ENTRY_POINTS = "onnxport.architectures"
"""Group of the entry points by which other packages add records."""
MODULES: dict[str, str] = {
    "aimv2": "aimv2",
    "bark": "bark",
    "fsmt": "fsmt",
    "granite4_vision": "granite4_vision",
    "idefics3": "idefics3",
    "instructblipvideo": "instructblipvideo",
    "kosmos-2.5": "kosmos2_5",
    "kyutai_speech_to_text": "kyutai_speech_to_text",
    "lfm2_vl": "lfm2_vl",
    "llava_next": "llava_next",
    "llava_next_video": "llava_next",
    "llava_onevision": "llava_next",
    "longformer": "longformer",
    "minimax": "minimax",
    "musicgen_decoder": "musicgen",
    "musicgen_melody_decoder": "musicgen",
    "nemo_speechlm": "nemotron3_5_transcribe",
    "nemotron3_5_transcribe_audio": "nemotron3_5_transcribe",
    "paligemma": "paligemma",
    "phi4_multimodal": "phi4_multimodal",
    "prophetnet": "prophetnet",
    "qwen2_5_omni": "qwen_omni",
    "qwen2_5_omni_audio_encoder": "qwen_omni",
    "qwen2_5_omni_thinker": "qwen_omni",
    "qwen2_audio": "qwen2_audio",
    "qwen3_asr": "qwen_omni",
    "qwen3_asr_encoder": "qwen_omni",
    "qwen3_omni_moe": "qwen_omni",
    "qwen3_omni_moe_audio_encoder": "qwen_omni",
    "qwen3_omni_moe_thinker": "qwen_omni",
    "recurrent_gemma": "recurrent_gemma",
    "rwkv": "rwkv",
    "smolvlm": "idefics3",
    "speecht5": "speecht5",
    "timm_backbone": "timm_wrapper",
    "timm_wrapper": "timm_wrapper",
    "udop": "udop",
    "vision-encoder-decoder": "vision_encoder_decoder",
    "voxtral_realtime": "voxtral_realtime",
    "voxtral_realtime_text": "voxtral_realtime",
    "xlstm": "xlstm",
    "zaya": "zaya",
}
"""Model type to the module of `onnxport.architectures` whose `ARCHITECTURES` has its record."""


@cache
def architecture_of(model_type: str) -> Architecture | None:
    """Return the record of a model type, None where its traits tell everything.

    Args:
        model_type: as in `config.json`.

    Raises:
        UnsupportedError: an installed package adds what isn't a record.
    """
    added = _added()
    if model_type in added:
        return added[model_type][0]
    if model_type not in MODULES:
        return None
    found: tuple[Architecture, ...] = import_module(f"{__package__}.{MODULES[model_type]}").ARCHITECTURES
    return next(record for record in found if model_type in record.model_types)


def added_versions() -> dict[str, str]:
    """Return the installed packages that add records: distribution to version."""
    points = (point for _, point in _added().values())
    return {point.dist.name: point.dist.version for point in points if point.dist is not None}


@cache
def _added() -> Mapping[str, tuple[Architecture, EntryPoint]]:
    """Return the records of installed packages by model type, each with its entry point."""
    return {
        model_type: (record, point)
        for point in entry_points(group=ENTRY_POINTS)
        for record in _records(point)
        for model_type in record.model_types
    }


def _records(point: EntryPoint) -> tuple[Architecture, ...]:
    from onnxport.architectures._architecture import Architecture

    value = point.load()
    records = (value,) if isinstance(value, Architecture) else value
    if not isinstance(records, tuple) or not all(isinstance(record, Architecture) for record in records):
        raise UnsupportedError(
            f"the entry point {point.name} = {point.value} of {ENTRY_POINTS} is a {type(value).__name__}; "
            "it must be an Architecture or a tuple of them"
        )
    return records
