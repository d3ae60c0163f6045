"""Exports of several precisions: their files, proof and losses, and what the runtime and the commands do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport.bundles.manifest import open_manifest
from onnxport.cli import main
from onnxport.errors import CorruptCheckpointError, OptionError, UnsupportedError
from onnxport.options import Dtype, QuantizeOptions
from onnxport.runtime.directory import Directory
from onnxport.runtime.settings import RunSettings
from onnxport.runtime.torch_model import torch_model
from onnxport.validation import validate
from onnxport.writing.protobuf import initializer_ranges
from tests.integration.tiny_models import saved

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny Llama with a tied head."""
    config = transformers.LlamaConfig(
        **SIZES, vocab_size=96, num_key_value_heads=2, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2
    )
    return saved(tmp_path_factory.mktemp("precisions"), "llama", transformers.LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def exported(decoder: Path) -> Path:
    output = decoder.with_name("exported")
    onnxport.export(decoder, output, ExportOptions(dtype="fp32,q4,q8,q4f16"))
    return output


def operators(file: Path) -> dict[str, int]:
    nodes = [node.op_type for node in ir.load(file).graph]
    return {name: nodes.count(name) for name in set(nodes)}


def test_each_precision_is_a_file_with_the_suffix_of_transformers_js(exported: Path) -> None:
    names = {file.name for file in exported.glob("*.onnx")}
    assert names == {"model.onnx", "model_q4.onnx", "model_quantized.onnx", "model_q4f16.onnx"}
    assert open_manifest(exported).dtypes == ("fp32", "q4", "q8", "q4f16")


def test_each_precision_is_proved_against_its_own_weights(exported: Path) -> None:
    report = open_manifest(exported).validation
    assert report["status"] == "passed"
    assert {case["component"] for case in report["cases"]} >= {"model fp32", "model q4", "model q8", "model q4f16"}


def test_every_matrix_of_a_decoder_is_quantized(exported: Path) -> None:
    found = operators(exported / "model_q4.onnx")
    assert (found["MatMulNBits"], found["GatherBlockQuantized"]) == (2 * 7 + 1, 1)
    assert operators(exported / "model_quantized.onnx")["MatMulInteger"] == 2 * 7 + 1


def test_a_tied_embedding_is_stored_once(exported: Path) -> None:
    initializers = ir.load(exported / "model_q4.onnx").graph.initializers.values()
    shapes = [value.const_value.shape.numpy() for value in initializers if value.const_value is not None]
    assert shapes.count((96, 2, 16)) == 1 + 2 * 2  # the embedding, and the gate and up projections of two layers


def test_a_perplexity_beyond_floating_point_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = make_tokenizer("bart", 96, 0, "<unk>")
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config)
    source = saved(tmp_path, "gpt2", model, tokenizer)
    model.transformer.ln_f.weight.data *= 1000
    model.save_pretrained(source)
    result = onnxport.export(source, tmp_path / "out", ExportOptions(dtype="q4"))
    (loss,) = result.manifest.validation["losses"]
    assert set(loss["measures"]) == {"top-1 agreement"}
    assert f"the perplexity of the original on {loss['sample']} is infinite or NaN" in caplog.text


@pytest.mark.parametrize("dtype", ["fp32", "q4", "q8", "q4f16"])
def test_each_precision_generates(exported: Path, decoder: Path, dtype: str) -> None:
    model = onnxport.load(exported, dtype=dtype)
    ids = torch.tensor([[1, 5, 7, 9]])
    original = transformers.AutoModelForCausalLM.from_pretrained(decoder)
    wanted = original(ids).logits.detach().numpy()
    found = np.asarray(model(input_ids=ids).logits)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    assert model.generate(ids, max_new_tokens=4).shape == (1, 8)


def test_a_precision_that_a_directory_lacks_is_an_error(exported: Path) -> None:
    with pytest.raises(OptionError, match="no graphs of dtype 'int8', only of fp32, q4, q8, q4f16; export it with"):
        onnxport.load(exported, dtype="int8")
    with pytest.raises(OptionError, match=r"no graphs of dtype 'q4,q8', only of .*; name one of them"):
        onnxport.load(exported, dtype="q4,q8")  # type: ignore[arg-type]  # from a command line


