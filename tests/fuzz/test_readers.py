"""Every file that is read may be anything: reading it succeeds, or is an error in one clear line, in a second and 4 GB.

`make fuzz` tries more examples: `FUZZ_EXAMPLES=100000 pytest tests/fuzz`.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

import onnxport
from onnxport.bundles.calibration_file import CALIBRATION_FILE, read_importance
from onnxport.bundles.client_settings import (
    portable_preprocessor_settings,
    portable_tokenizer_settings,
    with_labels,
    with_sizes,
)
from onnxport.bundles.manifest import FILE_NAME
from onnxport.checkpoint.adapters import open_adapter
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.patterns import compile_pattern
from onnxport.errors import MAX_LINE, OnnxportError, message_of
from onnxport.layouts._rearrange import rearrange
from onnxport.layouts._table import MODULES
from onnxport.loading.load import load_config
from onnxport.options import ExportOptions
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.signature import SIGNATURE, Signer, signature_problem
from onnxport.runtime.template_limits import MAX_SECONDS
from onnxport.runtime.tokenizer import DirectoryTokenizer
from tests.fuzz.changed_values import changed, changed_bytes, changed_json, changed_safetensors
from tests.sigstore_instance import Sigstore
from tests.unit.test_checkpoint_gguf import gguf_bytes
from tests.unit.test_containment import write_export
from tests.unit.test_sentence_modules import DENSE, OLD, make

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "80"))
SECONDS, BYTES = 1.0, 4 << 30
OPTIONS = ExportOptions()

few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def seconds_of(read: Callable[[], object]) -> float:
    start = time.process_time()
    try:
        read()
    except OnnxportError as error:
        line = message_of(error)
        assert 0 < len(line) <= MAX_LINE and line.isprintable(), line
    return time.process_time() - start


def check(read: Callable[[], object], limit: float = SECONDS) -> None:
    """Read something; any exception but an error of this package fails the test."""
    seconds = [seconds_of(read)]
    if seconds[0] > limit:  # the first time may import modules
        seconds.append(seconds_of(read))
    assert min(seconds) < limit
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < BYTES


def check_files(files: dict[str, bytes], read: Callable[[Path], object], limit: float = SECONDS) -> None:
    """Write files into a new directory, and read it, in `limit` seconds."""
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            path = Path(name) / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        check(lambda: read(Path(name)), limit)


def opened(path: Path) -> object:
    """Open a checkpoint, and list its tensors."""
    checkpoint = open_checkpoint(path, OPTIONS)
    if not checkpoint.in_parts:
        return None
    try:
        return checkpoint.inventory()
    except KeyError:  # a documented exception: a dtype that ONNX doesn't define
        return None


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


TENSORS = {"encoder.w": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16), "empty": np.zeros((0, 2), np.int64)}
WEIGHTS = save(TENSORS)
HEADER_BYTES = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER, DATA = json.loads(WEIGHTS[8 : 8 + HEADER_BYTES]), WEIGHTS[8 + HEADER_BYTES :]
CONFIG = {
    "model_type": "bert", "architectures": ["BertModel"], "torch_dtype": "float32", "num_hidden_layers": 2,
    "text_config": {"num_layers": 2, "dtype": "float16"}, "auto_map": {"AutoConfig": "x.Y"}, "num_labels": 2,
    "quantization_config": {"quant_method": "gptq", "bits": 4}, "id2label": {"0": "a"}, "transformers_weights": None,
}  # fmt: skip
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": {"content": "</s>"}, "pad_token": "<pad>",
    "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
}  # fmt: skip
CODED = {**CONFIG, "transformers_weights": "model.safetensors"}


@few
@given(changed_json(CODED))
def test_configurations(config: bytes) -> None:
    check_files({"config.json": config, "model.safetensors": WEIGHTS}, opened)


BERT = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4, "num_attention_heads": 2, "vocab_size": 8,
    "num_hidden_layers": 1, "intermediate_size": 4, "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
    "initializer_range": 0.02, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}, "torch_dtype": "float32",
    "quantization_config": None, "max_position_embeddings": 8, "is_decoder": False, "_attn_implementation": "eager",
    "problem_type": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "use_cache": True,
}  # fmt: skip
LLAVA = {"model_type": "llava", "text_config": BERT, "vision_config": {}}
CONFIGURATIONS = [BERT, {**BERT, "model_type": "llama"}, LLAVA]


@few
@given(st.sampled_from(CONFIGURATIONS).flatmap(changed_json))
def test_configurations_of_transformers(config: bytes) -> None:
    files = {"config.json": config, "model.safetensors": WEIGHTS}
    check_files(files, lambda path: load_config(open_checkpoint(path, OPTIONS), OPTIONS))


@few
@given(changed_json(SETTINGS), st.sampled_from(["tokenizer_config.json", "generation_config.json", "tokenizer.json"]))
def test_side_files(content: bytes, name: str) -> None:
    files = {"config.json": as_bytes({"model_type": "bert"}), "model.safetensors": WEIGHTS, name: content}
    check_files(files, opened)


@few
@given(changed_safetensors(HEADER, DATA) | changed_bytes(WEIGHTS))
def test_safetensors(content: bytes) -> None:
    check_files({"config.json": as_bytes({"model_type": "bert"}), "model.safetensors": content}, opened)


@few
@given(
    changed_json({"metadata": {"total_size": 1}, "weight_map": {"encoder.w": "a.safetensors", "b": "a.safetensors"}})
)
def test_indices(index: bytes) -> None:
    files = {"config.json": as_bytes({"model_type": "bert"}), "a.safetensors": WEIGHTS}
    check_files({**files, "model.safetensors.index.json": index}, opened)


def pickled(protocol: int) -> bytes:
    return pickle.dumps({"a": [1.0, (2, "b")], "c": bytearray(b"x"), "d": {"e"}}, protocol=protocol)


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", bytes(16))
    return file.getvalue()


PICKLES = [pickled(2), pickled(4), zipped(pickled(2))]


@few
@given(
    st.sampled_from(PICKLES).flatmap(changed_bytes) | st.sampled_from(PICKLES[:2]).flatmap(changed_bytes).map(zipped)
)
def test_pickles(content: bytes) -> None:
    check_files({"config.json": as_bytes({"model_type": "bert"}), "pytorch_model.bin": content}, opened)


@few
@given(changed_bytes(gguf_bytes()))
def test_gguf(content: bytes) -> None:
    check_files({"model.gguf": content}, opened)


@few
@given(changed_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)))
def test_hdf5(content: bytes) -> None:
    check_files({"config.json": as_bytes({"model_type": "bert"}), "tf_model.h5": content}, opened)


FACTORS = {f"base_model.model.encoder.{part}.weight": np.ones((2, 2), np.float32) for part in ("lora_A", "lora_B")}
ADAPTER = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"enc.*": 2}, "alpha_pattern": {"(a|b)+": 1},
    "base_model_name_or_path": "m", "modules_to_save": ["classifier"], "layers_to_transform": [1], "bias": "none",
    "trainable_token_indices": None, "use_rslora": True, "init_lora_weights": True, "task_type": "SEQ_CLS",
}  # fmt: skip


def adapted(path: Path) -> object:
    adapter = open_adapter("adapter", path)
    return adapter.task, [adapter.scale_of(module) for module in adapter.factors], adapter.replaces("classifier.weight")


@few
@given(changed_json(ADAPTER), st.just(save(FACTORS)) | changed_bytes(save(FACTORS)))
def test_adapters(config: bytes, weights: bytes) -> None:
    check_files({"adapter_config.json": config, "adapter_model.safetensors": weights}, adapted)


@few
@given(st.text("ab.*+?()[]|{}\\^$-,012", max_size=30), st.text("ab.-1", max_size=40))
def test_patterns(pattern: str, text: str) -> None:
    try:
        compile_pattern(pattern).matches(text)
    except ValueError as error:
        assert len(str(error)) < 200


WHO = ("me@example.com", "https://example.com")


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a signed manifest, and the keys of the instance of Sigstore."""
    directory, instance = tmp_path_factory.mktemp("signed"), Sigstore()
    (directory / FILE_NAME).write_bytes(b"{}")
    instance.sign(directory / FILE_NAME, *WHO)
    instance.trusted_root(directory / "trusted_root.json")
    return directory


