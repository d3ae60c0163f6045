"""Exports in another layout than the default one are validated and loaded like all others."""

from __future__ import annotations

from pathlib import Path

import onnxport
from onnxport import ExportOptions


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
