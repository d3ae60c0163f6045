"""Multimodal models become several graphs, which generate the same tokens as PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.tiny import checkpoint_of
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport._describe import describe_checkpoint
from onnxport.architectures.classes import infer_task
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.light import LightModel
from tests.breadth import sampled

TOKENS, PLACEHOLDER, VOCABULARY = 64, 90, 99
TEXT = {
    **{"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 37},
    **{"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4},
    **{"image_size": 32, "patch_size": 8},
}
WINDOWS = {"sliding_window": 16, "num_hidden_layers": 6}
LAYER_TYPES = {"layer_types": [*["sliding_attention"] * 2, "full_attention"] * 2}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
QWEN = {**TEXT, "rope_parameters": ROPE}
GRID = {"depth": 4, "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
PACKED_VISION = {**GRID, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 4, "intermediate_size": 37}
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32]]
MODELS: dict[str, dict[str, Any]] = {
    "Llava": {"text_config": TEXT, "vision_config": {**VISION, "model_type": "clip_vision_model"}},
    "Gemma3": {
        "text_config": {**TEXT, **WINDOWS, **LAYER_TYPES, "model_type": "gemma3_text", "head_dim": 8},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
        "boi_token_index": 91,
        "eoi_token_index": 92,
    },
    "PaliGemma": {
        "text_config": {**TEXT, "model_type": "gemma", "head_dim": 8},
        "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        "projection_dim": 32,
        "hidden_size": 32,
    },
    "InternVL": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        "downsample_ratio": 0.5,
    },
    "SmolVLM": {"text_config": TEXT, "vision_config": VISION, "scale_factor": 2, "pad_token_id": 0},
    "Idefics3": {"text_config": TEXT, "vision_config": VISION, "scale_factor": 2, "pad_token_id": 0},
    "Idefics2": {
        "text_config": {**TEXT, "model_type": "mistral"},
        "vision_config": VISION,
        "perceiver_config": {
            **{"hidden_size": 32, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4},
            **{"resampler_head_dim": 8, "num_key_value_heads": 2},
        },
    },
    "PerceptionLM": {
        "text_config": TEXT,
        "vision_config": {
            **{**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
            "model_args": {"embed_dim": 32},
        },
        "vision_use_cls_token": False,
    },
    "Qwen2VL": {
        "text_config": {**QWEN, "model_type": "qwen2_vl_text"},
        "vision_config": {**GRID, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2},
    },
    "Qwen2_5_VL": {
        "text_config": {**QWEN, "model_type": "qwen2_5_vl_text"},
        "vision_config": {
            **PACKED_VISION,
            **{"window_size": 32, "fullatt_block_indexes": [2]},
        },
    },
    "Qwen3VL": {
        "text_config": {**QWEN, "model_type": "qwen3_vl_text", "head_dim": 8},
        "vision_config": {**PACKED_VISION, "num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]},
    },
    "LlavaNext": {
        "text_config": TEXT,
        "vision_config": {**VISION, "model_type": "clip_vision_model"},
        "image_grid_pinpoints": PINPOINTS,
    },
    "LlavaOnevision": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
        "image_grid_pinpoints": PINPOINTS,
        "vision_aspect_ratio": "anyres_max_2",
    },
    "Qwen3_5": {
        "text_config": {
            **{**QWEN, "model_type": "qwen3_5_text", "head_dim": 8, "num_hidden_layers": 4},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2},
            **{"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
            "rope_parameters": {**ROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0},
        },
        "vision_config": {**PACKED_VISION, "num_position_embeddings": 36},
    },
    "GlmOcr": {
        "text_config": {**QWEN, "model_type": "glm_ocr_text", "head_dim": 8},
        "vision_config": PACKED_VISION,
    },
    "Voxtral": {
        "text_config": TEXT,
        "audio_config": {
            **{"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4},
            **{"num_mel_bins": 16, "max_source_positions": 48},
        },
    },
    "Qwen2Audio": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "audio_config": {
            **{"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 37},
            **{"num_mel_bins": 16, "max_source_positions": 48, "model_type": "qwen2_audio_encoder"},
        },
    },
}
EVERY_TIME = ("Llava", "Voxtral")
"""One model with images and one with audio; `test_videos.py` has one that counts positions in three axes."""
WITH_AUDIO = ("Voxtral", "Qwen2Audio")


def checkpoint(name: str, directory: Path) -> tuple[Any, Path]:
    """Write a tiny checkpoint, and return its model."""
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    token_ids = {"audio_token_id": PLACEHOLDER} if name in WITH_AUDIO else {"image_token_id": PLACEHOLDER}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**MODELS[name], **token_ids)).eval()
    randomize(model)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    if name in WITH_AUDIO:
        settings = {"feature_size": 16, "chunk_length": 1, "n_fft": 400, "hop_length": 160, "sampling_rate": 15_360}
        transformers.WhisperFeatureExtractor(**settings).save_pretrained(directory)
    else:
        size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        transformers.CLIPImageProcessor(**size).save_pretrained(directory)
    return model, directory


def inputs_for(name: str, model: Any, batch: int) -> dict[str, torch.Tensor]:
    """Return prompts with placeholder tokens for an image or audio clip; all but the first are padded on the left."""
    torch.manual_seed(batch)
    if name == "Voxtral":
        modality = {"input_features": torch.randn(batch, 16, 96)}
        features = model.get_audio_features(**modality).pooler_output
    elif name == "Qwen2Audio":
        lengths = torch.tensor([96, 51, 70])[:batch]
        mask = (torch.arange(96)[None] < lengths[:, None]).long()
        modality = {"input_features": torch.randn(batch, 16, 96), "feature_attention_mask": mask}
        return {**padded_prompts([(length + 1) // 4 for length in lengths.tolist()]), **modality}
    elif name in PACKED:
        shapes = torch.tensor([[1, 4, 6], [1, 8, 4], [1, 10, 6]])[:batch]
        modality = {"pixel_values": torch.randn(int(shapes.prod(-1).sum()), 3 * 2 * 8 * 8), "image_grid_thw": shapes}
        prompts = padded_prompts([int(size) // 4 for size in shapes.prod(-1)])
        return {**prompts, "mm_token_type_ids": (prompts["input_ids"] == PLACEHOLDER).int(), **modality}
    elif name in TILED:
        sizes = torch.tensor([[70, 80], [50, 20], [40, 64]])[:batch]
        modality = {"pixel_values": torch.randn(batch, 5, 3, 32, 32), "image_sizes": sizes}
        with torch.no_grad():
            features = model.get_image_features(**modality).pooler_output
        return {**padded_prompts([len(embeddings) for embeddings in features]), **modality}
    elif name in ("SmolVLM", "Idefics3", "Idefics2"):
        modality = {
            "pixel_values": torch.randn(batch, 2, 3, 32, 32),
            "pixel_attention_mask": torch.ones(batch, 2, 32, 32, dtype=torch.bool),
        }
        modality["pixel_values"][::2, 1] = 0  # an empty tile
        modality["pixel_attention_mask"][0, 0, 16:] = False
        return {**padded_prompts([4, 8, 4][:batch]), **modality}
    else:
        tiles = (2,) if name == "PerceptionLM" else ()
        modality = {"pixel_values": torch.randn(batch, *tiles, 3, 32, 32)}
        features = model.base_model.get_image_features(**modality).pooler_output
    count = sum(embeddings.numel() for embeddings in features) // 32 // batch
    ids = torch.randint(5, 80, (batch, 9 + count))
    ids[:, 4 : 4 + count] = PLACEHOLDER
    mask = torch.ones_like(ids)
    mask[1:, :3] = 0
    if name in ("Gemma3", "PaliGemma"):
        modality["token_type_ids"] = (ids == PLACEHOLDER).long() * (name == "Gemma3")
    return {"input_ids": ids, "attention_mask": mask, **modality}


def padded_prompts(placeholders: list[int]) -> dict[str, torch.Tensor]:
    """Return prompts with placeholder tokens for images of different sizes, padded on the left."""
    rows = [[*torch.randint(5, 80, (4,)).tolist(), *[PLACEHOLDER] * count, *range(5, 10)] for count in placeholders]
    length = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


PACKED = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Qwen3_5", "GlmOcr")
TILED = ("LlavaNext", "LlavaOnevision")


@pytest.mark.parametrize("name", sampled(MODELS, EVERY_TIME))
def test_generated_tokens_equal_pytorchs(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    task = "audio-text-to-text" if name in WITH_AUDIO else "image-text-to-text"
    result = onnxport.export(source, tmp_path / "out", ExportOptions(task=f"{task}-with-past"))
    encoder = "audio_encoder" if name in WITH_AUDIO else "vision_encoder"
    assert [item.name for item in result.manifest.components] == [encoder, "embed_tokens", "decoder_model_merged"]
    ours = onnxport.load(tmp_path / "out", threads=1)
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    for batch in (1, 3):
        inputs = inputs_for(name, model, batch)
        assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))
    light = LightModel(ours.directory)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    if name in PACKED:
        with pytest.raises(UnsupportedError, match="rotary position ids"):
            light.generate(arrays, max_new_tokens=TOKENS)
    else:
        greedy = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": -1}
        np.testing.assert_array_equal(light.generate(arrays, **greedy), model.generate(**inputs, **greedy).numpy())
    inputs["input_ids"][0, (inputs["input_ids"][0] == PLACEHOLDER).nonzero()[0]] = 7
    with pytest.raises(OptionError, match="placeholder"):
        ours.generate(**inputs, **settings)


@pytest.mark.parametrize("name", sampled(("Llava", "Qwen3VL", "Voxtral"), ("Llava",)))
def test_without_past_the_graphs_take_images_or_audio_too(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    result = onnxport.export(source, tmp_path / "out", ExportOptions(past=False))
    assert not result.manifest.task.endswith("-with-past")
    encoder = "audio_encoder" if name in WITH_AUDIO else "vision_encoder"
    components = {item.name: [value.name for value in item.inputs] for item in result.manifest.components}
    assert list(components) == [encoder, "embed_tokens", "decoder_model_merged"]
    assert not any(value.startswith("past_") for inputs in components.values() for value in inputs)
    ours = onnxport.load(tmp_path / "out")
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    for batch in (1, 3):
        inputs = inputs_for(name, model, batch)
        assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))


@pytest.mark.wide
@pytest.mark.parametrize("name", ("Llava", "Qwen2VL", "Qwen3VL", "Idefics3"))
def test_a_base_model_takes_images_too(name: str, tmp_path: Path) -> None:
    whole, source = checkpoint(name, tmp_path / "checkpoint")
    model = whole.model
    model.save_pretrained(source)
    result = onnxport.export(source, tmp_path / "out")
    assert result.manifest.source["architecture"] == type(model).__name__
    assert "pixel_values" in {value.name for item in result.manifest.components for value in item.inputs}
    ours = onnxport.load(tmp_path / "out")
    for batch in (1, 3):
        inputs = inputs_for(name, whole, batch)
        with torch.no_grad():
            expected = model(**inputs).last_hidden_state
        unpadded = inputs["attention_mask"].bool()
        torch.testing.assert_close(ours(**inputs).last_hidden_state[unpadded], expected[unpadded], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("task", ["automatic-speech-recognition", "text2text-generation"])
def test_a_decoder_takes_audio_under_any_task(task: str, tmp_path: Path) -> None:
    _, source = checkpoint("Voxtral", tmp_path / "checkpoint")
    for past in ("", "-with-past"):
        graphs = describe_checkpoint(source, ExportOptions(task=f"{task}{past}")).graphs
        assert [graph.name for graph in graphs] == ["audio_encoder", "embed_tokens", "decoder_model_merged"]


@pytest.mark.parametrize("name", sampled(("Llava", "Qwen2VL", "Qwen3VL", "LlavaNext"), ("Llava", "LlavaNext")))
def test_beams_share_the_images_of_their_prompt(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    options = ExportOptions(task="image-text-to-text-with-past", validate="none")
    onnxport.export(source, tmp_path / "out", options)
    ours = onnxport.load(tmp_path / "out", threads=1)
    inputs = inputs_for(name, model, 3)
    ids = inputs["input_ids"]  # the first prompt has the second's image, too; the prompt after it has none
    rows = [ids[0].tolist() + ids[1][ids[1] != 0].tolist(), [7] * 9, ids[2][ids[2] != 0].tolist()]
    length = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    inputs |= {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (ids == PLACEHOLDER).int()
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": 3}
    for more in ({}, {"num_return_sequences": 2}):
        assert torch.equal(ours.generate(**inputs, **settings, **more), model.generate(**inputs, **settings, **more))


@pytest.mark.wide
def test_without_types_of_tokens_images_are_counted_like_text(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, source = checkpoint("Qwen2_5_VL", tmp_path / "checkpoint")
    options = ExportOptions(task="image-text-to-text-with-past", validate="none")
    onnxport.export(source, tmp_path / "out", options)
    ours = onnxport.load(tmp_path / "out", threads=1)
    inputs = inputs_for("Qwen2_5_VL", model, 2)
    with torch.no_grad():
        typed = model(**inputs).logits
        del inputs["mm_token_type_ids"]
        expected = model(**inputs).logits
    assert not torch.allclose(typed, expected, atol=1e-3)
    last = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours(**inputs).logits[last], expected[last], atol=1e-4, rtol=1e-3)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))
    assert "mm_token_type_ids is missing" in caplog.text


@pytest.mark.wide
def test_a_model_whose_decoder_generates_counts_positions_as_the_decoder_does(tmp_path: Path) -> None:
    source, _ = checkpoint_of("kosmos-2", "image-to-text", tmp_path)
    options = ExportOptions(task="image-text-to-text-with-past", validate="none")
    onnxport.export(source, tmp_path / "out", options)
    ours = onnxport.load(tmp_path / "out", threads=1)
    model = transformers.AutoModelForImageTextToText.from_pretrained(source).eval()
    count = model.config.latent_query_num
    ids = torch.tensor([[5, 6, *[9] * count, 7, 8], [1, 6, *[9] * count, 7, 10]])
    marks = torch.zeros_like(ids)
    marks[:, 2 : 2 + count] = 1
    inputs = {"input_ids": ids, "attention_mask": (ids != 1).long(), "image_embeds_position_mask": marks}
    inputs["pixel_values"] = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 8, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    found, expected = (each.generate(**inputs, **settings) for each in (ours, model))
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=1e-4, rtol=1e-4)
    settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2}
    assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))


def phi(directory: Path) -> Any:
    """Write a tiny Phi-4-multimodal, which takes images and audio, and return its model."""
    text = {key: value for key, value in TEXT.items() if key != "model_type"}
    vision = {**VISION, "num_hidden_layers": 4, "patch_size": 4, "crop_size": 32, "image_token_id": PLACEHOLDER}
    audio = {
        **{"hidden_size": 32, "intermediate_size": 37, "num_blocks": 3, "num_attention_heads": 4, "input_size": 16},
        **{"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 16},
        **{"bias_max_distance": 20, "audio_token_id": PLACEHOLDER + 1},
    }
    config = transformers.Phi4MultimodalConfig(
        **text, original_max_position_embeddings=256, vision_config=vision, audio_config=audio
    )
    torch.manual_seed(0)
    model = transformers.Phi4MultimodalForCausalLM(config).eval()
    randomize(model)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    return model


def images_for_phi(batch: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Return images of 2 x 1, 1 x 2 and 1 x 1 crops, the first two padded, and their numbers of placeholder tokens."""
    mask = torch.ones(3, 3, 8, 8, dtype=torch.bool)
    mask[0, 2, 3:] = mask[1, 2, :, 5:] = False
    sizes = torch.tensor([[64, 32], [32, 64], [32, 32]])
    modality = {"image_pixel_values": torch.randn(3, 3, 3, 32, 32), "image_sizes": sizes, "image_attention_mask": mask}
    grids = [(4 + 2, 4), (4, 4 + 3), (4, 4)]  # one embedding for two patches
    counts = [rows * (columns + 1) + 1 + 4 * (4 + 1) for rows, columns in grids]
    return counts[:batch], {name: value[:batch] for name, value in modality.items()}


