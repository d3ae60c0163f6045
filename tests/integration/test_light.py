"""Exported directories load and generate the same tokens without torch and Transformers as with them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel

WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
import numpy as np
import onnxport
model = onnxport.load(sys.argv[1])
inputs = {name: np.array(value) for name, value in json.loads(sys.argv[2]).items()}
print(json.dumps(model.generate(inputs, **json.loads(sys.argv[3])).tolist()))
assert not {"onnx", "onnx_ir", "safetensors", "huggingface_hub"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("light")
    directories = {}
    for model_type, feature, task in (
        ("gpt2", "causal-lm", "text-generation-with-past"),
        ("bart", "seq2seq-lm", "text2text-generation-with-past"),
        ("bert", "sequence-classification", "text-classification"),
    ):
        checkpoint = make_checkpoint(model_type, feature, root / "checkpoints")
        onnxport.export(checkpoint, root / model_type, ExportOptions(task=task, validate="none"))
        directories[model_type] = root / model_type
    return directories


def inputs() -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(5, 40, (2, 7))
    mask = np.ones_like(ids)
    mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("model_type", ["gpt2", "bart"])
def test_torch_and_transformers_are_not_needed(model_type: str, directories: dict[str, Path]) -> None:
    given = {name: value.tolist() for name, value in inputs().items()}
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1}
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        str(directories[model_type]),
        json.dumps(given),
        json.dumps(settings),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model = onnxport.load(directories[model_type])
    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    expected = model.generate(**tensors, max_new_tokens=8, min_new_tokens=8, do_sample=False, num_beams=1)
    np.testing.assert_array_equal(json.loads(done.stdout), expected.numpy())


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gpt2", {"min_new_tokens": 6, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3}),
        ("gpt2", {"min_length": 12, "suppress_tokens": [31], "bad_words_ids": [[20], [33, 33]]}),
        ("gpt2", {"max_length": 13, "forced_eos_token_id": 5, "begin_suppress_tokens": [1, 2, 3]}),
        ("gpt2", {"temperature": 0.0, "top_p": 0, "repetition_penalty": 1.5}),
        ("bart", {"forced_bos_token_id": 9, "begin_suppress_tokens": [12], "no_repeat_ngram_size": 1}),
        ("bart", {"min_length": 8, "max_length": 10, "forced_eos_token_id": 2, "repetition_penalty": 2.0}),
    ],
)
def test_settings_of_the_checkpoint_are_applied(
    model_type: str, settings: dict[str, Any], directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / model_type
    shutil.copytree(directories[model_type], directory)
    file = directory / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    model = onnxport.load(directory)
    lengths = {} if "max_length" in settings else {"max_new_tokens": 9}
    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    expected = model.generate(**tensors, **lengths)
    unset = onnxport.load(directories[model_type]).generate(**tensors, max_new_tokens=9)
    assert not torch.equal(expected, unset)
    np.testing.assert_array_equal(LightModel(Directory(directory)).generate(inputs(), **lengths), expected.numpy())


def test_settings_in_the_configuration_are_applied(directories: dict[str, Path], tmp_path: Path) -> None:
    directory = tmp_path / "bart"
    shutil.copytree(directories["bart"], directory, ignore=shutil.ignore_patterns("generation_config.json"))
    file = directory / "config.json"
    settings = {"no_repeat_ngram_size": 1, "forced_bos_token_id": 9, "forced_eos_token_id": 2}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    expected = onnxport.load(directory).generate(**tensors, max_new_tokens=8).numpy()
    assert (expected[:, 1] == 9).all()
    assert all(len(set(row)) == len(row) for row in expected[:, :-1].tolist())
    np.testing.assert_array_equal(LightModel(Directory(directory)).generate(inputs(), max_new_tokens=8), expected)


def test_settings_that_need_transformers_are_named_once(
    directories: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(directories["gpt2"], tmp_path / "gpt2")
    (tmp_path / "gpt2" / "generation_config.json").write_text(json.dumps({"num_beams": 3, "stop_strings": ["."]}))
    model = LightModel(Directory(tmp_path / "gpt2"))
    for _ in range(2):
        model.generate(inputs(), max_new_tokens=2)
    (record,) = caplog.records
    assert "ignores the checkpoint's settings num_beams=3, stop_strings=['.']" in record.message


def test_sampling_is_reproducible_with_a_seed(directories: dict[str, Path]) -> None:
    model = LightModel(Directory(directories["gpt2"]))
    settings = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9}
    first = model.generate(inputs(), seed=3, **settings)
    assert np.array_equal(first, model.generate(inputs(), seed=3, **settings))
    assert not np.array_equal(first, model.generate(inputs(), seed=4, **settings))
    nearly = {**settings, "temperature": 1e-4, "top_k": 0, "top_p": 1.0}
    assert np.array_equal(
        model.generate(inputs(), seed=3, **nearly), model.generate(inputs(), **{**settings, "do_sample": False})
    )


def test_a_classifier_takes_arrays(directories: dict[str, Path]) -> None:
    outputs = LightModel(Directory(directories["bert"]))(**inputs())
    tensors = {name: torch.from_numpy(value) for name, value in inputs().items()}
    called = onnxport.load(directories["bert"])(**tensors)
    assert isinstance(called.logits, torch.Tensor)
    np.testing.assert_array_equal(outputs["logits"], called.logits.numpy())


@pytest.mark.parametrize(
    "settings", [{"temperature": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}, {"num_beams": 3}, {"top_k": -1}]
)
def test_invalid_settings(settings: dict[str, Any], directories: dict[str, Path]) -> None:
    with pytest.raises(OptionError, match=next(iter(settings))):
        LightModel(Directory(directories["gpt2"])).generate(inputs(), **settings)


def test_a_classifier_cannot_generate(directories: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedError, match="text-classification"):
        LightModel(Directory(directories["bert"])).generate(inputs())


def test_inputs_that_do_not_fit(directories: dict[str, Path]) -> None:
    model = LightModel(Directory(directories["gpt2"]))
    with pytest.raises(OptionError, match="input_ids"):
        model.generate({})
    with pytest.raises(OptionError, match="shape"):
        model.generate({"input_ids": np.array([1, 2, 3])})