@few
@given(st.data())
def test_signatures(signed: Path, data: st.DataObject) -> None:
    files = files_of(signed)
    content = data.draw(changed_json(json.loads(files[SIGNATURE])) | changed_bytes(files[SIGNATURE]))
    signer = Signer(*WHO, signed / "trusted_root.json")
    check_files({**files, SIGNATURE: content}, lambda path: signature_problem(path, signer))


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    pooling = (f"{OLD}Pooling", {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 4})
    return files_of(make(tmp_path_factory.mktemp("fuzz") / "s", [pooling, (f"{OLD}Dense", DENSE)]))


@few
@given(st.data())
def test_sentence_transformers(sentence: dict[str, bytes], data: st.DataObject) -> None:
    names = [name for name in sentence if name.endswith(".json") and name != "config.json"]
    name = data.draw(st.sampled_from(sorted(names)))
    check_files({**sentence, name: data.draw(changed_json(json.loads(sentence[name])))}, opened)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = write_export(tmp_path_factory.mktemp("fuzz") / "e", "model.onnx_data", data=("model.onnx_data",))
    (directory / "model.onnx_data").write_bytes(bytes(4096))
    (directory / "tokenizer.json").write_text(
        '{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
    )
    return files_of(directory)


def used(path: Path) -> object:
    """Use an exported directory as run, chat and inspect do."""
    onnxport.inspect(path)
    directory = Directory(path)
    for name in directory.component_names:
        directory.graph(name)
    settings = [directory.eos_token_ids, directory.decoder_start_token_id, directory.modalities, directory.input_names]
    model = LightModel(directory)
    return settings, model.can_generate and model._settings({})