def audios_for_phi(batch: int) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Return audio clips of different lengths, and their numbers of placeholder tokens."""
    lengths = torch.tensor([75, 40, 61])[:batch]
    frames = int(lengths.max())
    modality = {"audio_input_features": torch.randn(batch, frames, 16), "audio_embed_sizes": -(-lengths // 8)}
    if batch > 1:  # as in the processor
        modality["audio_attention_mask"] = torch.arange(frames)[None] < lengths[:, None]
    return modality["audio_embed_sizes"].tolist(), modality


@pytest.mark.wide
def test_phi_takes_images_and_audio(tmp_path: Path) -> None:
    model = phi(tmp_path / "checkpoint")
    options = ExportOptions(task="audio-text-to-text-with-past")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options)
    names = ["vision_encoder", "audio_encoder", "embed_tokens", "decoder_model_merged"]
    assert [item.name for item in result.manifest.components] == names
    assert any("encoders: 2 layers traced" in note for note in result.manifest.components[1].notes)
    ours = onnxport.load(tmp_path / "out", threads=1)
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False}
    for batch in (1, 3):
        torch.manual_seed(batch)
        (image_counts, images), (audio_counts, audios) = images_for_phi(batch), audios_for_phi(batch)
        both = padded_prompts([sum(counts) for counts in zip(image_counts, audio_counts, strict=True)])
        for row, count in zip(both["input_ids"], audio_counts, strict=True):
            row[(row == PLACEHOLDER).nonzero()[-count:]] = PLACEHOLDER + 1
        only_audios = padded_prompts(audio_counts)
        only_audios["input_ids"] += (only_audios["input_ids"] == PLACEHOLDER).long()
        only_images = {**padded_prompts(image_counts), **images}
        for inputs in (only_images, {**only_audios, **audios}, {**both, **images, **audios}):
            assert torch.equal(ours.generate(**inputs, **settings), model.generate(**inputs, **settings))
    audios["audio_input_features"] = torch.zeros(3, 4001, 16)
    with pytest.raises(OptionError, match="4001 frames"):
        ours(**only_audios, **audios)


@pytest.mark.parametrize(
    ("name", "head", "task"),
    [
        *((name, "ForConditionalGeneration", "audio-text-to-text-with-past") for name in WITH_AUDIO),
        ("Phi4Multimodal", "ForCausalLM", "audio-text-to-text-with-past"),
        ("Gemma3", "ForConditionalGeneration", "image-to-text-with-past"),
        ("Llava", "ForConditionalGeneration", "image-to-text-with-past"),
        ("Gemma3Text", "ForCausalLM", "text-generation-with-past"),
    ],
)
def test_the_inferred_task_has_images_or_audio(name: str, head: str, task: str) -> None:
    config = getattr(transformers, f"{name}Config")(architectures=[f"{name.removesuffix('Text')}{head}"])
    assert infer_task(config).full_name == task


@pytest.mark.parametrize("name", sampled(TILED, ("LlavaNext",)))
def test_images_of_any_size_are_tiled_as_in_the_original(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    onnxport.export(source, tmp_path / "out", ExportOptions(task="image-text-to-text-with-past", validate="none"))
    encoder = onnxport.load(tmp_path / "out").directory.graph("vision_encoder")
    torch.manual_seed(0)
    for batch, high in zip([1, 2, 3] * 20, range(8, 248, 4), strict=True):
        sizes = torch.tensor([[high, 96], [97, high + 1], [high, high]])[:batch]
        inputs = {"pixel_values": torch.randn(batch, 5, 3, 32, 32), "image_sizes": sizes}
        if name == "LlavaOnevision":  # sometimes prompts with several images, which aren't tiled
            inputs["batch_num_images"] = torch.tensor([batch, 0] if high % 3 else [1] * batch)
        with torch.no_grad():
            expected = torch.cat(model.get_image_features(**inputs).pooler_output)
        found = encoder.run({key: value.numpy() for key, value in inputs.items()})["image_features"].numpy()
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)


def git(directory: Path) -> Any:
    """Write a tiny GIT, and return its model."""
    text = {key: value for key, value in TEXT.items() if key not in ("model_type", "num_key_value_heads")}
    torch.manual_seed(0)
    model = transformers.GitForCausalLM(transformers.GitConfig(**text, vision_config=VISION)).eval()
    randomize(model)
    model.save_pretrained(directory)
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(directory)
    return model


def assert_greedy_tokens_equal(ours: Any, model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Compare the greedy tokens of an export, with and without torch, with PyTorch's."""
    expected = model.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    found = ours.generate(**inputs, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    assert torch.equal(found, expected)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    light = LightModel(ours.directory)
    tokens = light.generate(arrays, max_new_tokens=TOKENS, do_sample=False, eos_token_id=-1)
    np.testing.assert_array_equal(tokens, expected.numpy())


@pytest.mark.wide
@pytest.mark.parametrize("past", [True, False])
def test_git_reads_its_image_before_the_prompt(past: bool, tmp_path: Path) -> None:
    model = git(tmp_path / "checkpoint")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(past=past))
    assert result.manifest.task == ("image-to-text-with-past" if past else "image-to-text")
    assert [item.merge for item in result.manifest.modalities] == ["prefix"]
    ours = onnxport.load(tmp_path / "out")
    for batch in (1, 3):
        prompt = padded_prompts([0, 5, 2][:batch])  # of different lengths
        with_images = {**prompt, "pixel_values": torch.randn(batch, 3, 32, 32)}
        # Without an image, Transformers (5.23) still extends the mask by the image embeddings: padding is misplaced.
        for inputs in (with_images, *([prompt] if batch == 1 else [])):
            assert_greedy_tokens_equal(ours, model, inputs)
        beams = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": 3}
        assert torch.equal(ours.generate(**with_images, **beams), model.generate(**with_images, **beams))


