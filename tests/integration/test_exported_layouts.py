"""Exports in another layout than the default one are validated and loaded like all others."""

from __future__ import annotations

from pathlib import Path

import torch

import onnxport
from onnxport import ExportOptions
from onnxport.layouts import rearrange
from tests.integration.test_multimodal import checkpoint, inputs_for


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
