"""Layouts: files go where a client expects them, weights are linked, and settings are what it reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxport
from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription, open_manifest
from onnxport.cli import main
from onnxport.errors import OptionError, OutputError, UnsupportedError
from onnxport.layouts._arrange import arrange
from onnxport.layouts._graph_files import MASK, leave_out_inputs, mask_padding, split_data
from onnxport.layouts._layout import Exported, Layout
from onnxport.layouts._rearrange import rearrange
from onnxport.layouts._table import MODULES, layout_of
from onnxport.options import ExportOptions
from onnxport.runtime.directory import Directory

ROWS = 2048


def save_graph(file: Path, inputs: tuple[str, ...], *, external: bool = False) -> None:
    """Save a graph that adds two weights of [2048, 4] to its first input."""
    arrays = {name: np.full((ROWS, 4), value, np.float32) for name, value in (("a", 1.0), ("b", 2.0))}
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    if external:
        data = file.with_name(f"{file.name}_data")
        data.write_bytes(b"".join(array.tobytes() for array in arrays.values()))
        for index, weight in enumerate(weights):
            nbytes = arrays["a"].nbytes
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for key, value in {"location": data.name, "offset": nbytes * index, "length": nbytes}.items():
                weight.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Add", [inputs[0], "a"], ["h"]), helper.make_node("Add", ["h", "b"], ["logits"])]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, 4]) for name in (*inputs, "logits")]
    graph = helper.make_graph(nodes, "g", values[:-1], values[-1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())


def component(name: str, dtype: str, inputs: tuple[str, ...], external: bool) -> ComponentDescription:
    file = f"{name}.onnx" if dtype == "fp32" else f"{name}_{'quantized' if dtype == 'q8' else dtype}.onnx"
    tensors = [TensorDescription(value, "float32", (ROWS, 4)) for value in (*inputs, "logits")]
    data = (f"{file}_data",) if external else ()
    return ComponentDescription(name, file, data, 20, 8, 1, tuple(tensors[:-1]), tuple(tensors[-1:]), dtype=dtype)


def exported(
    directory: Path,
    *,
    dtypes: tuple[str, ...] = ("fp32",),
    source: dict[str, Any] | None = None,
    inputs: tuple[str, ...] = ("input_ids",),
    external: bool = False,
    files: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
) -> Path:
    """Write a directory as `onnxport export` does, with one graph for each precision."""
    directory.mkdir()
    components = tuple(component("model", dtype, inputs, external) for dtype in dtypes)
    for item in components:
        save_graph(directory / item.file, inputs, external=external)
    texts = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "{}", **(files or {})}
    for name, text in texts.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    source = source or {"model": "m", "model_type": "llama", "architecture": "LlamaForCausalLM"}
    manifest = Manifest(
        "text-generation", source, {"dtype": ",".join(dtypes), **(options or {})}, {}, components, {}, tuple(texts)
    )
    (directory / "onnxport.json").write_text(manifest.to_json())
    return directory


def files_of(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def settings(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_graphs_are_in_the_folder_of_transformers_js(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", dtypes=("fp32", "q8", "q4"))
    manifest = rearrange(source, "transformers.js", tmp_path / "out")
    assert files_of(tmp_path / "out") == {
        *("config.json", "tokenizer.json", "onnxport.json"),
        *("onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_q4.onnx"),
    }
    assert manifest == open_manifest(tmp_path / "out")
    assert manifest.layout == "transformers.js"
    assert [item.file for item in manifest.components] == [
        f"onnx/model{name}.onnx" for name in ("", "_quantized", "_q4")
    ]


def test_weights_are_linked_and_the_source_is_unchanged(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", external=True)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    rearrange(source, "transformers.js", tmp_path / "out")
    for name in ("model.onnx", "model.onnx_data"):
        assert (tmp_path / "out" / "onnx" / name).samefile(source / name)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_the_arranged_directory_is_loaded(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", external=True)
    rearrange(source, "transformers.js", tmp_path / "out")
    graph = Directory(tmp_path / "out").graph("model")
    found = graph.run({"input_ids": np.zeros((ROWS, 4), np.float32)})["logits"].numpy()
    assert (found == 3).all()


def test_settings_of_external_data(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", dtypes=("fp32", "q8"), external=True)
    rearrange(source, "transformers.js", tmp_path / "out")
    found = settings(tmp_path / "out" / "config.json")["transformers.js_config"]
    assert found["use_external_data_format"] == {"model.onnx": 1, "model_quantized.onnx": 1}
    assert (source / "config.json").read_text() == '{"model_type": "llama"}'


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("fp32", "q8"), None),
        (("fp32", "q8", "q4"), {"device_config": {"webgpu": {"dtype": "q4"}}}),
        (("fp32",), {"device_config": {"wasm": {"dtype": "fp32"}}}),
        (
            ("q4", "q4f16"),
            {"dtype": "q4", "device_config": {"wasm": {"dtype": "q4"}}},
        ),
        (("fp16", "q8"), {"dtype": "fp16", "device_config": {"wasm": {"dtype": "q8"}}}),
    ],
)
def test_default_precisions_of_devices(
    tmp_path: Path, dtypes: tuple[str, ...], expected: dict[str, Any] | None
) -> None:
    source = exported(tmp_path / "in", dtypes=dtypes, inputs=("input_ids", "past_key_values.0.key"))
    rearrange(source, "transformers.js", tmp_path / "out")
    assert settings(tmp_path / "out" / "config.json").get("transformers.js_config") == expected


def test_chat_templates_are_in_the_tokenizers_settings(tmp_path: Path) -> None:
    files = {"tokenizer_config.json": '{"model_max_length": 8}', "chat_template.jinja": "{{ x }}"}
    rearrange(exported(tmp_path / "in", files=files), "transformers.js", tmp_path / "out")
    assert settings(tmp_path / "out" / "tokenizer_config.json")["chat_template"] == "{{ x }}"
    more = {**files, "additional_chat_templates/rag.jinja": "{{ y }}"}
    rearrange(exported(tmp_path / "in2", files=more), "transformers.js", tmp_path / "out2")
    assert settings(tmp_path / "out2" / "tokenizer_config.json")["chat_template"] == [
        {"name": "default", "template": "{{ x }}"},
        {"name": "rag", "template": "{{ y }}"},
    ]


def test_inputs_have_the_names_of_the_client(tmp_path: Path) -> None:
    source = exported(
        tmp_path / "in",
        inputs=("pixel_values", "image_grid_thw"),
        source={"model_type": "qwen2_vl", "architecture": "Qwen2VLForConditionalGeneration"},
        files={"config.json": '{"model_type": "qwen2_vl", "text_config": {"hidden_size": 8, "num_hidden_layers": 2}}'},
    )
    manifest = rearrange(source, "transformers.js", tmp_path / "out")
    graph = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    assert [value.name for value in graph.get_inputs()] == ["pixel_values", "grid_thw"]
    assert [value.name for value in manifest.components[0].inputs] == ["pixel_values", "grid_thw"]
    loaded = Directory(tmp_path / "out")  # the runtime passes the model's names
    assert loaded.input_names == {"pixel_values", "image_grid_thw"}
    zeros = np.zeros((ROWS, 4), np.float32)
    assert (loaded.graph("model").run({"pixel_values": zeros, "image_grid_thw": zeros})["logits"].numpy() == 3).all()
    config = settings(tmp_path / "out" / "config.json")
    assert (config["hidden_size"], config["num_hidden_layers"]) == (8, 2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "falcon", "multi_query": True}, {"multi_query": False}),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["linear_attention", "full_attention"]},
            {"layer_types": ["mamba", "attention"]},
        ),
        (
            {"model_type": "nemotron_h", "layers_block_type": ["linear_attention", "moe", "full_attention"]},
            {"layers_block_type": ["mamba", "moe", "attention"]},
        ),
        ({"model_type": "zaya", "cca_time1": 2}, {"cca_time1": 1}),
        ({"model_type": "gpt_oss", "layer_types": ["full_attention"]}, {}),
    ],
)
def test_settings_that_name_the_cache_for_transformers_js(
    config: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    rearrange(exported(tmp_path / "in", files={"config.json": json.dumps(config)}), "transformers.js", tmp_path / "out")
    found = settings(tmp_path / "out" / "config.json")
    assert {name: found[name] for name in config} == {**config, **expected}


def test_masks_that_a_client_never_passes_are_ones(tmp_path: Path) -> None:
    source = {"model": "m", "model_type": "moonshine", "architecture": "MoonshineForConditionalGeneration"}
    directory = exported(tmp_path / "in", source=source, inputs=("attention_mask", "input_values"))
    manifest = rearrange(directory, "transformers.js", tmp_path / "out")
    assert manifest.components[0].absent_inputs == ("attention_mask",)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    (found,) = session.run(None, {"input_values": np.zeros((ROWS, 4), np.float32)})
    assert (found == 1 + 3).all()  # the graph adds 3 to its first input


def test_inputs_that_a_client_never_passes_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    axes = {"points": ["batch", "prompts", 2], "boxes": ["batch", "prompts", "coordinates"], "masks": ["num_masks", 4]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in axes.items()]
    nodes = [helper.make_node("Shape", [name], [f"size_of_{name}"]) for name in ("boxes", "masks")]
    nodes.append(helper.make_node("Concat", [node.output[0] for node in nodes], ["sizes"], axis=0))
    outputs = [helper.make_tensor_value_info("sizes", TensorProto.INT64, [5])]
    graph = helper.make_graph(nodes, "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    leave_out_inputs(file, ["boxes", "masks"])
    session = onnxruntime.InferenceSession(file)
    assert [value.name for value in session.get_inputs()] == ["points"]
    (sizes,) = session.run(None, {"points": np.zeros((3, 7, 2), np.float32)})
    assert sizes.tolist() == [3, 7, 0, 0, 4]


def test_the_mask_of_padding_is_computed(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("input_ids", MASK)]
    nodes = [helper.make_node("Mul", ["input_ids", MASK], ["masked"])]
    nodes.append(helper.make_node("Identity", [MASK], ["returned"]))
    outputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in ("masked", "returned")]
    graph = helper.make_graph(nodes, "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    mask_padding(file, 1)
    session = onnxruntime.InferenceSession(file)
    assert [value.name for value in session.get_inputs()] == ["input_ids"]
    masked, mask = session.run(None, {"input_ids": np.array([[5, 1, 6]])})
    assert (masked.tolist(), mask.tolist()) == ([[5, 0, 6]], [[1, 0, 1]])


def test_an_input_without_the_batch_axis(tmp_path: Path) -> None:
    source = {"model": "m", "model_type": "hifigan", "architecture": "SpeechT5HifiGan"}
    directory = exported(tmp_path / "in", source=source, inputs=("spectrogram",))
    manifest = rearrange(directory, "transformers.js", tmp_path / "out")
    assert manifest.components[0].inputs[0].axes == (4,)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx")
    (found,) = session.run(None, {"spectrogram": np.zeros(4, np.float32)})
    assert found.shape == (ROWS, 4)


def test_a_directory_without_inputs_of_the_original_is_not_validated(tmp_path: Path) -> None:
    source = {"model": "m", "model_type": "sam", "architecture": "SamModel"}
    inputs = ("pixel_values", "input_boxes")
    manifest = rearrange(exported(tmp_path / "in", source=source, inputs=inputs), "transformers.js", tmp_path / "out")
    assert manifest.components[0].absent_inputs == ("input_boxes",)
    assert [value.name for value in manifest.components[0].inputs] == ["pixel_values"]
    with pytest.raises(OptionError, match="leaves out the original's inputs input_boxes: validate the export in the"):
        onnxport.validate(tmp_path / "out", str(tmp_path))


def test_external_data_is_split(tmp_path: Path) -> None:
    save_graph(tmp_path / "model.onnx", ("x",), external=True)
    before = (tmp_path / "model.onnx_data").stat().st_ino
    files = split_data(tmp_path / "model.onnx", [tmp_path / "model.onnx_data"], limit=ROWS * 4 * 4)
    assert [file.name for file in files] == ["model.onnx_data", "model.onnx_data_1"]
    assert {file.stat().st_size for file in files} == {ROWS * 4 * 4}
    assert files[0].stat().st_ino != before
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"x": np.zeros((ROWS, 4), np.float32)})
    assert (found == 3).all()
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    locations = {v.const_value.location for v in ir.load(tmp_path / "model.onnx").graph.initializers.values()}  # type: ignore[union-attr]
    assert locations == {"model.onnx_data", "model.onnx_data_1"}


def test_the_files_of_split_data_are_announced(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", external=True)
    layout = replace(layout_of("transformers.js"), max_data_bytes=ROWS * 4 * 4)
    (tmp_path / "out").mkdir()
    manifest = arrange(Exported(source, open_manifest(source)), layout, tmp_path / "out")
    assert manifest.components[0].external_data == ("onnx/model.onnx_data", "onnx/model.onnx_data_1")
    found = settings(tmp_path / "out" / "config.json")["transformers.js_config"]["use_external_data_format"]
    assert found == {"model.onnx": 2}
    assert Directory(tmp_path / "out").graph("model")
    assert (source / "model.onnx_data").stat().st_size == 2 * ROWS * 4 * 4


def test_a_part_of_a_model_has_the_name_that_its_class_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = {"model": "m", "model_type": "clip_text_model", "architecture": "CLIPTextModelWithProjection"}
    source = exported(tmp_path / "in", source=text, external=True, dtypes=("fp32", "q8"))
    manifest = rearrange(source, "transformers.js", tmp_path / "out")
    files = {file for item in manifest.components for file in (item.file, *item.external_data)}
    assert files == {f"onnx/text_model{end}.onnx{data}" for end in ("", "_quantized") for data in ("", "_data")}
    chunks = settings(tmp_path / "out" / "config.json")["transformers.js_config"]["use_external_data_format"]
    assert chunks == {"text_model.onnx": 1, "text_model_quantized.onnx": 1}
    zeros = np.zeros((ROWS, 4), np.float32)
    assert (Directory(tmp_path / "out").graph("model").run({"input_ids": zeros})["logits"].numpy() == 3).all()
    assert not caplog.text
    assert {"model.onnx", "model.onnx_data"} <= files_of(source)


def test_one_precision_is_chosen(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", dtypes=("fp32", "q4"))
    manifest = rearrange(source, "transformers.js", tmp_path / "out", dtypes=("q4",))
    assert [item.file for item in manifest.components] == ["onnx/model_q4.onnx"]
    assert "onnx/model.onnx" not in files_of(tmp_path / "out")
    with pytest.raises(OptionError, match="no graphs of dtype q8, only of fp32, q4; export it with --dtype fp32,q4,q8"):
        rearrange(source, "transformers.js", tmp_path / "other", dtypes=("q8",))


def test_an_arranged_directory_is_not_arranged_again(tmp_path: Path) -> None:
    rearrange(exported(tmp_path / "in"), "transformers.js", tmp_path / "out")
    with pytest.raises(
        OptionError, match=r"has the layout transformers.js, and only the default layout can be arranged"
    ):
        rearrange(tmp_path / "out", "transformers.js", tmp_path / "again")


def test_an_output_with_other_files_is_kept(tmp_path: Path) -> None:
    source = exported(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(OutputError):
        rearrange(source, "transformers.js", tmp_path / "out", force=True)
    assert files_of(tmp_path / "out") == {"mine"}
    rearrange(source, "transformers.js", tmp_path / "new")
    rearrange(source, "transformers.js", tmp_path / "new", force=True)


def test_linked_weights_stay_where_the_checkpoint_has_them(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", options={"weights": "link"})
    with pytest.raises(UnsupportedError, match="export with --weights copy"):
        rearrange(source, "transformers.js", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"model_type": "bert", "architecture": "BertForMaskedLM"}, ""),
        ({"model_type": "clip", "architecture": "CLIPModel"}, ""),
        ({"model_type": "gemma3_text", "architecture": "Gemma3TextModel"}, ""),
        ({"model_type": "llama", "architecture": "LlamaForCausalLM"}, "the export has no cache"),
        ({"model_type": "zaya", "architecture": "ZayaForCausalLM"}, "the export has no cache"),
        ({"model_type": "cpmant", "architecture": "CpmAntForCausalLM"}, "has no class CpmAntForCausalLM"),
        (
            {"model_type": "t5", "architecture": "T5ForConditionalGeneration"},
            "has no encoder_model, decoder_model_merged",
        ),
    ],
)
def test_what_transformers_js_does_not_load(
    tmp_path: Path, source: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    rearrange(exported(tmp_path / "in", source=source), "transformers.js", tmp_path / "out")
    assert expected in caplog.text
    assert bool(expected) == bool(caplog.text)


def test_an_unknown_layout_names_the_known_ones() -> None:
    with pytest.raises(OptionError, match=r"'transformer.js' is not one of: transformers.js"):
        layout_of("transformer.js")


def test_the_table_is_the_files() -> None:
    assert {name: layout_of(name).name for name in MODULES} == {name: name for name in MODULES}


def test_defaults_give_way_to_options() -> None:
    layout = Layout(
        name="x",
        client="x",
        files={},
        options={"dtype": "q4", "io_dtype": "fp32"},
        type_options={"sam": {"past": False}},
        class_options={"BartModel": {"split_encoders": True}},
    )
    chosen = ExportOptions(layout="x")
    assert layout.with_defaults(chosen, "bert") == replace(chosen, dtype="q4", io_dtype="fp32")
    chosen = ExportOptions(layout="x", dtype="fp32")
    assert layout.with_defaults(chosen, "bert") == replace(chosen, io_dtype="fp32")
    assert not layout.with_defaults(chosen, "sam").past
    assert layout.with_defaults(chosen, "bart", ["BartModel"]).split_encoders
    other = replace(chosen, task="text-encoding")  # exports another class, or a part of this one
    assert not layout.with_defaults(other, "bart", ["BartModel"]).split_encoders
    assert ExportOptions().dtype == "fp32"


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package with a layout on the path."""
    info = tmp_path / "added-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[onnxport.layouts]\nflat = added_layout:LAYOUT\nbroken = added_layout:OTHER\n"
    )
    (tmp_path / "added_layout.py").write_text(
        "from onnxport.layouts import Layout\n"
        "LAYOUT = Layout(name='flat', client='mine', files={'*.onnx': 'graphs/{name}'}, "
        "texts=lambda exported: {'read.me': exported.model_type})\n"
        "OTHER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("added_layout", None)


def test_another_package_adds_a_layout(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported(added / "in")
    assert main(["layout", str(source), str(added / "out"), "--to", "flat"]) == 0
    assert capsys.readouterr().out.split() == ["graphs/model.onnx", "read.me"]
    assert files_of(added / "out") == {"graphs/model.onnx", "read.me", "onnxport.json"}
    with pytest.raises(UnsupportedError, match="must be a Layout"):
        layout_of("broken")