def test_validate_repeats_the_proof_of_every_precision(exported: Path, tmp_path: Path) -> None:
    report = validate(exported)
    assert report.status == "passed"
    assert {case.component for case in report.cases} == {"model fp32", "model q4", "model q8", "model q4f16"}
    file = exported / "model_q4.onnx"
    content = file.read_bytes()
    try:
        span = initializer_ranges(file)["model.layers.1.mlp.down_proj.weight_scales"]
        scales = np.frombuffer(content, np.float32, span.nbytes // 4, span.offset) * np.float32(1.01)
        file.write_bytes(content[: span.offset] + scales.tobytes() + content[span.offset + span.nbytes :])
        damaged = validate(exported)
    finally:
        file.write_bytes(content)
    assert damaged.status == "failed"
    assert {case.component for case in damaged.cases if not case.passed} == {"model q4"}


def test_the_commands_choose_a_precision(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(exported), "--input-ids", "1,5,7", "--dtype", "q4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["bench", str(exported), "--dtype", "q8", "--prompt-tokens", "4", "--new-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == 4


def test_one_quantized_precision_has_its_suffix_and_options(decoder: Path, tmp_path: Path) -> None:
    options = QuantizeOptions(block_size=64, symmetric=False, accuracy_level=0, lm_head=8)
    output = tmp_path / "out"
    onnxport.export(decoder, output, ExportOptions(dtype="q4", quantize_options=options))
    products = [node for node in ir.load(output / "model_q4.onnx").graph if node.op_type == "MatMulNBits"]
    assert {node.attributes.get_int("block_size") for node in products} == {64}
    assert sorted(node.attributes.get_int("bits") for node in products) == [4] * 14 + [8]
    assert all(len(node.inputs) == 4 for node in products), "zero points"
    assert onnxport.load(output)(input_ids=torch.tensor([[1, 2]])).logits.shape == (1, 2, 96)


def test_experts_are_quantized_and_routers_are_not(tmp_path: Path) -> None:
    config = transformers.MixtralConfig(**SIZES, vocab_size=96, num_key_value_heads=2, num_local_experts=16)
    checkpoint = saved(tmp_path, "mixtral", transformers.MixtralForCausalLM(config))
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(dtype="q4"))
    (groups,) = result.manifest.quantization.values()
    names = {name for group in groups for name in group["parameters"]}
    assert "model.layers.0.mlp.experts.gate_up_proj" in names
    assert not {name for name in names if name.endswith("gate.weight")}
    assert operators(tmp_path / "out" / "model_q4.onnx")["MatMulNBits"] == 2 * (4 + 2 * 16) + 1


def test_the_loss_of_an_encoder_is_measured_on_the_samples(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("bert", 96, 0, "[UNK]")
    config = transformers.BertConfig(**SIZES, vocab_size=len(tokenizer))
    checkpoint = saved(tmp_path, "bert", transformers.BertForSequenceClassification(config), tokenizer)
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(dtype="fp32,q8"))
    (loss,) = result.manifest.validation["losses"]
    assert (loss["precision"], loss["sample"]) == ("q8", "sentences")
    assert loss["measures"]["top-1 agreement"] <= 1
    assert 0 < loss["measures"]["mean difference of logits"] < 0.1


def test_the_loss_of_a_decoder_is_measured_on_a_text(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("bart", 96, 0, "<unk>")
    config = transformers.LlamaConfig(**SIZES, vocab_size=len(tokenizer), num_key_value_heads=2)
    checkpoint = saved(tmp_path, "llama", transformers.LlamaForCausalLM(config), tokenizer)
    text = tmp_path / "text.txt"
    text.write_text("the house stands beside a tree and the sun shines " * 20, encoding="utf-8")
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(dtype="q4", calibration=str(text)))
    assert "calibration.safetensors" in result.manifest.files
    assert validate(tmp_path / "out").status == "passed"
    (loss,) = result.manifest.validation["losses"]
    assert loss["sample"].endswith("tokens of text")
    measures = loss["measures"]
    assert 0.3 < measures["top-1 agreement"] < 1
    assert measures["perplexity"] == pytest.approx(measures["perplexity of the original"], rel=0.2)
    with pytest.raises(OptionError, match=r"--calibration '.*missing\.txt' can't be read"):
        onnxport.export(checkpoint, tmp_path / "other", ExportOptions(calibration=str(tmp_path / "missing.txt")))


@pytest.mark.parametrize(
    ("precision", "calibration", "remedies"),
    [
        ("q2", None, "--calibration FILE or random or --quantize-options lm_head=8 or --dtype q8"),
        ("q2", "random", "; --calibration FILE or --quantize-options lm_head=8 or --dtype q8"),
        ("bnb4", None, "; --dtype q8 --quantize-options weight_only may lose less"),
    ],
)
def test_the_warning_of_a_large_loss_names_options_that_were_not_used(
    precision: Dtype, calibration: str | None, remedies: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, _, _ = reading_model(tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(dtype=precision, calibration=calibration))
    (message,) = [record.getMessage() for record in caplog.records if "loses much" in record.getMessage()]
    assert remedies in message


def reading_model(directory: Path, kind: str = "llama") -> tuple[Path, Path, Any]:
    """Save a model with a tokenizer, and a text; return both paths, and the model."""
    tokenizer = make_tokenizer("bart", 96, 0, "<unk>")
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(**SIZES, vocab_size=len(tokenizer), num_key_value_heads=2)
        model: Any = transformers.LlamaForCausalLM(config)
        with torch.no_grad():  # a few hidden features are much larger than the others, as in trained models
            model.model.layers[0].input_layernorm.weight[::16] = 20.0
    else:
        sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, vocab_size=len(tokenizer)))
    for part in (model, tokenizer):
        part.save_pretrained(directory / kind)
    text = directory / "text.txt"
    text.write_text("the house stands beside a tree and the sun shines " * 20, encoding="utf-8")
    return directory / kind, text, model.eval()


