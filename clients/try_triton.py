"""Triton: its configurations are read with its own schema, and compared with what ONNX Runtime says of the graphs.

Models that run in one request are asked by Triton's client, and a stand-in for the server answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from _results import arrays, main, same_outputs
from triton_stand_in import configuration, serving
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import np_to_triton_dtype


def check(directory: str, case: dict[str, Any]) -> str:
    names = sorted(file.parent.name for file in Path(directory).glob("*/config.pbtxt"))
    for name in names:
        _check_model(Path(directory), name)
    count = f"{len(names)} configuration{'s' if len(names) > 1 else ''}"
    model = next((name for name in ("ensemble", "model") if name in names), None)
    if model is None or "inputs" not in case or _generates(directory, model):
        return count
    return f"{count}, {_ask(directory, model, case)}"


def _generates(directory: str, model: str) -> bool:
    """Return whether one request is one step."""
    return any(tensor.name.startswith("past_") for tensor in configuration(Path(directory), model).input)


def _ask(directory: str, model: str, case: dict[str, Any]) -> str:
    """Return the largest difference of a model's outputs from PyTorch's."""
    settings, values = configuration(Path(directory), model), _EMPTY | arrays(case)
    inputs = []
    for name in (tensor.name for tensor in settings.input):
        inputs.append(InferInput(name, values[name].shape, np_to_triton_dtype(values[name].dtype)))
        inputs[-1].set_data_from_numpy(values[name])
    with serving(Path(directory)) as address, InferenceServerClient(address) as client:
        result = client.infer(model, inputs)
        return same_outputs({tensor.name: result.as_numpy(tensor.name) for tensor in settings.output}, case)


_EMPTY = {"input_boxes": np.zeros((1, 1, 0), np.float32), "input_masks": np.zeros((0, 1, 16, 16), np.float32)}
"""Prompts of SAM that aren't passed."""


def _check_model(directory: Path, name: str) -> None:
    settings = configuration(directory, name)
    assert settings.name == name
    assert (directory / name / "1").is_dir()
    if settings.platform == "ensemble":
        return
    session = onnxruntime.InferenceSession(directory / name / "1" / "model.onnx")
    batch = [-1] if settings.max_batch_size else []
    pairs = ((settings.input, session.get_inputs()), (settings.output, session.get_outputs()))
    for declared, values in pairs:
        assert [value.name for value in declared] == [value.name for value in values]
        for tensor, value in zip(declared, values, strict=True):
            axes = batch + list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            assert axes == [-1 if isinstance(axis, str) else axis for axis in value.shape], value.name


if __name__ == "__main__":
    main(
        {name: check for name in ("minilm", "classifier", "smollm2", "t5", "whisper", "vit", "clip", "sam", "qwen2_vl")}
    )
