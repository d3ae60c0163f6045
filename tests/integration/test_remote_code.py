"""A model whose code is in its checkpoint: it only runs with the flag, and is then exported as any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import onnxport
from onnxport.cli import main
from onnxport.errors import CorruptCheckpointError, UntrustedCodeError

CONFIGURATION = """
from transformers import PreTrainedConfig


class MineConfig(PreTrainedConfig):
    model_type = "remote_code_checkpoint"
    vocab_size: int = 57
    hidden_size: int = 16
"""
MODEL = """
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

from .configuration_mine import MineConfig


class MineModel(PreTrainedModel):
    config_class = MineConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, return_dict=None):
        states = self.embed(input_ids) * attention_mask[..., None].to(self.dtype)
        return MaskedLMOutput(logits=self.head(states + states.mean(1, keepdim=True)))
"""
TRUST_REMOTE_CODE = onnxport.ExportOptions(trust_remote_code=True)


@pytest.fixture
def remote_code_checkpoint(bert: Path, tmp_path: Path) -> Path:
    """A checkpoint with custom code for its configuration and model."""
    import torch
    from safetensors.torch import save_file

    directory = tmp_path / "remote_code_checkpoint"
    directory.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(bert / name, directory / name)
    (directory / "configuration_mine.py").write_text(CONFIGURATION)
    (directory / "modeling_mine.py").write_text(MODEL)
    auto_map = {"AutoConfig": "configuration_mine.MineConfig", "AutoModelForMaskedLM": "modeling_mine.MineModel"}
    config = {"architectures": ["MineModel"], "auto_map": auto_map, "model_type": "remote_code_checkpoint"}
    (directory / "config.json").write_text(json.dumps(config))
    shapes = {"embed.weight": (57, 16), "head.weight": (57, 16), "head.bias": (57,)}
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, directory / "model.safetensors")
    return directory


def declare(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_trusted_code_is_exported_and_validated(remote_code_checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    manifest = onnxport.export(remote_code_checkpoint, output, TRUST_REMOTE_CODE).manifest
    assert (manifest.task, manifest.source["architecture"]) == ("fill-mask", "MineModel")
    assert manifest.validation["status"] == "passed"
    assert onnxport.validate(output, str(remote_code_checkpoint), TRUST_REMOTE_CODE).status == "passed"
    with pytest.raises(UntrustedCodeError, match="--trust-remote-code"):
        onnxport.validate(output)


def test_a_known_model_type_with_custom_code(bert: Path, tmp_path: Path) -> None:
    """Without the flag, the code doesn't run, and Transformers' class is used if the checkpoint names it."""
    directory, ran = tmp_path / "bert", tmp_path / "ran"
    shutil.copytree(bert, directory)
    (directory / "modeling_own.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise SystemError('broken')\n")
    declare(directory, auto_map={"AutoModelForMaskedLM": "modeling_own.OwnModel"})
    result = onnxport.export(directory, tmp_path / "out", onnxport.ExportOptions(dry_run=True))
    assert result.manifest.source["architecture"] == "BertForMaskedLM"
    declare(directory, architectures=["OwnModel"])
    with pytest.raises(UntrustedCodeError, match=r"OwnModel is code.*--trust-remote-code"):
        onnxport.export(directory, tmp_path / "out")
    assert not ran.exists()
    with pytest.raises(CorruptCheckpointError, match=r"modeling_own\.OwnModel.*SystemError: broken"):
        onnxport.export(directory, tmp_path / "out", TRUST_REMOTE_CODE)
    assert not (tmp_path / "out").exists()


def test_missing_code_is_an_error(
    remote_code_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (remote_code_checkpoint / "modeling_mine.py").unlink()
    assert main(["export", str(remote_code_checkpoint), str(tmp_path / "out"), "--trust-remote-code", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "modeling_mine.MineModel" in error
    assert error.count("\n") == 1