def test_calibration_weighs_the_inputs_that_matter(tmp_path: Path) -> None:
    checkpoint, text, model = reading_model(tmp_path)
    ids = transformers.AutoTokenizer.from_pretrained(checkpoint)("the house stands", return_tensors="pt")["input_ids"]
    wanted = model(ids).logits.detach().numpy()
    errors: dict[str, dict[str, float]] = {"q4": {}, "q8": {}}
    settings = {
        "plain": ("none", False),
        "default": (None, False),
        "random": ("random", False),
        "calibrated": (str(text), False),
        "gptq": (str(text), True),
    }
    for name, (calibration, gptq) in settings.items():
        quantize = QuantizeOptions(gptq=gptq)
        options = ExportOptions(dtype="q4,q8", calibration=calibration, quantize_options=quantize, validate="none")
        onnxport.export(checkpoint, tmp_path / name, options)
        for dtype, found in errors.items():
            logits = np.asarray(onnxport.load(tmp_path / name, dtype=dtype)(input_ids=ids).logits)
            found[name] = float(np.square(logits - wanted).mean())
    assert errors["q4"]["gptq"] < errors["q4"]["calibrated"] < errors["q4"]["plain"]
    assert errors["q8"]["gptq"] == errors["q8"]["calibrated"] < errors["q8"]["plain"]
    assert errors["q8"]["default"] == errors["q8"]["random"] < errors["q8"]["plain"]
    assert errors["q4"]["default"] == errors["q4"]["plain"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"optimize": "cpu"}),
        ("gpt2", {"dtype": "q4,q8"}),  # an embedding that is looked up, and multiplied with as the head
        ("llama", {"dtype": "q8,q4,uint8", "optimize": "cpu"}),
        ("llama", {"dtype": "q4,q4f16", "quantize_options": QuantizeOptions(gptq=True, symmetric=False)}),
    ],
)
def test_compensated_weights_are_proved_and_validated_again(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint, text, _ = reading_model(tmp_path, kind)
    given = {"dtype": "q4", "quantize_options": QuantizeOptions(gptq=True), **options}
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(calibration=str(text), **given))
    assert result.manifest.validation["status"] == "passed"
    layers = [name for group in result.manifest.quantization["q4"] for name in group.get("stored", {})]
    assert len(layers) == {"llama": 2 * 7 + 1, "gpt2": 2 * 4}[kind]  # a head that is an embedding gets none
    again = onnxport.validate(tmp_path / "out", str(checkpoint), ExportOptions(validate="quick"))
    assert again.status == "passed"


