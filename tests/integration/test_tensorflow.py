"""TensorFlow checkpoints: the state dict is read strictly, and PyTorch's outputs equal TensorFlow's."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MissingDependencyError,
    WeightsMismatchError,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
h5py = pytest.importorskip("h5py")

from onnxport.loading.tensorflow import read_tensorflow_state  # noqa: E402  (needs the packages above)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tensorflow"
CLASSES = {
    "bert": "AutoModelForMaskedLM",
    "gpt2": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "vit": "AutoModelForImageClassification",
}


def build(name: str, auto_class: str | None = None) -> Any:
    config = transformers.AutoConfig.from_pretrained(FIXTURES / name)
    return getattr(transformers, auto_class or CLASSES[name]).from_config(config).eval()


@pytest.fixture
def bert_file(tmp_path: Path) -> Path:
    return Path(shutil.copy(FIXTURES / "bert" / "tf_model.h5", tmp_path / "tf_model.h5"))


@pytest.mark.parametrize("name", CLASSES)
def test_pytorchs_outputs_equal_tensorflows(name: str) -> None:
    model = build(name)
    model.load_state_dict(read_tensorflow_state(FIXTURES / name / "tf_model.h5", model), strict=True)
    reference = np.load(FIXTURES / name / "reference.npz")
    inputs = {key[6:]: torch.from_numpy(reference[key]) for key in reference if key.startswith("input.")}
    with torch.no_grad():
        outputs = model(**inputs)
    compared = [key for key in reference if key.startswith("output.")]
    assert "output.logits" in compared
    for key in compared:
        np.testing.assert_allclose(outputs[key[7:]].numpy(), reference[key], atol=1e-5, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", CLASSES)
def test_the_state_dict_is_the_same_for_a_model_on_meta(name: str) -> None:
    config = transformers.AutoConfig.from_pretrained(FIXTURES / name)
    with torch.device("meta"):
        empty = getattr(transformers, CLASSES[name]).from_config(config)
    path = FIXTURES / name / "tf_model.h5"
    state, again = read_tensorflow_state(path, build(name)), read_tensorflow_state(path, empty)
    assert list(state) == list(again) == list(empty.state_dict())
    assert all(torch.equal(state[key], again[key]) for key in state)


def test_tied_parameters_share_a_tensor() -> None:
    state = read_tensorflow_state(FIXTURES / "t5" / "tf_model.h5", build("t5"))
    assert state["lm_head.weight"] is state["shared.weight"] is state["decoder.embed_tokens.weight"]


def test_preprocessors_load() -> None:
    for name in ("bert", "gpt2", "t5"):
        assert len(transformers.AutoTokenizer.from_pretrained(FIXTURES / name)("the red dog")["input_ids"]) >= 3


def test_a_base_model_ignores_the_head() -> None:
    config = transformers.AutoConfig.from_pretrained(FIXTURES / "bert")
    model = transformers.BertModel(config, add_pooling_layer=False)
    state = read_tensorflow_state(FIXTURES / "bert" / "tf_model.h5", model)
    assert state.keys() == model.state_dict().keys()


def test_parameters_without_tensor_and_tensors_without_parameter_are_named() -> None:
    with pytest.raises(WeightsMismatchError) as raised:
        read_tensorflow_state(FIXTURES / "bert" / "tf_model.h5", build("bert", "AutoModelForSequenceClassification"))
    message = str(raised.value)
    assert "classifier.weight" in message and "bert.pooler.dense.weight" in message
    assert "tf_bert_for_masked_lm/mlm___cls/predictions/transform/dense/kernel:0" in message


def test_an_unexpected_tensor_of_the_base_model_is_an_error(bert_file: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(FIXTURES / "bert", num_hidden_layers=1)
    with pytest.raises(WeightsMismatchError, match=r"layer_\._1/attention/self/query/kernel:0"):
        read_tensorflow_state(bert_file, transformers.BertModel(config, add_pooling_layer=False))


def add_variable(path: Path, layer: str, name: str, shape: tuple[int, ...]) -> None:
    with h5py.File(path, "r+") as file:
        group = file[layer]
        group.create_dataset(name, data=np.ones(shape, np.float32))
        group.attrs["weight_names"] = [*group.attrs["weight_names"], name]


def test_a_pooler_that_the_head_does_not_use_may_remain(bert_file: Path) -> None:
    add_variable(bert_file, "bert", "tf_bert_for_masked_lm/bert/pooler/dense/kernel:0", (16, 16))
    read_tensorflow_state(bert_file, build("bert"))


def test_an_unexpected_tensor_of_a_model_with_a_head_is_an_error(bert_file: Path) -> None:
    add_variable(bert_file, "mlm___cls", "tf_bert_for_masked_lm/classifier/kernel:0", (16, 3))
    with pytest.raises(WeightsMismatchError, match="tf_bert_for_masked_lm/classifier/kernel:0"):
        read_tensorflow_state(bert_file, build("bert"))


def test_tied_parameters_with_different_tensors_are_an_error(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "gpt2" / "tf_model.h5", tmp_path / "tf_model.h5"))
    add_variable(path, "transformer", "tfgpt2lm_head_model/lm_head/kernel:0", (16, 60))
    with pytest.raises(WeightsMismatchError, match=r"wte/embeddings:0 and, differently, by .*lm_head/kernel:0"):
        read_tensorflow_state(path, build("gpt2"))


def test_a_tensor_of_another_shape_is_named(bert_file: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(FIXTURES / "bert", intermediate_size=20)
    with pytest.raises(WeightsMismatchError, match=r"intermediate\.dense\.weight has shape \(20, 16\)"):
        read_tensorflow_state(bert_file, transformers.BertForMaskedLM(config))


@pytest.mark.parametrize("size", [0, 7, 2000, 50_000, -1])
def test_a_truncated_file_is_corrupt(bert_file: Path, size: int) -> None:
    content = bert_file.read_bytes()
    bert_file.write_bytes(content[:size])
    with pytest.raises(CorruptCheckpointError, match="truncated or malformed"):
        read_tensorflow_state(bert_file, build("bert"))


def test_a_file_without_keras_names_is_corrupt(bert_file: Path) -> None:
    with h5py.File(bert_file, "r+") as file:
        del file.attrs["layer_names"]
    with pytest.raises(CorruptCheckpointError, match="layer_names"):
        read_tensorflow_state(bert_file, build("bert"))


def test_a_dataset_in_another_file_is_refused(bert_file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(60 * 4))
    with h5py.File(bert_file, "r+") as file:
        name = "tf_bert_for_masked_lm/mlm___cls/predictions/bias:0"
        del file["mlm___cls"][name]
        file["mlm___cls"].create_dataset(name, (60,), "<f4", external=[(str(secret), 0, 240)])
    with pytest.raises(CorruptCheckpointError, match="points outside"):
        read_tensorflow_state(bert_file, build("bert"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFoundError, match=r"tf_model\.h5"):
        read_tensorflow_state(tmp_path / "tf_model.h5", build("bert"))


def test_missing_h5py_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'onnxport\[tf\]'"):
        read_tensorflow_state(FIXTURES / "bert" / "tf_model.h5", build("bert"))


def test_sharded_checkpoints_are_read(bert_file: Path, tmp_path: Path) -> None:
    import json

    weight_map = {}
    with h5py.File(bert_file) as file:
        names = {name: layer for layer in file.attrs["layer_names"] for name in file[layer].attrs["weight_names"]}
        for part in range(2):
            shard = f"tf_model-0000{part + 1}-of-00002.h5"
            with h5py.File(tmp_path / shard, "w") as target:
                chosen = [name for index, name in enumerate(names) if index % 2 == part]
                for name in chosen:
                    target.create_dataset(name.split("/", 1)[1], data=file[names[name]][name][()])
                    weight_map[name] = shard
                target.attrs["layer_names"] = [name.split("/", 1)[1].encode() for name in chosen]
    index = tmp_path / "tf_model.h5.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    state, again = read_tensorflow_state(bert_file, build("bert")), read_tensorflow_state(index, build("bert"))
    assert state.keys() == again.keys() and all(torch.equal(state[key], again[key]) for key in state)
