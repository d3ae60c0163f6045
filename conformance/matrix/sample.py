"""Two fixed samples of the matrix: a small one for `make test`, and one ten times as large for reviewing a change."""

from __future__ import annotations

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from conformance.matrix.pairs import Pair

_FEW = {
    "audio-classification": "audio-spectrogram-transformer",
    "automatic-speech-recognition": "hubert",
    "document-question-answering": "layoutlm",
    "feature-extraction": "decision_transformer",
    "image-classification": "convnextv2 donut-swin levit",
    "mask-generation": "sam",
    "question-answering": "deberta",
    "table-question-answering": "tapas",
    "text-generation": "bart",
    "text-generation-with-past": "dbrx",
    "text2text-generation": "encoder-decoder",
    "time-series-prediction": "patchtst",
    "video-classification": "videomae",
    "visual-question-answering": "blip-2",
    "zero-shot-object-detection": "owlvit",
}
"""Task to model type: one pair for each type of inputs that no other test of `make test` exports."""

_NEW = {
    "audio-tokenization": "neucodec",
    "automatic-speech-recognition": "omniasr",
    "feature-extraction": "pi05 wavtokenizer_encoder",
    "image-to-text": "hy_v4_vl llava_onevision1_5",
    "text-generation-with-past": "dory inkling2_text kolibri1_1 lfm3",
}
"""The same for model types that are new in Transformers 5.24 and 5.25, if they are installed, and LFM 3's cache."""

_MANY = {
    "audio-classification": "audio-spectrogram-transformer hubert wav2vec2-bert wavlm",
    "audio-frame-classification": "nemotron3_diarization unispeech-sat wavlm",
    "audio-text-to-text": "glmasr granite_speech qwen3_asr",
    "audio-text-to-text-with-past": "glmasr",
    "audio-tokenization": "pocket_tts_audio_tokenizer",
    "audio-xvector": "wav2vec2",
    "automatic-speech-recognition": "dia granite_speech_plus hubert lasr_ctc vibevoice",
    "automatic-speech-recognition-with-past": (
        "granite_speech qwen3_asr seamless_m4t_v2 speech-encoder-decoder whisper"
    ),
    "backbone": "convnext dinov3_vit lw_detr_vit rf_detr_dinov2 textnet",
    "depth-estimation": "dpt",
    "document-question-answering": "layoutlm",
    "feature-extraction": "bert-generation decision_transformer ijepa jais2 llava patchtst phi3 rembert xlm-roberta",
    "fill-mask": "albert bert esm esmc fnet luke roberta",
    "image-classification": "convnextv2 efficientnet metaclip_2 mobilenet_v2 pp_lcnet swin vit_msn",
    "image-matting": "sapiens2 vitmatte",
    "image-segmentation": "detr",
    "image-to-image": "swin2sr",
    "image-to-text": "idefics got_ocr2 granite_docling llava_onevision smolvlm",
    "image-to-text-with-past": "blip got_ocr2 molmo2 ovis2 pp_chart2table",
    "mask-generation": "sam",
    "masked-im": "deit",
    "multiple-choice": "canine convbert ibert longformer roc_bert roformer",
    "next-sentence-prediction": "megatron-bert",
    "normal-estimation": "sapiens2 tipsv2_dpt",
    "object-detection": "yolos",
    "pointmap-estimation": "sapiens2",
    "pose-estimation": "vitpose",
    "question-answering": "deberta electra falcon qwen2 roc_bert splinter",
    "semantic-segmentation": "beit data2vec-vision dpt sapiens2",
    "table-question-answering": "tapas",
    "table-recognition": "slanet",
    "text-classification": "markuplm modernbert mpnet stablelm t5 yoso",
    "text-encoding": "clip_text_model mt5 nystromformer xlm xlm-roberta-xl",
    "text-generation": "bart ernie gpt_bigcode mistral plbart vaultgemma",
    "text-generation-with-past": "axk2 dbrx gpt-sw3 gptj granite inkling_text megatron-bert musicgen nanochat olmo2",
    "text-recognition": "pp_ocrv5_server_rec pp_ocrv6_small_rec",
    "text-to-audio": "gradium_phonon_tts seamless_m4t speecht5 vibevoice",
    "text2text-generation": "audioflamingo3 encoder-decoder prophetnet qwen3_asr seamless_m4t_v2 umt5 voxtral_realtime",
    "text2text-generation-with-past": "moss_transcribe_diarize mvp pegasus qwen2_audio vibevoice_asr voxtral",
    "time-series-prediction": "patchtst",
    "token-classification": "bert data2vec-text distilbert eurobert persimmon roberta-prelayernorm",
    "video-classification": "timesformer videomae videoprism_vision_model vivit",
    "visual-question-answering": "blip blip-2",
    "zero-shot-image-classification": "align clip metaclip_2",
    "zero-shot-object-detection": "owlvit",
}
"""Task to model types, over all families."""


def _pairs(types: dict[str, str]) -> tuple[Pair, ...]:
    return tuple((model_type, task) for task, names in types.items() for model_type in names.split())


SAMPLE = (*_pairs(_FEW), *(pair for pair in _pairs(_NEW) if pair[0] in CONFIG_MAPPING_NAMES))
"""What `make test` exports."""
WIDE = tuple(dict.fromkeys((*SAMPLE, *_pairs(_MANY))))
"""What `python -m conformance matrix --sample` exports, in about half an hour."""