@pytest.mark.parametrize(
    ("before", "after"), [('"tensor": "model.layers.0.mlp', '"tensor": "other'), ('"rows": 96', '"rows": 4096')]
)
def test_a_matrix_that_the_manifest_names_wrongly_is_damage(before: str, after: str, tmp_path: Path) -> None:
    checkpoint, text, _ = reading_model(tmp_path)
    options = ExportOptions(
        dtype="q4", calibration=str(text), quantize_options=QuantizeOptions(gptq=True), validate="none"
    )
    onnxport.export(checkpoint, tmp_path / "out", options)
    file = tmp_path / "out" / "onnxport.json"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(CorruptCheckpointError, match=r"has no matrix .* as onnxport.json says; export again"):
        onnxport.validate(tmp_path / "out", str(checkpoint))


@pytest.mark.parametrize("calibration", [None, "random"])
def test_compensation_needs_a_text(calibration: str | None) -> None:
    with pytest.raises(OptionError, match="add --calibration FILE"):
        ExportOptions(dtype="q4", quantize_options=QuantizeOptions(gptq=True), calibration=calibration)


def test_each_type_of_activations_is_validated_with_what_was_measured_in_it(tmp_path: Path) -> None:
    checkpoint, _, _ = reading_model(tmp_path)
    options = ExportOptions(dtype="q4,q4f16,q8", calibration="random", validate="none")
    onnxport.export(checkpoint, tmp_path / "out", options)
    assert onnxport.validate(tmp_path / "out").status == "passed"


def test_random_tokens_calibrate_without_a_tokenizer(decoder: Path, tmp_path: Path) -> None:
    options = ExportOptions(dtype="q8", calibration="random")
    result = onnxport.export(decoder, tmp_path / "out", options)
    assert result.manifest.validation["status"] == "passed"
    assert "calibration.safetensors" in result.manifest.files
    again = onnxport.export(decoder, tmp_path / "again", options)
    assert result.manifest.digests == again.manifest.digests
    default = onnxport.export(decoder, tmp_path / "default", ExportOptions(dtype="q8"))
    assert default.manifest.digests == again.manifest.digests
    vision = make_checkpoint("vit", "image-classification", tmp_path / "vit")
    onnxport.export(vision, tmp_path / "vision", ExportOptions(dtype="q8", validate="quick"))
    with pytest.raises(OptionError, match="--calibration is for models of text, and ViTForImageClassification"):
        onnxport.export(vision, tmp_path / "other", options)


def test_a_model_that_token_ids_dont_suffice_for_is_quantized_without_calibration(tmp_path: Path) -> None:
    config = transformers.BrosConfig(**SIZES, vocab_size=96)
    checkpoint = saved(tmp_path, "bros", transformers.BrosForTokenClassification(config))
    settings = {"task": "token-classification", "dtype": "q8", "validate": "quick"}
    result = onnxport.export(checkpoint, tmp_path / "out", ExportOptions(**settings))
    assert result.manifest.validation["status"] == "passed"
    assert "calibration.safetensors" not in result.manifest.files
    with pytest.raises(OptionError, match=r"didn't read it: leave it out \(ValueError: You have to specify bbox\)"):
        onnxport.export(checkpoint, tmp_path / "other", ExportOptions(**settings, calibration="random"))


