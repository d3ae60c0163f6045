"""Map model types to the modules that describe them: a literal table, so that a family is imported only when needed.

Other packages add records with an entry point in the group `onnxport.architectures` whose value is an `Architecture` or
a tuple of them. If a model type is in both, the other package's record takes precedence.
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
    "aimv2_text_model": "aimv2",
    "align": "efficientnet",
    "align_vision_model": "efficientnet",
    "apertus1p5": "apertus1p5",
    "aria": "aria",
    "audio-spectrogram-transformer": "audio_spectrogram_transformer",
    "autoformer": "autoformer",
    "bamba": "bamba",
    "bark": "bark",
    "beit": "beit",
    "blenderbot": "blenderbot",
    "blip-2": "blip_2",
    "bridgetower": "bridgetower",
    "bros": "bros",
    "canary": "canary",
    "canine": "canine",
    "chameleon": "chameleon",
    "chameleon_vqgan": "chameleon",
    "chmv2": "chmv2",
    "clap": "clap",
    "clap_audio_model": "clap",
    "clipseg": "clipseg",
    "clvp": "clvp",
    "clvp_encoder": "clvp",
    "cohere_compass_text": "cohere_compass",
    "colmodernvbert": "modernvbert",
    "colpali": "colpali",
    "colqwen2": "colqwen2",
    "conditional_detr": "detr",
    "cosmos3_edge_text": "cosmos3_edge",
    "cpmant": "cpmant",
    "csm": "csm",
    "dab-detr": "detr",
    "dac": "dac",
    "data2vec-vision": "beit",
    "dbrx": "dbrx",
    "decision_transformer": "decision_transformer",
    "deepseek_ocr2": "deepseek_ocr2",
    "deepseek_ocr2_text": "deepseek_ocr2",
    "deepseek_ocr2_vision": "deepseek_ocr2",
    "deepseek_v2": "deepseek_v2",
    "deepseek_v4": "deepseek_v4",
    "deformable_detr": "detr",
    "depth_anything": "depth_anything",
    "depth_pro": "depth_pro",
    "detr": "detr",
    "diffusion_gemma": "diffusion_gemma",
    "donut-swin": "swin",
    "dory": "dory",
    "dots1": "dots1",
    "dots3_note": "dots3_note",
    "dots3_note_audio_encoder": "dots3_note",
    "dots3_note_text": "dots3_note",
    "dots3_note_vision": "dots3_note",
    "dots3_note_vision_encoder": "dots3_note",
    "dpt": "dpt",
    "edgetam": "edgetam",
    "edgetam_video": "sam2",
    "edgetam_vision_model": "edgetam",
    "efficientloftr": "efficientloftr",
    "efficientnet": "efficientnet",
    "embedding_gemma2": "gemma4",
    "emu3": "emu3",
    "emu3_vqgan": "emu3",
    "encodec": "encodec",
    "eomt": "eomt",
    "eomt_dinov3": "eomt",
    "ernie4_5_vl_moe_text": "ernie4_5_vl_moe",
    "esm": "esm",
    "evolla": "evolla",
    "fast_vlm": "fast_vlm",
    "fastspeech2_conformer": "fastspeech2_conformer",
    "fastspeech2_conformer_with_hifigan": "fastspeech2_conformer",
    "focalnet": "focalnet",
    "fsmt": "fsmt",
    "fun_asr_nano": "fun_asr_nano",
    "gemma3": "gemma3",
    "gemma3n": "gemma3n",
    "gemma3n_text": "gemma3n",
    "gemma3n_vision": "gemma3n",
    "gemma4": "gemma4",
    "gemma4_assistant": "gemma4",
    "gemma4_audio": "gemma4",
    "gemma4_unified": "gemma4",
    "gemma4_unified_assistant": "gemma4",
    "gemma4_unified_text": "gemma4",
    "git": "git",
    "glm_image": "glm_image",
    "gpt_neo": "gpt_neo",
    "gradium_phonon_tts": "pocket_tts",
    "granite4_vision": "granite4_vision",
    "granite_docling": "granite_docling",
    "granite_speech": "granite_speech",
    "granite_speech5_ctc": "granite_speech5",
    "granite_speech5_encoder": "granite_speech5",
    "granite_speech_plus": "granite_speech",
    "granitemoehybrid": "granitemoehybrid",
    "hiera": "hiera",
    "higgs_audio_v2": "higgs_audio_v2",
    "higgs_audio_v2_tokenizer": "xcodec",
    "hy_v4_vl": "hy_v4_vl",
    "hy_v4_vl_text": "hy_v4_vl",
    "idefics2": "idefics2",
    "idefics3": "idefics3",
    "informer": "autoformer",
    "inkling_vision": "inkling",
    "instructblip": "instructblip",
    "instructblipvideo": "instructblipvideo",
    "jamba": "jamba",
    "janus_vqgan": "janus",
    "jev": "jev",
    "kolibri1_1": "kolibri1_1",
    "kosmos-2": "kosmos2",
    "kosmos-2.5": "kosmos2_5",
    "kyutai_speech_to_text": "kyutai_speech_to_text",
    "layoutlm": "layoutlmv3",
    "layoutlmv2": "layoutlmv3",
    "layoutlmv3": "layoutlmv3",
    "led": "led",
    "lfm2_moe": "lfm2_moe",
    "lfm2_vl": "lfm2_vl",
    "lightglue": "lightglue",
    "lilt": "lilt",
    "llama4": "llama4",
    "llama4_vision_model": "llama4",
    "llava_next": "llava_next",
    "llava_next_video": "llava_next",
    "llava_onevision": "llava_next",
    "longcat_flash": "longcat_flash",
    "longformer": "longformer",
    "longt5": "longt5",
    "luke": "luke",
    "lw_detr": "lw_detr",
    "mamba2": "mamba2",
    "maskformer-swin": "swin",
    "minicpm_ocr": "minicpm_v",
    "minicpm_ocr_vision": "minicpm_v",
    "minicpmv4_6": "minicpm_v",
    "minicpmv4_6_vision": "minicpm_v",
    "minicpmv4_7": "minicpm_v",
    "minicpmv4_7_vision": "minicpm_v",
    "minimax": "minimax",
    "mllama": "mllama",
    "mllama_vision_model": "mllama",
    "mobilebert": "mobilebert",
    "mobilenet_v1": "mobilenet",
    "mobilenet_v2": "mobilenet",
    "mobilevit": "mobilevit",
    "modernvbert": "modernvbert",
    "molmo2_adapter": "molmo2",
    "moonshine": "moonshine",
    "moonshine_streaming": "moonshine",
    "moshi": "moshi",
    "muse_glimmer": "muse",
    "muse_glimmer_assistant": "muse",
    "muse_spark": "muse",
    "musicflamingo": "musicflamingo",
    "musicgen": "musicgen",
    "musicgen_decoder": "musicgen",
    "musicgen_melody": "musicgen",
    "musicgen_melody_decoder": "musicgen",
    "nemo_speechlm": "nemotron3_5_transcribe",
    "nemotron3_5_transcribe_asr_audio": "nemotron3_5_transcribe",
    "nemotron3_5_transcribe_audio": "nemotron3_5_transcribe",
    "neomme": "neomme",
    "neucodec": "neucodec",
    "nllb-moe": "nllb_moe",
    "omdet-turbo": "omdet_turbo",
    "paligemma": "paligemma",
    "parakeet_ctc": "parakeet",
    "parakeet_encoder": "parakeet",
    "parakeet_rnnt": "parakeet",
    "parakeet_tdt": "parakeet",
    "pe_audio_encoder": "pe",
    "pe_audio_video": "pe",
    "pe_video_encoder": "pe",
    "pegasus_x": "pegasus_x",
    "perceiver": "perceiver",
    "perception_lm": "perception_lm",
    "phi4_multimodal": "phi4_multimodal",
    "phi4_multimodal_audio": "phi4_multimodal",
    "pi0": "pi0",
    "pix2struct": "pix2struct",
    "pix2struct_text_model": "pix2struct",
    "pocket_tts": "pocket_tts",
    "pop2piano": "pop2piano",
    "pp_doclayout_v2": "pp_doclayout",
    "pp_doclayout_v3": "pp_doclayout",
    "pp_formulanet": "pp_formulanet",
    "pp_ocrv5_mobile_det": "pp_ocr",
    "pp_ocrv5_mobile_rec": "pp_ocr",
    "pp_ocrv5_server_det": "pp_ocr",
    "pp_ocrv5_server_rec": "pp_ocr",
    "pp_ocrv6_medium_det": "pp_ocr",
    "pp_ocrv6_small_det": "pp_ocr",
    "pp_ocrv6_small_rec": "pp_ocr",
    "pp_ocrv6_tiny_rec": "pp_ocr",
    "prompt_depth_anything": "dpt",
    "prophetnet": "prophetnet",
    "qwen2_5_omni": "qwen_omni",
    "qwen2_5_omni_audio_encoder": "qwen_omni",
    "qwen2_5_omni_dit": "qwen_omni",
    "qwen2_5_omni_thinker": "qwen_omni",
    "qwen2_audio": "qwen2_audio",
    "qwen3_5_text": "qwen3_5",
    "qwen3_asr": "qwen_omni",
    "qwen3_asr_encoder": "qwen_omni",
    "qwen3_omni_moe": "qwen_omni",
    "qwen3_omni_moe_audio_encoder": "qwen_omni",
    "qwen3_omni_moe_talker_text": "qwen_omni",
    "qwen3_omni_moe_thinker": "qwen_omni",
    "qwen4_exp_text": "qwen4_exp",
    "radio": "radio",
    "rag": "rag",
    "recurrent_gemma": "recurrent_gemma",
    "reformer": "reformer",
    "rf_detr": "rf_detr",
    "rwkv": "rwkv",
    "sam": "sam",
    "sam2": "sam2",
    "sam2_hiera_det_model": "sam2",
    "sam2_video": "sam2",
    "sam2_vision_model": "sam2",
    "sam3": "sam3",
    "sam3_tracker": "sam",
    "sam3_vision_model": "sam3",
    "sam3_vit_model": "sam3",
    "sam_hq": "sam",
    "sapiens2": "sapiens2",
    "sapiens2_head": "sapiens2",
    "seamless_m4t": "seamless_m4t",
    "seamless_m4t_v2": "seamless_m4t",
    "seggpt": "seggpt",
    "shieldgemma2": "gemma3",
    "siglip2": "siglip2",
    "siglip2_vision_model": "siglip2",
    "slanet": "slanet",
    "slanext": "slanet",
    "smolvlm": "idefics3",
    "speecht5": "speecht5",
    "splinter": "splinter",
    "step3p5": "step3p7",
    "step3p7": "step3p7",
    "superglue": "superpoint",
    "superpoint": "superpoint",
    "swin": "swin",
    "swin2sr": "swin",
    "swinv2": "swin",
    "switch_transformers": "switch_transformers",
    "t5gemma": "t5gemma",
    "t5gemma2_encoder": "t5gemma",
    "table-transformer": "detr",
    "time_series_transformer": "autoformer",
    "timm_backbone": "timm_wrapper",
    "timm_wrapper": "timm_wrapper",
    "tipsv2_dpt": "dpt",
    "tvp": "tvp",
    "udop": "udop",
    "ultravbert": "modernvbert",
    "univnet": "univnet",
    "unlimited_ocr": "deepseek_ocr2",
    "unlimited_ocr_vision": "deepseek_ocr2",
    "upernet": "upernet",
    "uvdoc": "uvdoc",
    "vibevoice_acoustic_tokenizer": "vibevoice",
    "vibevoice_acoustic_tokenizer_decoder": "vibevoice",
    "vibevoice_acoustic_tokenizer_encoder": "vibevoice",
    "video_llama_3": "video_llama_3",
    "videomae": "videomae",
    "vilt": "vilt",
    "vipllava": "vipllava",
    "vision-encoder-decoder": "vision_encoder_decoder",
    "visual_bert": "visual_bert",
    "vitdet": "vitdet",
    "vits": "vits",
    "voxtral": "voxtral",
    "voxtral_realtime": "voxtral_realtime",
    "voxtral_realtime_encoder": "voxtral_realtime",
    "voxtral_realtime_text": "voxtral_realtime",
    "wav2vec2-bert": "wav2vec2",
    "wav2vec2-conformer": "wav2vec2",
    "xclip_vision_model": "x_clip",
    "xcodec": "xcodec",
    "xcodec2": "xcodec2",
    "xlstm": "xlstm",
    "xmod": "xmod",
    "zamba": "zamba",
    "zamba2": "zamba",
    "zaya": "zaya",
    "zoedepth": "dpt",
}
"""Model type to the module of `onnxport.architectures` whose `ARCHITECTURES` contains its record."""


@cache
def architecture_of(model_type: str) -> Architecture | None:
    """Return the record of a model type; None if everything is derived from the model.

    Args:
        model_type: `model_type` in `config.json`.

    Raises:
        UnsupportedError: an entry point isn't an `Architecture` or a tuple of them.
    """
    added = _added()
    if model_type in added:
        return added[model_type][0]
    if model_type not in MODULES:
        return None
    records: tuple[Architecture, ...] = import_module(f"{__package__}.{MODULES[model_type]}").ARCHITECTURES
    return next(record for record in records if model_type in record.model_types)


def added_versions() -> dict[str, str]:
    """Return the versions of the installed distributions that add records."""
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
