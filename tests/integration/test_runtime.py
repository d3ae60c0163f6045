"""A loaded export does what the Transformers model does with the same arguments, or raises an error that names one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.matrix.tiny import checkpoint_of
from onnxport import ExportOptions
from onnxport.errors import OptionError, SizeLimitError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel

TOKENS = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def saved(model: Any, directory: Path) -> Any:
    """Save a model with random weights; return it as PyTorch loads it."""
    randomize(model)
    model.save_pretrained(directory)
    return type(model).from_pretrained(directory, use_kernels=False).eval()


def prompts(length: int) -> dict[str, torch.Tensor]:
    """Return two prompts, the second padded on the left."""
    ids = torch.randint(3, 99, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def longrope(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A Phi-3 whose rotary embeddings change after 32 tokens, and its export."""
    root = tmp_path_factory.mktemp("longrope")
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    config = transformers.Phi3Config(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=32,
        pad_token_id=0,
        rope_parameters={
            **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32},
            **factors,
        },
    )
    model = saved(transformers.Phi3ForCausalLM(config), root / "checkpoint")
    onnxport.export(root / "checkpoint", root / "out")
    return model, root / "out"


def test_an_export_is_used_when_it_is_validated_again(longrope: tuple[Any, Path], tmp_path: Path) -> None:
    _, directory = longrope
    assert {"32 tokens", "32 tokens, padded batch"} <= {case.name for case in onnxport.validate(directory).cases}
    changed = tmp_path / "out"
    shutil.copytree(directory, changed)
    manifest = changed / "onnxport.json"
    manifest.write_text(manifest.read_text().replace('"reread_length": 32', '"reread_length": 0'))
    assert {case.name for case in onnxport.validate(changed).cases if not case.passed} == {
        "32 tokens",
        "32 tokens, padded batch",
    }


@pytest.mark.parametrize("length", [20, 30, 40])
def test_the_cache_is_recomputed_where_rotary_embeddings_change(length: int, longrope: tuple[Any, Path]) -> None:
    model, directory = longrope
    expected = model.generate(**prompts(length), **TOKENS)
    assert torch.equal(onnxport.load(directory).generate(**prompts(length), **TOKENS), expected)
    arrays = {name: tensor.numpy() for name, tensor in prompts(length).items()}
    light = LightModel(Directory(directory)).generate(arrays, max_new_tokens=20, do_sample=False, eos_token_id=-1)
    same = light.shape[1]
    np.testing.assert_array_equal(light, expected.numpy()[:, :same])


def test_flags_that_training_leaves_in_the_configuration(tmp_path: Path) -> None:
    config = transformers.GPT2Config(
        **{"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        **{"bos_token_id": 98, "eos_token_id": 98, "use_cache": False, "output_hidden_states": True},
    )
    model = saved(transformers.GPT2LMHeadModel(config), tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(validate="none"))
    loaded: Any = onnxport.load(tmp_path / "out")
    found = loaded.generate(**prompts(9), **TOKENS, return_dict_in_generate=True)
    expected = model.generate(**prompts(9), **TOKENS, return_dict_in_generate=True, use_cache=True)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.past_key_values.get_seq_length() == 28  # of 29 tokens: the last one wasn't read


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    root = tmp_path_factory.mktemp("gpt2")
    config = transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    model = saved(transformers.GPT2LMHeadModel(config), root / "checkpoint")
    onnxport.export(root / "checkpoint", root / "out", ExportOptions(validate="none"))
    return model, onnxport.load(root / "out")


def test_options_of_forward(gpt2: tuple[Any, Any]) -> None:
    model, loaded = gpt2
    ids = prompts(9)["input_ids"][:1]
    with torch.no_grad():
        expected = model(ids, logits_to_keep=2).logits
    torch.testing.assert_close(loaded(ids, logits_to_keep=2).logits, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loaded(ids, return_dict=False)[0][:, -2:], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs_embeds": torch.ones(1, 9, 32)}, "inputs_embeds: no graph of .*computed from the other inputs"),
        ({"labels": torch.ones(1, 9, dtype=torch.int64)}, "labels: no graph of .*for training"),
        ({"encoder_hidden_states": torch.ones(1, 4, 32)}, "encoder_hidden_states: no graph of"),
    ],
)
def test_an_argument_that_the_graph_lacks_is_an_error(
    arguments: dict[str, Any], message: str, gpt2: tuple[Any, Any]
) -> None:
    ids = prompts(9)["input_ids"][:1]
    with pytest.raises(OptionError, match=message):
        gpt2[1](ids, **arguments)