def test_classifiers_that_refuse_batches_or_need_a_last_token_are_calibrated(tmp_path: Path) -> None:
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}
    gpt2 = transformers.GPT2Config(**sizes, vocab_size=96, pad_token_id=None)
    layers = {
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 96}.items()
    }
    bart = transformers.BartConfig(d_model=64, vocab_size=96, **layers)
    models = {
        "gpt2": transformers.GPT2ForSequenceClassification(gpt2),
        "bart": transformers.BartForSequenceClassification(bart),
    }
    for kind, model in models.items():
        checkpoint = saved(tmp_path, kind, model)
        options = ExportOptions(task="text-classification", dtype="q8", validate="quick")
        result = onnxport.export(checkpoint, tmp_path / f"{kind}-out", options)
        assert result.manifest.validation["status"] == "passed"
        assert "calibration.safetensors" in result.manifest.files


def test_calibration_without_a_tokenizer_is_an_error(decoder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the house", encoding="utf-8")
    with pytest.raises(OptionError, match="--calibration FILE needs a tokenizer"):
        onnxport.export(decoder, tmp_path / "out", ExportOptions(dtype="q4", calibration=str(text)))


def test_a_model_without_matrices_isnt_quantized(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    checkpoint = saved(tmp_path, "resnet", transformers.ResNetModel(config))
    with pytest.raises(UnsupportedError, match="no linear layer or embedding that --dtype q4 quantizes"):
        onnxport.export(checkpoint, tmp_path / "out", ExportOptions(dtype="q4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["", "q5", "fp32,fp32", "fp32,"])
def test_unknown_precisions_are_named(dtype: str) -> None:
    with pytest.raises(OptionError, match="isn't one or several, once each, of: fp32, fp16"):
        ExportOptions(dtype=dtype)


@pytest.mark.parametrize(("name", "value"), [("block_size", 24), ("lm_head", 3), ("accuracy_level", 5)])
def test_options_of_quantization_are_checked(name: str, value: int) -> None:
    with pytest.raises(OptionError, match=f"--quantize-options {name}={value} is not one of"):
        QuantizeOptions(**{name: value})  # type: ignore[arg-type]


def gguf(path: Path, kind: str) -> Path:
    """Write a tiny Llama as llama.cpp does, with matrices of one type."""
    import gguf

    config = transformers.LlamaConfig(**SIZES, vocab_size=96, num_key_value_heads=2, tie_word_embeddings=True)
    torch.manual_seed(0)
    state = transformers.LlamaForCausalLM(config).state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(96)
    writer.add_layer_norm_rms_eps(1e-6)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        values, stem = tensor.numpy(), names.get_name(name, try_suffixes=(".weight",))
        block_type = gguf.GGMLQuantizationType[kind if values.ndim == 2 else "F32"]
        writer.add_tensor(stem, gguf.quants.quantize(values, block_type), raw_dtype=block_type)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "dtype", "scheme"),
    [
        pytest.param("Q4_0", "q4", (4, 32, "none"), marks=pytest.mark.wide),
        ("Q4_1", "q4", (4, 32, "float")),
        pytest.param("Q8_0", "q8", (8, 32, "none"), marks=pytest.mark.wide),
    ],
)
def test_a_quantized_checkpoint_is_carried_over_without_loss(
    tmp_path: Path, kind: str, dtype: str, scheme: tuple[int, int, str]
) -> None:
    options = ExportOptions(dtype=f"fp32,{dtype}", quantize_options=QuantizeOptions(weight_only=True))
    result = onnxport.export(gguf(tmp_path / f"{kind}.gguf", kind), tmp_path / "out", options)
    assert result.manifest.validation["status"] == "passed"
    (group,) = result.manifest.quantization[dtype]
    assert (group["bits"], group["block_size"], group["zero_points"], group["on_grid"]) == (*scheme, True)
    ids = torch.tensor([[1, 5, 7, 9, 11]])
    wanted = onnxport.load(tmp_path / "out")(input_ids=ids).logits
    exact = Directory(tmp_path / "out", RunSettings(dtype=dtype, exact=True))
    found = torch_model(exact)(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
