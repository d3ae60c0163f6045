"""Exports in another layout than the default one are validated and loaded like all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    EmbeddingGemma2Model,
    GPT2Config,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

import onnxport
from conformance.matrix.tiny import checkpoint_of
from onnxport import ExportOptions
from onnxport.errors import OptionError
from onnxport.layouts import rearrange
from tests.integration.test_multimodal import PLACEHOLDER, checkpoint, inputs_for
from tests.integration.tiny_models import whisper

Feed = dict[str, NDArray[Any]]


PARTS = ("query", "key", "value")


def test_an_export_is_arranged(bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = onnxport.export(bert, output, ExportOptions(layout="transformers.js", dtype="fp32,q8"))
    assert [item.file for item in result.manifest.components] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert result.manifest.validation["status"] == "passed"
    assert result.manifest.options["io_dtype"] == "fp32"  # the layout's default
    found = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert found == sorted(file.name for file in result.plan)
    assert not [name for name in found if name.startswith(".")]
    assert onnxport.verify(output).problems == ()
    assert set(result.manifest.digests) == {*found} - {"onnxport.json"}
    assert onnxport.validate(output, str(bert)).status == "passed"
    names = {graph.file for graph in onnxport.inspect(output).graphs}
    assert names == {"onnx/model.onnx", "onnx/model_quantized.onnx"}
    assert "logits" in onnxport.load(output)(input_ids=[[5, 6]], attention_mask=[[1, 1]])


def test_inputs_with_a_clients_names_are_validated_and_passed(tmp_path: Path) -> None:
    model, source = checkpoint("Qwen2VL", tmp_path / "checkpoint")
    output = tmp_path / "out"
    options = ExportOptions(layout="transformers.js", dtype="fp32", validate="none", stamping=False)
    onnxport.export(source, output, options)
    inputs = {graph.component: [value.name for value in graph.inputs] for graph in onnxport.inspect(output).graphs}
    assert set(inputs["vision_encoder"]) == {"pixel_values", "grid_thw"}
    assert onnxport.validate(output, str(source), ExportOptions(validate="quick")).status == "passed"
    prompt, settings = inputs_for("Qwen2VL", model, 1), {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    assert torch.equal(onnxport.load(output).generate(**prompt, **settings), model.generate(**prompt, **settings))


def test_a_decoder_computes_the_last_logits_only_if_the_client_says_so(gpt2: Path, tmp_path: Path) -> None:
    default, output = tmp_path / "default", tmp_path / "out"
    onnxport.export(gpt2, default, ExportOptions(dtype="fp32,q8,q4", validate="none"))
    manifest = rearrange(default, "transformers.js", output)
    for component in manifest.components:
        assert component.inputs[-1].name == "num_logits_to_keep"
        assert [value.axes[1] for value in component.outputs if value.name == "logits"] == ["num_logits"]
    assert onnxport.validate(output, str(gpt2), ExportOptions(validate="quick")).status == "passed"
    prompt = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    for dtype in ("fp32", "q8", "q4"):
        ours, theirs = (onnxport.load(directory, dtype=dtype) for directory in (output, default))
        assert torch.equal(ours.generate(**prompt, **settings), theirs.generate(**prompt, **settings))
        torch.testing.assert_close(ours(**prompt).logits, theirs(**prompt).logits)


def test_a_decoder_of_images_has_the_cache_that_transformers_js_knows(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
    encoder = ViTConfig(hidden_size=16, intermediate_size=16, **sizes)
    decoder = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, vocab_size=64)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    VisionEncoderDecoderModel(config).save_pretrained(tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "default", ExportOptions(validate="none"))
    manifest = rearrange(tmp_path / "default", "transformers.js", tmp_path / "out")
    assert manifest.client_only
    names = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
    ours, theirs = (
        ort.InferenceSession(file)
        for file in (tmp_path / "default/decoder_model_merged.onnx", tmp_path / "out/onnx/decoder_model_merged.onnx")
    )
    assert {value.name for value in theirs.get_inputs()} == {"input_ids", "encoder_hidden_states", *names}
    empty = np.zeros((1, 2, 0, 8), np.float32)
    given = {"encoder_hidden_states": np.random.default_rng(0).normal(size=(1, 17, 16)).astype(np.float32)}
    own = {value.name: empty for value in ours.get_inputs() if value.name.startswith("past")}
    other = dict.fromkeys(names, empty)
    for token in (5, 6):  # a prompt, and a token with the cache
        given["input_ids"] = np.array([[token]])
        wanted, found = (
            dict(
                zip([value.name for value in session.get_outputs()], session.run(None, {**given, **past}), strict=True)
            )
            for session, past in ((ours, own), (theirs, other))
        )
        np.testing.assert_allclose(found["logits"], wanted["logits"], atol=1e-5)
        own, other = (
            {name.replace("present", "past_key_values"): value for name, value in outputs.items() if "present" in name}
            for outputs in (wanted, found)
        )


def test_graphs_for_transformers_js_have_the_attention_of_onnx(gpt2: Path, tmp_path: Path) -> None:
    default, output = tmp_path / "default", tmp_path / "out"
    options = ExportOptions(optimize="cpu", dtype="fp32,fp16", io_dtype="fp32", validate="none")
    before = onnxport.export(gpt2, default, options).manifest.components
    after = rearrange(default, "transformers.js", output).components
    assert [one.shares_cache for one in (*before, *after)] == [True, True, False, False]
    for old, new in zip(before, after, strict=True):
        assert new.fused["Attention"] == old.fused["GroupQueryAttention"]
        assert "GroupQueryAttention" not in new.fused
    assert onnxport.validate(output, str(gpt2), ExportOptions(validate="full")).status == "passed"


def test_a_convolutional_state_is_split_for_transformers_js(tmp_path: Path) -> None:
    source, _ = checkpoint_of("olmo_hybrid", "text-generation-with-past", tmp_path)
    onnxport.export(source, tmp_path / "out", ExportOptions(task="text-generation-with-past", validate="none"))
    (component,) = rearrange(tmp_path / "out", "transformers.js", tmp_path / "js").components
    assert onnxport.verify(tmp_path / "js").problems == ()
    ours, theirs = (
        ort.InferenceSession(path) for path in (tmp_path / "out/model.onnx", tmp_path / "js/onnx/model.onnx")
    )
    assert [value.name for value in component.inputs] == [value.name for value in theirs.get_inputs()]
    assert {value.name for value in component.inputs} >= {f"past_conv.0.{part}" for part in ("query", "key", "value")}

    draw = np.random.default_rng(0)
    feed = {"input_ids": np.array([[5, 6, 7]]), "attention_mask": np.ones((1, 5), np.int64)}
    feed["position_ids"] = np.array([[2, 3, 4]])
    for value in ours.get_inputs():
        if value.name.startswith("past"):
            shape = [1 if axis == "batch_size" else 2 if isinstance(axis, str) else axis for axis in value.shape]
            feed[value.name] = draw.standard_normal(shape).astype(np.float32)
    split = dict(feed)
    for name in [name for name in feed if name.startswith("past_conv")]:
        sizes = [next(one.axes[1] for one in component.inputs if one.name == f"{name}.{part}") for part in PARTS]
        pieces = np.split(split.pop(name), np.cumsum(sizes)[:-1], axis=1)
        split |= {f"{name}.{part}": piece for part, piece in zip(PARTS, pieces, strict=True)}
    names = {value.name for value in theirs.get_inputs()}
    split |= {"num_logits_to_keep": np.array(0)} if "num_logits_to_keep" in names else {}
    expected = dict(zip([value.name for value in ours.get_outputs()], ours.run(None, feed), strict=True))
    found = dict(zip([value.name for value in theirs.get_outputs()], theirs.run(None, split), strict=True))
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
    states = [found[f"present_conv.0.{part}"] for part in PARTS]
    np.testing.assert_allclose(np.concatenate(states, axis=1), expected["present_conv.0"], atol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "q8"])
def test_whispers_encoder_computes_the_cross_attention_for_genai(dtype: str, tmp_path: Path) -> None:
    default, output = tmp_path / "default", tmp_path / "out"
    onnxport.export(whisper(tmp_path), default, ExportOptions(dtype=dtype, validate="none"))
    encoder, decoder = rearrange(default, "genai", output).components
    theirs, ours = (
        [ort.InferenceSession(directory / item.file) for item in (encoder, decoder)] for directory in (default, output)
    )
    for session, item in zip(ours, (encoder, decoder), strict=True):
        assert [one.name for one in session.get_inputs()] == [one.name for one in item.inputs]
        assert [one.name for one in session.get_outputs()] == [one.name for one in item.outputs]

    features = {"input_features": np.random.default_rng(0).standard_normal((2, 20, 3000), np.float32)}
    states = theirs[0].run(None, features)[0]
    encoded = dict(zip([one.name for one in encoder.outputs], ours[0].run(None, features), strict=True))
    np.testing.assert_array_equal(encoded["last_hidden_state"], states)
    inputs = {one.name: np.zeros((2, 4, 0, 8), np.float32) for one in decoder.inputs}
    inputs["input_ids"] = np.array([[1, 2, 3], [4, 5, 6]])
    (expected,) = theirs[1].run(["logits"], {**inputs, "encoder_hidden_states": states})
    for name in [name for name in inputs if ".encoder." in name]:
        _, layer, _, part = name.split(".")
        inputs[name] = encoded[f"present_{part}_cross_{layer}"]
    (found,) = ours[1].run(["logits"], inputs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(OptionError, match="pass the export in the default layout"):
        onnxport.load(output)


@pytest.fixture(scope="module", params=["Qwen3VL", "Gemma3"])
def vision_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Feed]:
    """The export of a model whose decoder takes more of an image than embeddings, its checkpoint, and a prompt."""
    directory = tmp_path_factory.mktemp(request.param)
    model, source = checkpoint(request.param, directory / "checkpoint")
    onnxport.export(source, directory / "default", ExportOptions(validate="none"))
    inputs = {key: value.numpy() for key, value in inputs_for(request.param, model, 1).items()}
    return directory / "default", source, inputs


def encoded(sessions: dict[str, ort.InferenceSession], inputs: Feed) -> tuple[Feed, NDArray[Any]]:
    """Return what the vision encoder returns of an image, and the embeddings of the tokens."""
    vision = sessions["vision_encoder"]
    feed = {value.name: inputs[value.name] for value in vision.get_inputs()}
    outputs = dict(zip([value.name for value in vision.get_outputs()], vision.run(None, feed), strict=True))
    return outputs, sessions["embed_tokens"].run(None, {"input_ids": inputs["input_ids"]})[0]


def test_embeddings_carry_what_a_client_does_not_pass(vision_model: tuple[Path, Path, Feed], tmp_path: Path) -> None:
    default, _, inputs = vision_model
    components = rearrange(default, "transformers.js", tmp_path / "out").components
    theirs = {item.name: ort.InferenceSession(tmp_path / "out" / item.file) for item in components}
    ours = {item.name: ort.InferenceSession(default / f"{item.name}.onnx") for item in components}
    for item in components:
        session = theirs[item.name]
        for values, found in ((item.inputs, session.get_inputs()), (item.outputs, session.get_outputs())):
            assert [(one.name, one.axes[-1:]) for one in values] == [(one.name, (*one.shape,)[-1:]) for one in found]

    is_image = inputs["input_ids"] == PLACEHOLDER
    by_axis = "image_grid_thw" in inputs  # M-RoPE
    logits = []
    for sessions in (ours, theirs):
        outputs, embeds = encoded(sessions, inputs)
        embeds[is_image] = outputs["image_features"].reshape(-1, embeds.shape[-1])
        deepstack = np.zeros((2, *is_image.shape, 32), np.float32)
        deepstack[:, is_image] = outputs.get("deepstack_features", np.zeros((2, is_image.sum(), 32)))
        decoder = sessions["decoder_model_merged"]
        positions = np.arange(is_image.shape[1])[None]
        given = {
            **{"inputs_embeds": embeds, "token_type_ids": is_image.astype(np.int64), "deepstack_embeds": deepstack},
            **{"attention_mask": np.ones_like(positions), "num_logits_to_keep": np.array(0)},
            "position_ids": np.stack([positions] * 3) if by_axis else positions,
        }
        caches = {value.name: np.zeros((1, 2, 0, 8), np.float32) for value in decoder.get_inputs()}
        feed = {name: given.get(name, empty) for name, empty in caches.items()}
        logits.append(decoder.run(["logits"], feed)[0])
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_token_embeddings_merge_the_features_of_images_for_genai(
    vision_model: tuple[Path, Path, Feed], tmp_path: Path
) -> None:
    default, source, inputs = vision_model
    components = rearrange(default, "genai", tmp_path / "out").components
    sessions = {item.name: ort.InferenceSession(tmp_path / "out" / item.file) for item in components}
    settings = json.loads((tmp_path / "out" / "genai_config.json").read_text())["model"]
    assert settings["image_token_id"] == PLACEHOLDER
    assert [value.name for value in sessions["vision_encoder"].get_outputs()] == ["image_features"]

    (features,) = sessions["vision_encoder"].run(None, {name: inputs[name] for name in settings["vision"]["inputs"]})
    assert features.shape[-1] == settings["decoder"]["hidden_size"]
    ids, embed = inputs["input_ids"], sessions["embed_tokens"]
    (own,) = embed.run(None, {"input_ids": ids, "image_features": np.zeros((0, features.shape[-1]), np.float32)})
    (found,) = embed.run(None, {"input_ids": ids, "image_features": features})
    np.testing.assert_array_equal(found[ids == PLACEHOLDER], features.reshape(-1, features.shape[-1]))
    np.testing.assert_array_equal(found[ids != PLACEHOLDER], own[ids != PLACEHOLDER])
    (plain,) = ort.InferenceSession(default / "embed_tokens.onnx").run(None, {"input_ids": ids})
    np.testing.assert_array_equal(own[..., :32], plain)  # without an image, an image token is one of text
    for refuse in (onnxport.load, lambda path: onnxport.validate(path, str(source))):
        with pytest.raises(OptionError, match="pass the export in the default layout"):
            refuse(tmp_path / "out")
    found = onnxport.verify(tmp_path / "out")
    assert found.problems == ()
    assert found.not_run == {"fp32": "the client of the layout genai alone runs the graphs"}


@pytest.fixture(scope="module")
def multimodal_encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor], NDArray[Any]]:
    """Export EmbeddingGemma 2; return the directory, inputs with an image and padded audio, and the hidden states."""
    parent = tmp_path_factory.mktemp("encoder")
    source, _ = checkpoint_of("embedding_gemma2", "feature-extraction", parent)
    model = EmbeddingGemma2Model.from_pretrained(source).eval()
    config = model.config
    side, patch = 2 * config.vision_config.pooling_kernel_size, 3 * config.vision_config.patch_size**2
    grid = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")
    frames = torch.tensor([64, 40])
    inputs = {
        "pixel_values": torch.rand(1, side**2, patch),
        "image_position_ids": torch.stack(grid, -1).reshape(1, -1, 2),
        "input_features": torch.randn(2, 64, 128),
        "input_features_mask": torch.arange(64) < frames[:, None],
    }
    tokens = [[config.audio_token_id] * (int(count) // 4) for count in frames]
    rows = [[2, *[config.image_token_id] * 4, 5, *tokens[0], 1], [2, *tokens[1], 6, 1]]
    length = max(map(len, rows))
    inputs["input_ids"] = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    inputs["attention_mask"] = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    options = ExportOptions(task="feature-extraction", validate="none", external_data="always")
    onnxport.export(source, parent / "out", options)
    with torch.no_grad():
        return parent / "out", inputs, model(**inputs).last_hidden_state.numpy()


def test_the_padding_of_audio_has_no_features(
    multimodal_encoder: tuple[Path, dict[str, torch.Tensor], NDArray[Any]],
) -> None:
    directory, inputs, expected = multimodal_encoder
    real = inputs["attention_mask"].numpy() == 1
    states = onnxport.load(directory)(**inputs).last_hidden_state.numpy()
    np.testing.assert_allclose(states[real], expected[real], atol=1e-4)


def test_a_multimodal_encoder_is_one_graph_for_transformers_js(
    multimodal_encoder: tuple[Path, dict[str, torch.Tensor], NDArray[Any]], tmp_path: Path
) -> None:
    directory, inputs, expected = multimodal_encoder
    components = {item.name: item for item in rearrange(directory, "transformers.js", tmp_path / "out").components}
    assert components.keys() == {"vision_encoder", "audio_encoder", "model"}
    assert components["model"].external_data == ("onnx/model.onnx_data", "onnx/model.onnx_data_1")
    assert onnxport.verify(tmp_path / "out").problems == ()

    sessions = {name: ort.InferenceSession(tmp_path / "out" / item.file) for name, item in components.items()}
    given = {name: tensor.numpy() for name, tensor in inputs.items()}
    images = {"pixel_values": given["pixel_values"], "pixel_position_ids": given["image_position_ids"]}
    audio = {name: given[name] for name in ("input_features", "input_features_mask")}
    feed = {
        **{name: given[name] for name in ("input_ids", "attention_mask")},
        "image_features": sessions["vision_encoder"].run(["image_features"], images)[0],
        "video_features": np.zeros((0, expected.shape[-1]), np.float32),
        "audio_features": sessions["audio_encoder"].run(["audio_features"], audio)[0],
    }
    states, embedding = sessions["model"].run(["last_hidden_state", "sentence_embedding"], feed)
    real = given["attention_mask"] == 1
    np.testing.assert_allclose(states[real], expected[real], atol=1e-4)
    mean = np.stack([rows[mask].mean(0) for rows, mask in zip(expected, real, strict=True)])
    np.testing.assert_allclose(embedding, mean / np.linalg.norm(mean, axis=-1, keepdims=True), atol=1e-5)
