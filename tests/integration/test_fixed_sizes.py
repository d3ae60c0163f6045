"""`--fix` makes axes static: graphs for hardware and libraries that require it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint
from onnxport import ExportOptions
from onnxport.bundles.manifest import ComponentDescription
from onnxport.cli import main
from onnxport.errors import OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.tokenizer import DirectoryTokenizer
from tests.integration.tiny_models import wav2vec2


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


@pytest.fixture(scope="module")
def fixed(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export of masked language modeling for 3 texts of 24 tokens."""
    output = tmp_path_factory.mktemp("fixed") / "out"
    onnxport.export(bert, output, ExportOptions(fix={"batch_size": 3, "sequence_length": 24}, validate="none"))
    return output


def test_a_pipeline_pads_to_the_length(fixed: Path, bert: Path) -> None:
    texts = ["the [MASK] sat", "on [MASK] mat", "a [MASK]", "where the cat [MASK] at last"]
    original = transformers.pipeline("fill-mask", str(bert))
    ours = onnxport.pipeline("fill-mask", fixed)
    found, expected = ours(texts, batch_size=4), original(texts)
    for one, other in zip(found, expected, strict=True):
        assert [token["token"] for token in one] == [token["token"] for token in other]
        np.testing.assert_allclose([t["score"] for t in one], [t["score"] for t in other], atol=1e-5)
    assert len(ours(" [MASK]" * 40, tokenizer_kwargs={"truncation": True})) == 22


def test_run_pads_to_the_length(fixed: Path, bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnxport.export(bert, tmp_path / "out", ExportOptions(validate="none"))
    printed = []
    for directory in (tmp_path / "out", fixed):
        assert main(["run", str(directory), "--text", "the [MASK] sat", "--text", "on [MASK]"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_the_torch_free_tokenizer_pads_to_the_length(fixed: Path) -> None:
    batch = DirectoryTokenizer(Directory(fixed)).encode(["the cat"])
    assert batch["input_ids"].shape == (1, 24)
    assert batch["attention_mask"][0].argmin() == batch["attention_mask"].sum()  # on the right


@pytest.mark.parametrize("samples", [1, 3, 5])
def test_a_batch_of_another_size(samples: int, fixed: Path, bert: Path) -> None:
    original = transformers.AutoModelForMaskedLM.from_pretrained(bert).eval()
    ids = torch.randint(5, 50, (samples, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        np.testing.assert_allclose(onnxport.load(fixed)(input_ids=ids).logits, original(ids).logits, atol=1e-4)


def test_questions_are_answered_at_a_fixed_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint("bert", "question-answering", tmp_path)
    printed = []
    for name, fix in (("any", None), ("fixed", {"sequence_length": 40})):
        onnxport.export(checkpoint, tmp_path / name, ExportOptions(fix=fix, validate="none"))
        assert main(["run", str(tmp_path / name), "--question", "who sat", "--context", "the cat sat on"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_features_are_the_mean_without_padding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint("bert", "default", tmp_path)
    printed = []
    for name, fix in (("any", None), ("fixed", {"sequence_length": 40})):
        onnxport.export(checkpoint, tmp_path / name, ExportOptions(fix=fix, validate="none"))
        assert main(["run", str(tmp_path / name), "--text", "the cat sat", "--json"]) == 0
        printed.append(json.loads(capsys.readouterr().out)["embeddings"])
    np.testing.assert_allclose(printed[1], printed[0], atol=1e-4)


def test_images_are_resized_to_the_size(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("yolos", "object-detection", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(fix={"height": 64, "width": 96}, validate="none"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    processor.size = {"height": 64, "width": 96}
    original = transformers.pipeline("object-detection", str(checkpoint), image_processor=processor)
    found = onnxport.pipeline("object-detection", tmp_path / "out")(image, threshold=0)
    assert found
    assert [one["label"] for one in found] == [one["label"] for one in original(image, threshold=0)]


def test_audio_is_padded_to_the_length(tmp_path: Path) -> None:
    checkpoint = wav2vec2(tmp_path, "SequenceClassification")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(fix={"audio_sequence": 4_000}, validate="none"))
    clip = np.random.default_rng(0).standard_normal(3_000).astype(np.float32)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(checkpoint)
    padded = extractor(clip, sampling_rate=16_000, padding="max_length", max_length=4_000, return_tensors="pt")
    original = transformers.AutoModelForAudioClassification.from_pretrained(checkpoint).eval()
    with torch.no_grad():
        expected = original(**padded).logits.softmax(-1)[0]
    found = onnxport.pipeline("audio-classification", tmp_path / "out")(clip)
    scores = {entry["label"]: entry["score"] for entry in found}
    for index, label in original.config.id2label.items():
        assert scores[label] == pytest.approx(float(expected[index]), abs=1e-4)


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
