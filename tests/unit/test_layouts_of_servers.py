"""The layouts of onnxruntime-genai and Triton: what their configuration files say about the graphs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription
from onnxport.errors import OutputError, UnsupportedError
from onnxport.layouts import rearrange

TOTAL = "past_sequence_length + sequence_length"


def tensor(name: str, *axes: int | str, dtype: str = "int64") -> TensorDescription:
    return TensorDescription(name, dtype, axes)


def cache(prefix: str, layers: int, length: str) -> tuple[TensorDescription, ...]:
    names = [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    return tuple(tensor(name, "batch_size", 2, length, 8, dtype="float32") for name in names)


DECODER = ComponentDescription(
    "model", "model.onnx", (), 20, 1, 1,
    (
        tensor("input_ids", "batch_size", "sequence_length"),
        tensor("attention_mask", "batch_size", TOTAL),
        tensor("position_ids", "batch_size", "sequence_length"),
        *cache("past_key_values", 3, "past_sequence_length"),
    ),
    (tensor("logits", "batch_size", "sequence_length", 64, dtype="float32"), *cache("present", 3, TOTAL)),
    dtype="fp32",
)  # fmt: skip
FILES = {
    "config.json": {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 128},
    "generation_config.json": {"bos_token_id": 1, "eos_token_id": [2, 3], "do_sample": True, "temperature": 0.6},
}


def exported(directory: Path, *components: ComponentDescription, files: dict[str, Any] | None = None) -> Path:
    directory.mkdir()
    texts = {name: json.dumps(values) for name, values in (FILES if files is None else files).items()}
    for name in [*(item.file for item in components), *texts]:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(texts.get(name, "graph"))
    source = {"model": "m", "model_type": "llama", "architecture": "LlamaForCausalLM"}
    manifest = Manifest("text-generation-with-past", source, {"dtype": "fp32"}, {}, components, {}, tuple(texts))
    (directory / "onnxport.json").write_text(manifest.to_json())
    return directory


def genai_config(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "genai_config.json").read_text())
    return found


def test_genai_gets_the_graph_and_the_generation_settings(tmp_path: Path) -> None:
    manifest = rearrange(exported(tmp_path / "in", DECODER), "genai", tmp_path / "out")
    assert "genai_config.json" in manifest.files
    found = genai_config(tmp_path / "out")
    decoder = found["model"].pop("decoder")
    assert found["model"] == {
        **{"type": "llama", "vocab_size": 64, "context_length": 128},
        **{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 2},
    }
    assert {name: decoder[name] for name in decoder if name not in ("inputs", "outputs", "session_options")} == {
        **{"filename": "model.onnx", "head_size": 8, "hidden_size": 32, "num_attention_heads": 4},
        **{"num_hidden_layers": 3, "num_key_value_heads": 2},
    }
    assert set(decoder["inputs"]) == {
        "input_ids", "attention_mask", "position_ids", "past_key_names", "past_value_names"
    }  # fmt: skip
    search = found["search"]
    assert (search["do_sample"], search["temperature"], search["max_length"]) == (True, 0.6, 128)
    assert search["past_present_share_buffer"] is False


def test_genai_shares_the_buffer_of_fused_attention(tmp_path: Path) -> None:
    fused = replace(DECODER, shares_cache=True)
    rearrange(exported(tmp_path / "in", fused), "genai", tmp_path / "out")
    assert genai_config(tmp_path / "out")["search"]["past_present_share_buffer"] is True


def test_genai_runs_other_model_types_as_decoders(tmp_path: Path) -> None:
    source = exported(tmp_path / "in", DECODER, files={"config.json": {"n_head": 4, "n_embd": 32, "n_positions": 16}})
    text = (source / "onnxport.json").read_text()
    (source / "onnxport.json").write_text(text.replace('"model_type": "llama"', '"model_type": "codegen"'))
    rearrange(source, "genai", tmp_path / "out")
    found = genai_config(tmp_path / "out")
    assert (found["model"]["type"], found["model"]["context_length"]) == ("decoder", 16)
    assert "eos_token_id" not in found["model"]
    assert found["search"]["top_k"] == 1  # greedy


@pytest.mark.parametrize(
    ("components", "expected"),
    [
        (
            (DECODER, replace(DECODER, name="encoder_model", file="encoder_model.onnx")),
            "has model, encoder_model of llama",
        ),
        ((replace(DECODER, inputs=DECODER.inputs[:2]),), "it has no cache"),
        ((replace(DECODER, inputs=(*DECODER.inputs, tensor("past_conv.0", 1))),), r"it takes past_conv\.0"),
    ],
)
def test_what_genai_does_not_run(tmp_path: Path, components: tuple[ComponentDescription, ...], expected: str) -> None:
    with pytest.raises(UnsupportedError, match=expected):
        rearrange(exported(tmp_path / "in", *components), "genai", tmp_path / "out")
    assert not (tmp_path / "out").exists()


ENCODER = replace(
    DECODER,
    inputs=(tensor("input_ids", "batch_size", "sequence_length"), tensor("prompt_length", "batch_size")),
    outputs=(tensor("logits", "batch_size", 2, dtype="float32"),),
)
CONFIGURATION = """\
name: "model"
backend: "onnxruntime"
max_batch_size: 32
input [
  {
    name: "input_ids"
    data_type: TYPE_INT64
    dims: [ -1 ]
  },
  {
    name: "prompt_length"
    data_type: TYPE_INT64
    dims: [ 1 ]
    reshape: { shape: [ ] }
  }
]
output [
  {
    name: "logits"
    data_type: TYPE_FP32
    dims: [ 2 ]
  }
]
instance_group [
  {
    count: 1
    kind: KIND_AUTO
  }
]
dynamic_batching { }
"""


def test_triton_gets_a_model_for_each_graph(tmp_path: Path) -> None:
    files = {**FILES, "1_Pooling/config.json": {}}
    quantized = replace(ENCODER, file="model_q8.onnx", dtype="q8")
    rearrange(exported(tmp_path / "in", ENCODER, quantized, files=files), "triton", tmp_path / "out")
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {
        *("config.json", "generation_config.json", "onnxport.json", "model/1/model.onnx", "model/config.pbtxt"),
        *("model_q8/1/model.onnx", "model_q8/config.pbtxt"),
    }
    assert (tmp_path / "out" / "model" / "config.pbtxt").read_text() == CONFIGURATION


def test_triton_does_not_batch_a_graph_without_a_free_batch_axis(tmp_path: Path) -> None:
    single = replace(ENCODER, outputs=(tensor("logits", "image_batch_size", "text_batch_size", dtype="float16"),))
    rearrange(exported(tmp_path / "in", single), "triton", tmp_path / "out")
    text = (tmp_path / "out" / "model" / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in text
    assert "dims: [ -1, -1 ]" in text
    assert "TYPE_FP16" in text
    assert "dynamic_batching" not in text


SAM = (
    replace(
        ENCODER,
        name="vision_encoder",
        file="vision_encoder.onnx",
        inputs=(tensor("pixel_values", "batch_size", 3, 8, 8),),
        outputs=(tensor("image_embeddings", "batch_size", 4), tensor("image_positional_embeddings", "batch_size", 4)),
    ),
    replace(
        ENCODER,
        name="prompt_encoder_mask_decoder",
        file="prompt_encoder_mask_decoder.onnx",
        inputs=(tensor("input_points", "batch_size", "points", 2), tensor("image_embeddings", "batch_size", 4)),
        outputs=(tensor("pred_masks", "batch_size", 8),),
    ),
)


def test_triton_gets_an_ensemble_of_graphs_that_take_the_outputs_of_others(tmp_path: Path) -> None:
    rearrange(exported(tmp_path / "in", *SAM), "triton", tmp_path / "out")
    text = (tmp_path / "out" / "ensemble" / "config.pbtxt").read_text()
    assert (tmp_path / "out" / "ensemble" / "1").is_dir()
    assert text.startswith('name: "ensemble"\nplatform: "ensemble"\nmax_batch_size: 32\n')
    inputs, outputs, steps = text.partition("input [")[2].replace("output [", "|").replace("ensemble_s", "|").split("|")
    assert [line.split('"')[1] for line in inputs.splitlines() if "name" in line] == ["pixel_values", "input_points"]
    assert [line.split('"')[1] for line in outputs.splitlines() if "name" in line] == ["pred_masks"]
    assert steps.index('output_map { key: "image_embeddings" value: "image_embeddings" }') < steps.index(
        'input_map { key: "image_embeddings" value: "image_embeddings" }'
    )


@pytest.mark.parametrize(
    "components",
    [
        (replace(SAM[0], outputs=(tensor("image_embeds", "batch_size", 4),)), SAM[1]),
        (SAM[0], replace(SAM[1], inputs=(*SAM[1].inputs, tensor("past_key_values.0.key", "batch_size", 4)))),
        (SAM[0], replace(SAM[1], outputs=(tensor("image_embeddings", "batch_size", 4),))),
        (SAM[0], replace(SAM[1], inputs=(tensor("image_embeddings", "batch_size", 4, dtype="float16"),))),
    ],
)
def test_triton_gets_no_ensemble_of_other_graphs(components: tuple[ComponentDescription, ...], tmp_path: Path) -> None:
    rearrange(exported(tmp_path / "in", *components), "triton", tmp_path / "out")
    assert not (tmp_path / "out" / "ensemble").exists()


def test_two_files_of_one_path_are_an_error(tmp_path: Path) -> None:
    other = replace(ENCODER, file="onnx/model.onnx")
    with pytest.raises(OutputError, match=r"several files for model/1/model\.onnx; choose one with --dtype"):
        rearrange(exported(tmp_path / "in", ENCODER, other), "triton", tmp_path / "out")
