"""Triton: its configurations are read with its own schema, and compared with what ONNX Runtime says of the graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from _results import main
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


def check(directory: str, case: dict[str, Any]) -> str:
    files = sorted(Path(directory).glob("*/config.pbtxt"))
    for file in files:
        _check_model(file)
    return f"{len(files)} configuration{'s' if len(files) > 1 else ''}"


def _check_model(file: Path) -> None:
    configuration = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
    session = onnxruntime.InferenceSession(file.parent / "1" / "model.onnx")
    batch = [-1] if configuration.max_batch_size else []
    pairs = ((configuration.input, session.get_inputs()), (configuration.output, session.get_outputs()))
    assert configuration.name == file.parent.name
    for declared, values in pairs:
        assert [value.name for value in declared] == [value.name for value in values]
        for tensor, value in zip(declared, values, strict=True):
            axes = batch + list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            assert axes == [-1 if isinstance(axis, str) else axis for axis in value.shape], value.name


main({name: check for name in ("minilm", "classifier", "smollm2", "t5", "whisper", "vit", "clip", "sam", "qwen2_vl")})
