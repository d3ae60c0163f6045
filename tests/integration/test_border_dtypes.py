"""`--token-dtype` and `--io-dtype`: inputs and outputs of another type than the graph's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
import transformers

import onnxport
from onnxport import ExportOptions
from onnxport._describe import describe_checkpoint


def dtypes(manifest: onnxport.Manifest) -> dict[str, str]:
    component = manifest.components[0]
    return {tensor.name: tensor.dtype for tensor in (*component.inputs, *component.outputs)}


def test_integers_of_32_bits(bert: Path, tmp_path: Path) -> None:
    manifest = onnxport.export(bert, tmp_path / "out", ExportOptions(token_dtype="int32")).manifest
    assert manifest.validation["status"] == "passed"
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert {dtypes(manifest)[name] for name in names} == {"int32"}
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert {value.type for value in session.get_inputs()} == {"tensor(int32)"}
    ids = torch.randint(5, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = transformers.AutoModelForMaskedLM.from_pretrained(bert).eval()(ids).logits
    ours = onnxport.load(tmp_path / "out")  # casts int64
    np.testing.assert_allclose(ours(input_ids=ids).logits, expected, atol=1e-4)
    assert onnxport.validate(tmp_path / "out").status == "passed"


def test_float32_around_a_float16_decoder_whose_cache_stays_float16(gpt2: Path, tmp_path: Path) -> None:
    options = ExportOptions(dtype="fp16", io_dtype="fp32", token_dtype="int32")
    manifest = onnxport.export(gpt2, tmp_path / "out", options).manifest
    assert manifest.validation["status"] == "passed"
    found = dtypes(manifest)
    assert (found["input_ids"], found["logits"]) == ("int32", "float32")
    assert {dtype for name, dtype in found.items() if name.startswith(("past_", "present"))} == {"float16"}
    described = describe_checkpoint(gpt2, options).graphs[0]
    assert {spec.name: spec.dtype for spec in (*described.inputs, *described.outputs)} == found
    assert onnxport.validate(tmp_path / "out").status == "passed"
    ids = torch.tensor([[5, 6, 7]])
    expected = transformers.AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float16).eval()
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(onnxport.load(tmp_path / "out").generate(ids, **settings), expected.generate(ids, **settings))


def test_the_cache_of_graphs_serves_every_type(bert: Path, tmp_path: Path) -> None:
    for index, token_dtype in enumerate(("int64", "int32", "int64")):
        options = ExportOptions(token_dtype=token_dtype, validate="none")
        assert dtypes(onnxport.export(bert, tmp_path / str(index), options).manifest)["input_ids"] == token_dtype
