"""`--fix` makes axes static: graphs for hardware and libraries that require it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions
from onnxport.bundles.manifest import ComponentDescription
from onnxport.errors import OptionError


def axes_of(component: ComponentDescription) -> dict[str, tuple[int | str, ...]]:
    return {tensor.name: tensor.axes for tensor in (*component.inputs, *component.outputs)}


def test_an_encoder_of_one_size(bert: Path, tmp_path: Path) -> None:
    fix = {"batch_size": 1, "sequence_length": 24}
    manifest = onnxport.export(bert, tmp_path / "out", ExportOptions(fix=fix)).manifest
    axes = axes_of(manifest.components[0])
    assert {axes[name] for name in ("input_ids", "attention_mask", "token_type_ids")} == {(1, 24)}
    assert axes["logits"][:2] == (1, 24)
    assert manifest.options["fix"] == fix
    assert manifest.components[0].fixed_axes == ()
    cases = {case["name"]: case for case in manifest.validation["cases"]}
    assert {"traced", "padding", "sentences"} == set(cases)
    assert all(case["outputs"] for case in cases.values())
    assert onnxport.validate(tmp_path / "out").status == "passed"
    ours = onnxport.load(tmp_path / "out")
    original = transformers.AutoModelForMaskedLM.from_pretrained(bert).eval()
    ids = torch.randint(5, 50, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(ours(input_ids=ids).logits, original(ids).logits, atol=1e-4)
    with pytest.raises(OptionError, match=r"input_ids is \[1, 9\], and model.onnx takes \[1, 24\]"):
        ours(input_ids=ids[:1, :9])


@pytest.mark.wide
def test_other_sizes_are_another_entry_of_the_cache(bert: Path, tmp_path: Path) -> None:
    shapes = []
    for index, fix in enumerate(({"sequence_length": 9}, {"sequence_length": 12}, None)):
        options = ExportOptions(fix=fix, validate="none")
        component = onnxport.export(bert, tmp_path / str(index), options).manifest.components[0]
        shapes.append(axes_of(component)["input_ids"])
    assert shapes == [("batch_size", 9), ("batch_size", 12), ("batch_size", "sequence_length")]


def test_a_decoder_of_single_tokens(gpt2: Path, tmp_path: Path) -> None:
    fix = {"batch_size": 1, "sequence_length": 1}
    component = onnxport.export(gpt2, tmp_path / "out", ExportOptions(fix=fix)).manifest.components[0]
    axes = axes_of(component)
    assert axes["input_ids"] == axes["position_ids"] == (1, 1)
    assert axes["attention_mask"] == (1, "past_sequence_length + 1")
    assert axes["past_key_values.1.key"][2] == "past_sequence_length"
    assert axes["present.1.key"][2] == "past_sequence_length + 1"


def test_a_decoder_with_a_cache_of_one_size(gpt2: Path, tmp_path: Path) -> None:
    fix = {"batch_size": 1, "sequence_length": 1, "past_sequence_length": 15}
    result = onnxport.export(gpt2, tmp_path / "out", ExportOptions(fix=fix))
    assert result.manifest.validation["status"] == "passed"
    axes = axes_of(result.manifest.components[0])
    assert all(isinstance(axis, int) for shape in axes.values() for axis in shape)
    assert (axes["attention_mask"], axes["present.0.value"][2]) == ((1, 16), 16)


def test_the_prompt_alone(gpt2: Path, tmp_path: Path) -> None:
    onnxport.export(gpt2, tmp_path / "out", ExportOptions(fix={"past_sequence_length": 0}))
    original = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        expected = original(ids).logits
    np.testing.assert_allclose(onnxport.load(tmp_path / "out")(input_ids=ids).logits, expected, atol=1e-4)


@pytest.mark.wide
def test_each_graph_of_an_encoder_decoder_that_has_the_axis(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("t5", "seq2seq-lm-with-past", tmp_path)
    fix = {"sequence_length": 16, "encoder_sequence_length": 16}
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(fix=fix))
    encoder, decoder = map(axes_of, result.manifest.components)
    assert encoder["input_ids"] == decoder["encoder_attention_mask"] == ("batch_size", 16)
    assert decoder["input_ids"] == ("batch_size", "decoder_sequence_length")
    ids = torch.randint(5, 90, (2, 16), generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 8, "decoder_start_token_id": 0}
    original = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    ours = onnxport.load(tmp_path / "out")
    assert torch.equal(ours.generate(ids, **settings), original.generate(ids, **settings))


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ({"seq_length": 8}, "--fix names seq_length, .* the axes are batch_size, sequence_length"),
        ({"sequence_length": 4096}, "--fix: BertForMaskedLM doesn't run with batch_size=2, sequence_length=4096"),
        ({"sequence_length": 0}, "--fix sequence_length=0: the size of an axis is an integer from 1"),
        ({"sequence_length": True}, "--fix sequence_length=True"),
        ("sequence_length=1", "doesn't map axes to sizes"),
    ],
)
def test_what_cannot_be_fixed_is_an_error(fix: dict[str, int], message: str, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        onnxport.export(bert, tmp_path / "out", ExportOptions(fix=fix))
    assert not (tmp_path / "out").exists()
