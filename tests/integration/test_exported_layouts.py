"""Exports in another layout than the default one are validated and loaded like all others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

import onnxport
from onnxport import ExportOptions
from onnxport.errors import OptionError
from onnxport.layouts import rearrange
from tests.integration.test_multimodal import PLACEHOLDER, checkpoint, inputs_for
from tests.integration.tiny_models import whisper


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


@pytest.mark.parametrize(("name", "kind"), [("Qwen2VL", "qwen2_5_vl"), ("Gemma3", "gemma3")])
def test_token_embeddings_merge_the_features_of_images_for_genai(name: str, kind: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    default, output = tmp_path / "default", tmp_path / "out"
    onnxport.export(source, default, ExportOptions(validate="none"))
    components = rearrange(default, "genai", output).components
    sessions = {item.name: ort.InferenceSession(output / item.file) for item in components}
    for item in components:
        assert [one.name for one in sessions[item.name].get_inputs()] == [one.name for one in item.inputs]
    settings = json.loads((output / "genai_config.json").read_text())["model"]
    assert (settings["type"], settings["image_token_id"]) == (kind, PLACEHOLDER)

    inputs = {key: value.numpy() for key, value in inputs_for(name, model, 1).items()}
    (features,) = sessions["vision_encoder"].run(None, {key: inputs[key] for key in settings["vision"]["inputs"]})
    ids = inputs["input_ids"]
    own = model.get_input_embeddings()(torch.from_numpy(ids)).detach().numpy()
    merged = own.copy()
    merged[ids == PLACEHOLDER] = features.reshape(-1, 32)
    embed = sessions["embed_tokens"]
    (found,) = embed.run(None, {"input_ids": ids, "image_features": features})
    np.testing.assert_allclose(found, merged, atol=1e-6)
    (found,) = embed.run(None, {"input_ids": ids, "image_features": np.zeros((0, 32), np.float32)})
    np.testing.assert_allclose(found, own, atol=1e-6)  # without an image, an image token is one of text
    for refuse in (onnxport.load, lambda path: onnxport.validate(path, str(source))):
        with pytest.raises(OptionError, match="pass the export in the default layout"):
            refuse(output)


def test_gemma_3s_decoder_finds_image_tokens_for_genai(tmp_path: Path) -> None:
    model, source = checkpoint("Gemma3", tmp_path / "checkpoint")
    default, output = tmp_path / "default", tmp_path / "out"
    onnxport.export(source, default, ExportOptions(validate="none"))
    rearrange(default, "genai", output)
    inputs = inputs_for("Gemma3", model, 1)
    embeds, decoder = (
        ort.InferenceSession(output / f"{name}.onnx") for name in ("embed_tokens", "decoder_model_merged")
    )
    with torch.no_grad():
        features = model.get_image_features(inputs["pixel_values"]).pooler_output.numpy()
        expected = model(**inputs).logits.numpy()
    ids = inputs["input_ids"].numpy()
    feed = {value.name: np.zeros((1, 2, 0, 8), np.float32) for value in decoder.get_inputs()}
    feed |= {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.shape[1])[None]}
    (feed["inputs_embeds"],) = embeds.run(None, {"input_ids": ids, "image_features": features})
    np.testing.assert_allclose(decoder.run(["logits"], feed)[0], expected, atol=1e-4)