@few
@given(st.data())
def test_manifests(exported: dict[str, bytes], data: st.DataObject) -> None:
    manifest = json.loads(exported[FILE_NAME])
    manifest["modalities"] = [{"name": "image", "component": "model", "input": "x", "output": "y", "merge": "prefix"}]
    manifest["quantization"] = {"q4": [{"bits": 4, "block_size": 32, "by_columns": False, "parameters": ["w"]}]}
    check_files({**exported, FILE_NAME: data.draw(changed_json(manifest))}, used)


@few
@given(st.data())
def test_validation_of_manifests(exported: dict[str, bytes], data: st.DataObject) -> None:
    manifest = json.loads(exported[FILE_NAME])
    manifest["options"] |= {"fix": {"batch_size": 1}, "outputs": ["hidden_states"], "adapter": None, "route": None}
    content = data.draw(changed_json(manifest))
    check_files({**exported, FILE_NAME: content}, lambda path: onnxport.validate(path, str(path / "none")))


@few
@given(st.data())
def test_settings_of_exports(exported: dict[str, bytes], data: st.DataObject) -> None:
    values = {
        "eos_token_id": [1, 2], "pad_token_id": 0, "decoder_start_token_id": 1, "temperature": 0.5, "top_k": 3,
        "bad_words_ids": [[1]], "suppress_tokens": [1], "decoder": {"pad_token_id": 1}, "max_position_embeddings": 8,
    }  # fmt: skip
    name = data.draw(st.sampled_from(["config.json", "generation_config.json"]))
    manifest = {**json.loads(exported[FILE_NAME]), "task": "text-generation"}
    check_files({**exported, FILE_NAME: as_bytes(manifest), name: data.draw(changed_json(values))}, used)


@few
@given(st.data())
def test_loading_with_transformers(exported: dict[str, bytes], data: st.DataObject) -> None:
    config = data.draw(changed_json(BERT))
    check_files({**exported, "config.json": config}, lambda path: onnxport.load(path))


PROCESSOR = {
    "feature_extractor": {"feature_size": 8},
    "image_processor": {"size": {"height": 3}},
    "processor_class": "P",
}
PREPROCESSOR = {"image_processor_type": "XImageProcessorPil", "feature_extractor": {"a": 1}, "do_resize": True}
LABELS = {"id2label": {"0": "a"}, "label2id": {"a": 0}, "num_labels": 1, "text_config": {"vocab_size": 3}, "n_embd": 4}


