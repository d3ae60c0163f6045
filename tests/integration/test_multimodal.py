"""Models that read pictures or sounds beside a text become components, which generate what PyTorch generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport.errors import OptionError, UnsupportedError

TOKENS, PLACE, VOCABULARY = 64, 90, 99
TEXT = {
    **{"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 37},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
SIGHT = {
    **{"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"image_size": 32, "patch_size": 8},
}
WINDOWS = {"sliding_window": 16, "num_hidden_layers": 6}
KINDS = {"layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2}
QWEN = {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}}
GRID = {"depth": 4, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
MODELS: dict[str, dict[str, Any]] = {
    "Llava": {"text_config": TEXT, "vision_config": {**SIGHT, "model_type": "clip_vision_model"}},
    "Gemma3": {
        "text_config": {**TEXT, **WINDOWS, **KINDS, "model_type": "gemma3_text", "head_dim": 8},
        "vision_config": SIGHT,
        "mm_tokens_per_image": 4,
        "boi_token_index": 91,
        "eoi_token_index": 92,
    },
    "PaliGemma": {
        "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8},
        "vision_config": {**SIGHT, "model_type": "siglip_vision_model", "vision_use_head": False},
        "projection_dim": 32,
        "hidden_size": 32,
    },
    "InternVL": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**SIGHT, "image_size": [32, 32], "patch_size": [8, 8]},
        "downsample_ratio": 0.5,
    },
    "SmolVLM": {"text_config": TEXT, "vision_config": SIGHT, "scale_factor": 2, "pad_token_id": 0},
    "Qwen2VL": {
        "text_config": {**QWEN, "model_type": "qwen2_vl_text"},
        "vision_config": {**GRID, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
    },
    "Qwen2_5_VL": {
        "text_config": {**QWEN, "model_type": "qwen2_5_vl_text"},
        "vision_config": {
            **{**GRID, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37},
            **{"window_size": 32, "fullatt_block_indexes": [2]},
        },
    },
    "Qwen3VL": {
        "text_config": {**QWEN, "model_type": "qwen3_vl_text", "head_dim": 8},
        "vision_config": {
            **{**GRID, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37},
            **{"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]},
        },
    },
    "Voxtral": {
        "text_config": TEXT,
        "audio_config": {
            **{"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
            **{"num_mel_bins": 16, "max_source_positions": 48},
        },
    },
}


def checkpoint(name: str, directory: Path) -> tuple[Any, Path]:
    """Write a tiny checkpoint, and return its model, too."""
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    places = {"audio_token_id": PLACE} if name == "Voxtral" else {"image_token_id": PLACE}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**MODELS[name], **places)).eval()
    randomize(model)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    if name == "Voxtral":
        settings = {"feature_size": 16, "chunk_length": 1, "n_fft": 400, "hop_length": 160, "sampling_rate": 15_360}
        transformers.WhisperFeatureExtractor(**settings).save_pretrained(directory)
    else:
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        transformers.CLIPImageProcessor(**size).save_pretrained(directory)
    return model, directory


def inputs_for(name: str, model: Any, batch: int) -> dict[str, torch.Tensor]:
    """Make texts with room for what a picture or a sound takes, padded on the left but for the first."""
    torch.manual_seed(batch)
    if name == "Voxtral":
        media = {"input_features": torch.randn(batch, 16, 96)}
        said = model.get_audio_features(**media).pooler_output
    elif name in GRIDDED:
        shapes = torch.tensor([[1, 4, 6], [1, 8, 4], [1, 10, 6]])[:batch]
        media = {"pixel_values": torch.randn(int(shapes.prod(-1).sum()), 3 * 2 * 8 * 8), "image_grid_thw": shapes}
        return {**texts([int(size) // 4 for size in shapes.prod(-1)]), **media}
    elif name == "SmolVLM":
        media = {
            "pixel_values": torch.randn(batch, 2, 3, 32, 32),
            "pixel_attention_mask": torch.ones(batch, 2, 32, 32, dtype=torch.bool),
        }
        media["pixel_values"][:, 1] = 0  # an empty tile
        media["pixel_attention_mask"][0, 0, 16:] = False
        said = model.get_image_features(**media).pooler_output
    else:
        media = {"pixel_values": torch.randn(batch, 3, 32, 32)}
        said = model.get_image_features(**media).pooler_output
    places = sum(states.numel() for states in said) // 32 // batch
    ids = torch.randint(5, 80, (batch, 9 + places))
    ids[:, 4 : 4 + places] = PLACE
    mask = torch.ones_like(ids)
    mask[1:, :3] = 0
    if name in ("Gemma3", "PaliGemma"):
        media["token_type_ids"] = (ids == PLACE).long() * (name == "Gemma3")
    return {"input_ids": ids, "attention_mask": mask, **media}


def texts(places: list[int]) -> dict[str, torch.Tensor]:
    """Make texts with room for pictures of different sizes, padded on the left to one length."""
    rows = [[*torch.randint(5, 80, (4,)).tolist(), *[PLACE] * count, *range(5, 10)] for count in places]
    length = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "mm_token_type_ids": (ids == PLACE).int()}


GRIDDED = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")


@pytest.mark.parametrize("name", MODELS)
def test_generated_tokens_are_the_originals(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    task = "audio-text-to-text" if name == "Voxtral" else "image-text-to-text"
    result = onnxport.export(source, tmp_path / "out", ExportOptions(task=f"{task}-with-past"))
    encoder = "audio_encoder" if name == "Voxtral" else "vision_encoder"
    assert [item.name for item in result.manifest.components] == [encoder, "embed_tokens", "decoder_model_merged"]
    ours = onnxport.load(tmp_path / "out")
    wanted = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    for batch in (1, 3):
        inputs = inputs_for(name, model, batch)
        assert torch.equal(ours.generate(**inputs, **wanted), model.generate(**inputs, **wanted))
    inputs["input_ids"][0, (inputs["input_ids"][0] == PLACE).nonzero()[0]] = 7
    with pytest.raises(OptionError, match="places"):
        ours.generate(**inputs, **wanted)


def test_what_cannot_be_described_is_said(tmp_path: Path) -> None:
    settings = {**MODELS["Llava"], "image_grid_pinpoints": [[32, 32], [64, 32]], "image_token_id": PLACE}
    model = transformers.LlavaNextForConditionalGeneration(transformers.LlavaNextConfig(**settings))
    model.save_pretrained(tmp_path / "checkpoint")
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(tmp_path / "checkpoint")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(tmp_path / "checkpoint")
    options = ExportOptions(task="image-text-to-text-with-past")
    with pytest.raises(UnsupportedError, match="wants more than pixel_values"):
        onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options)
    assert not (tmp_path / "out").exists()