def test_a_text_longer_than_the_model_is_an_error_with_both_numbers(gpt2: tuple[Any, Any]) -> None:
    with pytest.raises(SizeLimitError, match="the sequence is 70 long, and the model has 64 positions"):
        gpt2[1](torch.ones(1, 70, dtype=torch.int64))


def test_inputs_of_different_lengths_are_an_error_with_both_numbers(gpt2: tuple[Any, Any]) -> None:
    arguments = {"input_ids": torch.ones(1, 9, dtype=torch.int64), "position_ids": torch.ones(1, 8, dtype=torch.int64)}
    with pytest.raises(OptionError, match="the sequence_length of input_ids is 9, and that of position_ids is 8"):
        gpt2[1](**arguments)


def test_an_image_size_that_the_graph_fixes_is_an_error_with_both_sizes(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", tmp_path / "checkpoints")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(validate="none"))
    loaded: Any = onnxport.load(tmp_path / "out")
    with pytest.raises(OptionError, match=r"pixel_values is \[1, 4, 9, 9\], and model.onnx takes \[.*3, "):
        loaded(pixel_values=torch.ones(1, 4, 9, 9))


@pytest.mark.wide
def test_prompts_and_flags_of_sam(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("sam", "mask-generation", tmp_path / "checkpoints")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task="mask-generation", validate="none"))
    loaded: Any = onnxport.load(tmp_path / "out")
    model = transformers.SamModel.from_pretrained(checkpoint, use_kernels=False).eval()
    side = model.config.vision_config.image_size
    inputs = {"pixel_values": torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))}
    inputs["input_boxes"] = torch.tensor([[[2.0, 3.0, 20.0, 25.0]]])
    sizes = {"original_sizes": torch.tensor([[60, 40]]), "reshaped_input_sizes": torch.tensor([[side, side]])}
    with torch.no_grad():
        expected = model(**inputs).pred_masks
    torch.testing.assert_close(loaded(**inputs, **sizes).pred_masks, expected, atol=1e-3, rtol=1e-3)
    embeddings = loaded.get_image_embeddings(inputs["pixel_values"])
    prompts = {"input_boxes": inputs["input_boxes"], "image_embeddings": embeddings}
    torch.testing.assert_close(loaded(**prompts).pred_masks, expected, atol=1e-3, rtol=1e-3)  # as the pipeline calls it
    with pytest.raises(OptionError, match=r"multimask_output: no graph of .*the graph has its value True"):
        loaded(**inputs, multimask_output=False)


@pytest.mark.wide
def test_speech_without_a_mask_is_speech_without_padding(tmp_path: Path) -> None:
    config = transformers.SpeechT5Config(
        **{"vocab_size": 81, "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 1},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37},
        **{"conv_dim": (32, 32), "conv_stride": (4, 4), "conv_kernel": (8, 3), "num_feat_extract_layers": 2},
        **{"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "feat_extract_norm": "layer"},
    )
    model = saved(transformers.SpeechT5ForSpeechToText(config), tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(validate="none"))
    loaded: Any = onnxport.load(tmp_path / "out")
    audio = torch.randn(2, 1601, generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    assert torch.equal(loaded.generate(input_values=audio, **settings), model.generate(input_values=audio, **settings))


def test_whisper_returns_scores_and_its_cache(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("whisper", "speech2seq-lm", tmp_path / "checkpoints")
    task = "automatic-speech-recognition-with-past"
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(task=task, validate="none"))
    model = transformers.WhisperForConditionalGeneration.from_pretrained(checkpoint, use_kernels=False).eval()
    loaded: Any = onnxport.load(tmp_path / "out")
    shape = (1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_scores": True}
    found, expected = (each.generate(input_features=features, **settings) for each in (loaded, model))
    assert torch.equal(found.sequences, expected.sequences)
    torch.testing.assert_close(torch.stack(found.scores), torch.stack(expected.scores), atol=1e-4, rtol=1e-3)
    for part in ("self_attention_cache", "cross_attention_cache"):
        layer, original = (getattr(each.past_key_values, part).layers[0] for each in (found, expected))
        torch.testing.assert_close(layer.keys, original.keys, atol=1e-4, rtol=1e-3)