@few
@given(st.data())
def test_settings_for_clients(data: st.DataObject) -> None:
    def draw(valid: dict[str, Any]) -> dict[str, Any]:
        found = data.draw(changed(valid))
        return found if isinstance(found, dict) else {}

    processor, loaded = draw(PROCESSOR), SimpleNamespace(id2label={0: "a"}, label2id={"a": 0}, vocab_size=3)
    labels = draw({**LABELS, "vocab_size": 3, "n_layer": 2})
    check(lambda: portable_preprocessor_settings(draw(PREPROCESSOR), processor))
    check(lambda: portable_preprocessor_settings({}, processor))
    check(lambda: portable_tokenizer_settings(draw({**SETTINGS, "extra_special_tokens": ["a"], "backend": "x"})))
    check(lambda: with_sizes(with_labels(labels, lambda: loaded, labelled=data.draw(st.booleans()))))


@few
@given(st.data())
def test_layouts(exported: dict[str, bytes], data: st.DataObject) -> None:
    config = {**BERT, "eos_token_id": [1], "bos_token_id": 1, "num_key_value_heads": 1, "head_dim": 2}
    files = {
        "config.json": config, "tokenizer_config.json": SETTINGS, "processor_config.json": PROCESSOR,
        "generation_config.json": {"eos_token_id": 1, "top_k": 3}, "preprocessor_config.json": PREPROCESSOR,
    }  # fmt: skip
    name = data.draw(st.sampled_from([FILE_NAME, *files]))
    manifest = json.loads(exported[FILE_NAME]) | {"task": "text-generation-with-past", "files": [*files]}
    past = [f"past_key_values.0.{part}" for part in ("key", "value")]
    named = {
        "inputs": ["input_ids", "attention_mask", *past],
        "outputs": ["logits", "present.0.key", "present.0.value"],
    }
    for side, names in named.items():  # the graph isn't read
        tensors = [{"name": one, "dtype": "float32", "axes": ["batch_size", 1, "n", 2]} for one in names]
        manifest["components"][0] |= {side: tensors, "dtype": "fp32"}
    contents = {**exported, **{file: as_bytes(values) for file, values in files.items()}, FILE_NAME: as_bytes(manifest)}
    contents[name] = data.draw(changed_json({**files, FILE_NAME: manifest}[name]))
    layout = data.draw(st.sampled_from(sorted(MODULES)))
    check_files(contents, lambda path: rearrange(path, layout, path / "arranged"))


@few
@given(st.data())
def test_graphs(exported: dict[str, bytes], data: st.DataObject) -> None:
    check_files({**exported, "model.onnx": data.draw(changed_bytes(exported["model.onnx"]))}, onnxport.inspect)


TEMPLATES = [
    "{% for m in messages %}<{{ m['role'] }}>{{ m.content | trim }}{% endfor %}{% if a %}>{% endif %}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y') }}{{ messages | tojson }}",
    "{{ bos_token + messages[0].content * 3 }}",
]  # fmt: skip


def templated(path: Path) -> object:
    tokenizer = DirectoryTokenizer(Directory(path))
    tokenizer.encode(["a", "b\ud800"[:1]])
    return tokenizer.apply_chat_template([{"role": "user", "content": "a"}]), tokenizer.eos_token_id


@few
@given(st.data())
def test_tokenizers(exported: dict[str, bytes], data: st.DataObject) -> None:
    tokenizer, configuration = exported["tokenizer.json"], as_bytes(SETTINGS)
    which = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]))
    content: Any = {
        "tokenizer.json": changed_json(json.loads(tokenizer)),
        "tokenizer_config.json": changed_json(SETTINGS),
        "chat_template.jinja": st.sampled_from(TEMPLATES).map(str.encode).flatmap(changed_bytes),
    }[which]
    files = {**exported, "tokenizer_config.json": configuration}
    limit = SECONDS + MAX_SECONDS  # that of templates: 5,000 expressions take 2.5 s to compile
    check_files({**files, which: data.draw(content)}, templated, limit)


@few
@given(changed_safetensors(HEADER, DATA) | changed_bytes(WEIGHTS))
def test_calibrations(content: bytes) -> None:
    check_files({CALIBRATION_FILE: content}, lambda directory: read_importance(directory, "fp32"))
