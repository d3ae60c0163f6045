"""timm's models through Transformers' wrapper: as Transformers saves them, and as timm's own repositories are."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport import ExportOptions, export
from onnxport.errors import MissingDependencyError
from onnxport.weights.checkpoint import open_checkpoint
from tests.unit.test_checkpoint import write_safetensors

CONFIG: dict[str, Any] = {
    "architecture": "test_resnet", "num_classes": 5, "label_names": list("abcde"),
    "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(tmp_path / "model.safetensors", {"a": [2]})
    return tmp_path


def test_what_transformers_finds_out_is_added(directory: Path) -> None:
    found = open_checkpoint(directory, ExportOptions())
    assert (found.model_type, found.architectures) == ("timm_wrapper", ("TimmWrapperForImageClassification",))
    (directory / "config.json").write_text(json.dumps({**CONFIG, "num_classes": 0}))
    assert open_checkpoint(directory, ExportOptions()).architectures == ("TimmWrapperModel",)


def test_packages_that_are_missing_are_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.weights.loading.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'timm_wrapper'.*pip install timm torchvision"):
        export(directory, directory / "out", ExportOptions())


@pytest.mark.parametrize("prefix", ["", "timm_model."])
def test_exports(directory: Path, prefix: str) -> None:
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch raises the second
        pytest.skip(f"timm can't be imported: {error}")
    import torch
    from onnxruntime import InferenceSession
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5).eval()
    state = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    result = export(directory, directory / "out", ExportOptions())
    assert (result.manifest.task, result.manifest.validation["status"]) == ("image-classification", "passed")
    pixels = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        wanted = model(pixels).numpy()
    session = InferenceSession(directory / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"pixel_values": pixels.numpy()})[0], wanted, atol=1e-5)
