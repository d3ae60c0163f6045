"""What a tiny configuration needs that its fields' names don't tell, by model type."""

from __future__ import annotations

from typing import Any

_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_THREE_STAGES = {**_BACKBONE, "out_features": ["stage2", "stage3", "stage4"]}
_WITHOUT_TIMM = {"use_timm_backbone": False, "backbone": None, "use_pretrained_backbone": False}
_SERIES = {"prediction_length": 4, "num_time_features": 1, "context_length": 12, "lags_sequence": [1, 2, 3]}

_EFFICIENT = {
    "width_coefficient": 0.25,
    "depth_coefficient": 0.3,
    "hidden_dim": 320,
    "in_channels": [32, 16, 24, 40, 80, 112, 192],
    "out_channels": [16, 24, 40, 80, 112, 192, 320],
}

_LETTERED = {f"IMGIMG{''.join(chr(65 + int(digit)) for digit in str(i))}Z": 64 + i for i in range(16)}
_NUMBERED = {f"<|visual token {i:06}|>": 64 + i for i in range(16)}
_TILES = [[64, 128], [128, 64], [128, 128]]
_RATIOS = (("longratio", 7), ("midratio", 5), ("shortratio", 3))
_TEXT_REGIONS = {
    "scale_factor_list": [1, 2, 4, 8],
    "kernel_list": [3, 2, 2],
    "intraclass_block_config": {
        "reduce_channel": [1, 1, 0],
        "return_channel": [1, 1, 0],
        **{f"vertical_long_to_small_conv_{ratio}": [[n, 1], [1, 1], [n // 2, 0]] for ratio, n in _RATIOS},
        **{f"horizontal_small_to_long_conv_{ratio}": [[1, n], [1, 1], [0, n // 2]] for ratio, n in _RATIOS},
        **{f"symmetric_conv_long_{ratio}": [[n, n], [1, 1], [n // 2, n // 2]] for ratio, n in _RATIOS},
    },
}
_HALVING = {
    "model_type": "pp_lcnet_v4",
    "stem_channels": [3, 8, 16],
    "block_configs": [[[3, 16, 16, 1, True]], *([[3, n, m, 2, False]] for n, m in ((16, 16), (16, 32), (32, 32)))],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_WINDOWED_HEADS = {
    **{"swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 8, "swa_kv_lora_rank": 8},
    **{"swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 8},
}

_TIMM = {
    "timm_wrapper": {"architecture": "test_resnet"},
    "timm_backbone": {"base": {"backbone": "test_resnet"}, "backbone": "test_resnet"},
    "gemma3n": {"vision_soft_tokens_per_image": 25},
    "gemma3n_vision": {"architecture": "test_efficientnet", "hidden_size": 256},
    "perception_lm": {
        "base": {"vision_config": {"model_type": "timm_wrapper", "model_args": {"embed_dim": 64}}},
        "vision_config": {"...": 0, "architecture": "test_vit", "model_args": {"embed_dim": 64}},
    },
    "pe_video_encoder": {"vision_config": {"...": 0, "architecture": "test_vit", "global_pool": "token"}},
    "fast_vlm": {
        "base": {"vision_config": {"model_type": "timm_wrapper", "hidden_size": 64}},
        "vision_config": {"...": 0, "architecture": "test_convnext", "hidden_size": 64, "model_args": {}},
    },
    "edgetam_vision_model": {
        "backbone_config": {"...": 0, "architecture": "test_convnext"},
        "backbone_channel_list": [64, 48, 32, 24],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
}
"""Models with an encoder of pictures of timm, which has small architectures for tests."""

EXCEPTIONS: dict[str, dict[str, Any]] = {
    **_TIMM,
    "esm": {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32]},
    "mamba2": {"num_heads": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "perceiver": {"num_latents": 8},
    "efficientnet": _EFFICIENT,
    "align": {"vision_config": {"...": 0, **_EFFICIENT}, "projection_dim": 80},
    "mobilebert": {"embedding_size": 16},
    "blenderbot": {"encoder_layers": 4},
    "bros": {"hidden_size": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "blip-2": {"image_token_index": 120},
    "instructblip": {"image_token_index": 120},
    "instructblipvideo": {"video_token_index": 120},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "lfm2_moe": {"layer_types": ["conv", "conv", "full_attention", "full_attention"]},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "mamba_headdim": 8},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "neomme": {"head_dim": 16},
    "beit": {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
    "data2vec-vision": {"out_features": ["stage1", "stage2", "stage3", "stage4"]},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "uvdoc": {
        "base": {
            "backbone_config": {"model_type": "uvdoc_backbone", "out_features": [f"stage{n}" for n in range(1, 7)]}
        }
    },
    "upernet": {"base": {"backbone_config": _BACKBONE}},
    "pp_ocrv5_mobile_det": {"layer_list_out_channels": [16, 16, 16, 16], "neck_out_channels": 32},
    "pp_ocrv5_server_det": _TEXT_REGIONS,
    "pp_ocrv6_medium_det": {"base": {"backbone_config": _HALVING}, **_TEXT_REGIONS},
    "pp_ocrv6_small_det": {
        "base": {"backbone_config": _HALVING},
        "layer_list_out_channels": [16, 16, 32, 32],
        "neck_out_channels": 32,
    },
    "pp_doclayout_v2": {"class_thresholds": [0.5, 0.5], "class_order": [0, 1]},
    "pp_doclayout_v3": {"x4_feat_dim": 16},
    "inkling_vision": {"patch_size": 8},
    "xlstm": {"hidden_size": 128},
    "univnet": {"model_in_channels": 64},
    "chmv2": {"backbone_config": {"...": 0, "return_class_token": True}},
    "granite4_vision": {
        "deepstack_layer_map": [[-3, 0], [-1, 1]],
        "spatial_target_layers": [0, 1, 2, 3],
        "downsample_rate": "1/2",
        "image_grid_pinpoints": _TILES,
        "text_config": {"...": 0, "hidden_size": 64},
        "vision_config": {"...": 0, "hidden_size": 64},
    },
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 64},
    "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "dots3_note_text": _WINDOWED_HEADS,
    "dots3_note_vision": {"base": {"num_hidden_layers": 4, "pyramid_num_routed": [-1, -1, 4, 4]}},
    "dots3_note": {
        "base": {"vision_config": {"num_hidden_layers": 4, "pyramid_num_routed": [-1, -1, 4, 4]}},
        "vision_config": {"...": 0, "pyramid_num_routed": [-1, -1, 4, 4]},
    },
    "swin2sr": {"num_heads": [2, 2], "depths": [2, 2]},
    "depth_pro": {"patch_size": 64, "intermediate_hook_ids": [3, 1]},
    "efficientloftr": {"out_features": [8, 8, 16, 32], "num_attention_heads": 8, "fine_matching_slice_dim": 4},
    "molmo2_adapter": {"vision_feature_layer": [3, 2]},
    "glm5_next_text": {"index_topk": 64},
    **{name: {"out_hidden_size": 128} for name in ("muse_glimmer", "muse_spark")},
    **{f"minicpm{name}{part}": {"insert_layer_id": 1} for name in ("_ocr", "v4_6", "v4_7") for part in ("", "_vision")},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "decision_transformer": {"hidden_size": 32, "n_head": 4},
    "vibevoice_acoustic_tokenizer": {"num_filters": 4, "hidden_size": 16, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "vibevoice_acoustic_tokenizer_encoder": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "vibevoice_acoustic_tokenizer_decoder": {"num_filters": 4, "depths": [1, 1, 1, 1, 1, 1, 1]},
    "gemma3": {"mm_tokens_per_image": 4},
    "shieldgemma2": {"mm_tokens_per_image": 4, "yes_token_index": 100, "no_token_index": 101},
    **{name: {"vlm_config": {"...": 0, "vision_config": {"...": 0, "patch_size": 32}}} for name in ("colpali", "pi0")},
    "kosmos-2": {"latent_query_num": 4},
    "gemma4_audio": {"subsampling_conv_channels": [128, 32]},
    "lilt": {"hidden_size": 48},
    "superpoint": {"keypoint_decoder_dim": 65},
    "donut-swin": {"window_size": 2},
    "maskformer-swin": {"window_size": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "canary": {"decoder_config": {"...": 0, "vocab_size": 128}},
    "granite_speech5_ctc": {"encoder_config": {"...": 0, "vocab_size": 128}},
    "bridgetower": {
        "text_config": {"...": 0, "hidden_size": 64},
        "vision_config": {"...": 0, "hidden_size": 64},
        "hidden_size": 64,
        "num_attention_heads": 4,
    },
    "cosmos3_edge_text": {
        "head_dim": 8,
        "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [1, 1, 2]},
    },
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [32, 32]},
    "chameleon": {"vocabulary_map": {"<image>": 100, **_LETTERED}, "vq_config": {"...": 0, "num_embeddings": 16}},
    "emu3": {
        "vocabulary_map": {"<image>": 100, "<|extra_200|>": 101, **_NUMBERED},
        "vq_config": {"...": 0, "codebook_size": 16},
    },
    **{name: {"vision_config": {"...": 0, "patch_embed_hidden_size": 768}} for name in ("pix2struct", "kosmos-2.5")},
    "vipllava": {"vision_feature_layer": [-2, -3, -4, 0, 1]},
    "aria": {
        "vision_config": {"...": 0, "image_size": 980, "patch_size": 70},
        "projector_patch_to_query_dict": {"49": 4, "196": 8},
    },
    **{name: {"image_grid_pinpoints": _TILES} for name in ("llava_next", "llava_next_video")},
    "gemma4": {
        "base": {"vision_config": {"model_type": "gemma4_vision"}},
        "text_config": {"...": 0, "hidden_size_per_layer_input": 0},
    },
    "gemma4_unified": {"base": {"vision_config": {"model_type": "gemma4_unified_vision"}}},
    "sam": {"vision_config": {"...": 0, "image_size": 64}},
    "deepseek_v2": {"n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
    "step3p5": {"sliding_window": 64},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 101, "vision_end_token_id": 102},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 101, "vision_end_token_id": 102},
    **{name: {"quantization_dim": 64} for name in ("xcodec2", "neucodec")},
    "higgs_audio_v2_tokenizer": {
        "acoustic_model_config": {
            **{"...": 0, "encoder_hidden_size": 8, "hidden_size": 256},
            **{"downsampling_ratios": [8, 5, 4, 2, 3], "upsampling_ratios": [8, 5, 4, 2, 3]},
        },
    },
    "clvp": {
        "decoder_config": {"...": 0, "decoder_fixing_codes": [83, 45, 45, 100], "feature_size": 80},
        **{name: {"...": 0, "num_attention_heads": 1} for name in ("text_config", "speech_config")},
    },
    "qwen3_omni_moe": {"talker_config": {"...": 0, "spatial_merge_size": 2}},
    "sapiens2_head": {"upsample_out_channels": [32, 32], "conv_out_channels": [32]},
    "sapiens2": {"base": {"head_config": {"upsample_out_channels": [32, 32], "conv_out_channels": [32]}}},
    "voxtral": {"audio_token_id": 101},
    "phi4_multimodal": {"audio_config": {"...": 0, "nemo_conv_channels": 32}},
    "fun_asr_nano": {"adaptor_config": {"...": 0, "intermediate_size": 8}},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "dense", "sparse", "sparse"]},
    "sam2_hiera_det_model": {"hidden_size": 8, "window_size_per_stage": [8, 4, 6, 3]},
    "pp_formulanet": {"vision_config": {"...": 0, "image_size": 128}},
    "deepseek_ocr2": {"vision_config": {"...": 0, "encoder_config": {"...": 0, "hidden_size": 112}}},
    "unlimited_ocr": {"vision_config": {"...": 0, "encoder_config": {"...": 0, "hidden_size": 128}}},
    "clap_audio_model": {"patch_embeds_hidden_size": 8, "hidden_size": 64},
    "chameleon_vqgan": {"base_channels": 32},
    "janus_vqgan": {"base_channels": 32},
    "emu3_vqgan": {"base_channels": 32, "hidden_size": 128},
    "audio-spectrogram-transformer": {"max_length": 1024},
    "t5gemma2_encoder": {"mm_tokens_per_image": 4, "text_config": {"...": 0, "dropout_rate": 0.0}},
    "sam2_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "llama4_vision_model": {"intermediate_size": 128},
    "detr": {
        "base": {**_WITHOUT_TIMM, "backbone_config": _BACKBONE},
        "encoder_attention_heads": 8,
        "decoder_attention_heads": 8,
    },
    **{name: {"coordinate_size": 4, "shape_size": 8, "input_size": 64} for name in ("layoutlmv2", "layoutlmv3")},
    "swin": {"encoder_stride": 32, "window_size": 2},
    "autoformer": {"base": _SERIES, **_SERIES},
    "informer": {"base": _SERIES, **_SERIES},
    "time_series_transformer": {"base": _SERIES, **_SERIES},
    "gemma4_unified_assistant": {
        "base": {"text_config": {"model_type": "gemma4_unified_text", "num_kv_shared_layers": 0}}
    },
    "gemma4_assistant": {"base": {"text_config": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 0}}},
    **{
        name: {"base": {**_WITHOUT_TIMM, "backbone_config": _BACKBONE}}
        for name in ("conditional_detr", "dab-detr", "table-transformer")
    },
    **{
        name: {"base": {**_WITHOUT_TIMM, "backbone_config": _THREE_STAGES}}
        for name in ("deformable_detr", "omdet-turbo")
    },
}
"""Model type to values of fields; `base` holds what the default configuration needs to be made at all.

A value for a configuration inside is a dictionary with the key `...`.
"""

IMAGES = {
    **dict.fromkeys(("timm_wrapper", "timm_backbone", "gemma3n", "gemma3n_vision", "perception_lm"), (160, 160)),
    "depth_pro": (256, 256),
    "seggpt": (32, 32),
    "pp_ocrv5_mobile_rec": (80, 320),
    "pp_ocrv5_server_rec": (48, 320),
}
"""Height and width of pictures that a model needs, and its configuration doesn't say."""

FEATURES = {"granite_speech5_ctc": 320, "granite_speech5_encoder": 320}
"""Values of each frame of a sound that a model needs, and its configuration doesn't say."""

EXTRACTORS = {
    "pe_audio_encoder": "PeAudioFeatureExtractor",
    "nemotron3_5_transcribe_audio": "NemotronAsrStreamingFeatureExtractor",
    "nemotron3_5_transcribe_asr_audio": "NemotronAsrStreamingFeatureExtractor",
}
"""Feature extractors of parts, which Transformers' mapping leaves out."""

AUDIOS = {"higgs_audio_v2_tokenizer": {"sampling_rate": 24000, "hop_length": 960}}
"""What the feature extractors of checkpoints have, and their class hasn't."""

QUIET = {"dac": ("decoder.conv2.weight", 0.01)}
"""What makes a model's sounds at last, and by how much it is scaled: samples are below one, as those of real sounds."""

ALONE = (("emu3", "text-generation"), ("emu3", "text-encoding"), ("llama4", "text-encoding"))
"""Pairs whose class Transformers finds no weights for in a checkpoint of the whole model: theirs are of the class."""
OWN_NAMES = {"shieldgemma2": ("Gemma3ForConditionalGeneration",)}
"""Classes of a model type that Transformers saves under names that it doesn't find again: they keep their own."""
OF_PAIRS: dict[tuple[str, str], dict[str, Any]] = {
    ("t5gemma", "text-encoding"): {"is_encoder_decoder": False},
    ("blip-2", "zero-shot-image-classification"): {"qformer_config": {"use_qformer_text_input": True}},
}
"""Values of fields by pair, those of a configuration inside as a dictionary: what a class of the model type wants."""