def mllama(directory: Path) -> Any:
    """Write a tiny Mllama with two layers of cross-attention, and return its model."""
    vision = {
        **{"hidden_size": 32, "attention_heads": 4, "intermediate_size": 37, "num_hidden_layers": 3},
        **{"num_global_layers": 2, "vision_output_dim": 96, "image_size": 32, "patch_size": 8, "max_num_tiles": 4},
        **{"intermediate_layers_indices": [0, 2], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2]]},
    }
    text = {**TEXT, "model_type": "mllama_text_model", "num_hidden_layers": 6, "cross_attention_layers": [1, 4]}
    config = transformers.MllamaConfig(vision_config=vision, text_config=text, image_token_index=PLACEHOLDER)
    torch.manual_seed(0)
    model = transformers.MllamaForConditionalGeneration(config).eval()
    randomize(model)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(directory)
    make_tokenizer("bart", VOCABULARY, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    return model


def tiles_for_mllama(mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return two images of one to four tiles for each prompt; its first token attends to none, later ones to more."""
    batch, length = mask.shape
    counts = torch.tensor([[1, 2], [4, 2], [2, 1]])[:batch]
    exists = (torch.arange(4) < counts[..., None]).long()
    attends = exists[:, None].expand(-1, length, -1, -1).clone()
    attends[:, :, 1] *= (torch.arange(length) >= length - 3)[None, :, None]
    attends *= (mask.cumsum(-1) > 1)[..., None, None]
    return {
        "pixel_values": torch.randn(batch, 2, 4, 3, 32, 32),
        "aspect_ratio_ids": torch.tensor([[1, 2], [4, 3], [2, 1]])[:batch],
        "aspect_ratio_mask": exists,
        "cross_attention_mask": attends,
    }


@pytest.mark.wide
@pytest.mark.parametrize("past", [True, False])
def test_mllama_attends_to_its_images(past: bool, tmp_path: Path) -> None:
    model = mllama(tmp_path / "checkpoint")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(past=past))
    assert result.manifest.task == ("image-to-text-with-past" if past else "image-to-text")
    assert [item.merge for item in result.manifest.modalities] == ["cross-attention"]
    ours = onnxport.load(tmp_path / "out")
    for batch in (1, 3):
        prompt = padded_prompts([0, 5, 2][:batch])  # of different lengths
        with_images = {**prompt, **tiles_for_mllama(prompt["attention_mask"])}
        for inputs in (with_images, prompt):
            assert_greedy_tokens_equal(ours, model, inputs)
        beams = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": 3}
        assert torch.equal(ours.generate(**with_images, **beams), model.generate(**with_images, **beams))


def test_unsupported_multimodal_models_are_an_error(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of(
        "idefics", "image-to-text", tmp_path / "checkpoints"
    )  # its layers, not an encoder, take images
    options = ExportOptions(task="image-text-to-text-with-past")
    with pytest.raises(UnsupportedError, match=r"no method that encodes images.*name the task without -with-past"):
        onnxport.export(checkpoint, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_graphs_that_would_take_text_only_are_refused(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("evolla", "image-to-text", tmp_path / "checkpoints")
    with pytest.raises(UnsupportedError, match="has no method that encodes images") as raised:
        onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task="image-text-to-text-with-past"))
    assert "--no-past" not in str(raised.value)
