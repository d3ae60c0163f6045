"""Adapters: weights that are merged while they are written equal a reference in PyTorch, or there is an error."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import onnxport
from conformance.checkpoints import randomize
from onnxport import ExportOptions, export, validate
from onnxport.binding.bind import Binding, bind
from onnxport.blueprints.find import BlueprintSource
from onnxport.bundles.manifest import read_manifest
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.cli import main
from onnxport.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    OnnxportError,
    OptionError,
    UnsupportedError,
    WeightsMismatchError,
)
from onnxport.loading.load import load_config, load_model

State = dict[str, torch.Tensor]

LLAMA = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "tie_word_embeddings": False}
BERT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40,
}  # fmt: skip
VIT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip


def base(directory: Path, name: str, settings: dict[str, Any]) -> Path:
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**settings))
    randomize(model)
    model.save_pretrained(directory)
    return directory


def adapter(directory: Path, base_name: str | None, tensors: State, **settings: Any) -> Path:
    """Write an adapter, with tensor names without PEFT's prefix."""
    directory.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": base_name, "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config | settings))
    named = {f"base_model.model.{name}": tensor.clone() for name, tensor in tensors.items()}
    save_file(named, directory / "adapter_model.safetensors")
    return directory


def random(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes) * 0.1


def factors(module: str, out: int, into: int, rank: int = 4) -> State:
    return {f"{module}.lora_A.weight": random(rank, into), f"{module}.lora_B.weight": random(out, rank)}


def product(tensors: State, module: str, scale: float) -> torch.Tensor:
    return scale * (tensors[f"{module}.lora_B.weight"] @ tensors[f"{module}.lora_A.weight"])


def check(directory: Path, name: str, wanted: State, **options: Any) -> Binding:
    """Compare expressions, and the model in memory, with expected parameters; all others must equal the base's."""
    chosen, model_class = ExportOptions(**options), getattr(transformers, name)
    checkpoint = open_checkpoint(directory, chosen)
    bound = bind(checkpoint, model_class, load_config(checkpoint, chosen), chosen)
    assert bound.binding.note == ""
    loaded = load_model(checkpoint, model_class, chosen)
    plain = model_class.from_pretrained(checkpoint.directory, dtype=loaded.dtype)
    binding = Binding.from_json(bound.binding.to_json())
    bound_tolerance = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}[loaded.dtype]
    assert set(wanted) <= set(plain.state_dict())
    with Reader(checkpoint.directory, binding.files) as reader:
        for key, tensor in plain.state_dict().items():
            streamed = torch.from_numpy(binding[key].evaluate(reader).astype(np.float32))
            chunks = [chunk.astype(np.float32).copy() for chunk in binding[key].chunks(reader)]
            assert np.array_equal(np.concatenate(chunks), streamed.flatten().numpy())
            expected = wanted[key].float() if key in wanted else tensor.to(loaded.dtype).float()
            tolerance = bound_tolerance if key in wanted else 0
            assert torch.allclose(streamed, expected, atol=tolerance, rtol=tolerance), key
            in_memory = loaded.state_dict()[key]
            assert in_memory.dtype == loaded.dtype
            assert torch.allclose(in_memory.float(), expected, atol=tolerance, rtol=tolerance), key
    return bound.binding


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_linear_layers_with_patterns(tmp_path: Path, dtype: str) -> None:
    weights = load_file(base(tmp_path / "base", "LlamaForCausalLM", LLAMA) / "model.safetensors")
    query, down, head = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "lm_head"
    tensors = {**factors(query, 32, 32), **factors(down, 32, 48, rank=2), **factors(head, 64, 32)}
    found = adapter(
        tmp_path / "lora", "../base", tensors,
        rank_pattern={"mlp.down_proj": 2}, alpha_pattern={"^model.layers.0.self_attn.q_proj": 1, "proj": 3},
        layers_to_transform=None, target_modules=["q_proj"],
    )  # fmt: skip
    expected = {
        f"{query}.weight": weights[f"{query}.weight"] + product(tensors, query, 1 / 4),
        f"{down}.weight": weights[f"{down}.weight"] + product(tensors, down, 6 / 2),
        f"{head}.weight": weights[f"{head}.weight"] + product(tensors, head, 6 / 4),
    }
    check(found, "LlamaForCausalLM", expected, dtype=dtype)


def test_the_scale_of_rslora(tmp_path: Path) -> None:
    weights = load_file(base(tmp_path / "base", "LlamaForCausalLM", LLAMA) / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj"
    tensors = factors(name, 16, 32)
    found = adapter(tmp_path / "lora", str(tmp_path / "base"), tensors, use_rslora=True)
    expected = weights[f"{name}.weight"] + product(tensors, name, 6 / math.sqrt(4))
    check(found, "LlamaForCausalLM", {f"{name}.weight": expected})


@pytest.mark.parametrize("dora", [False, True])
def test_conv1d_and_embeddings_are_transposed(tmp_path: Path, dora: bool) -> None:
    weights = load_file(base(tmp_path / "base", "GPT2LMHeadModel", GPT2) / "model.safetensors")
    square, wide, table = "transformer.h.0.attn.c_proj", "transformer.h.1.mlp.c_fc", "transformer.wte"
    tensors = {**factors(square, 32, 32), **factors(wide, 128, 32)}
    table_factors = {f"{table}.lora_embedding_A": random(4, 64), f"{table}.lora_embedding_B": random(32, 4)}
    deltas = {name: product(tensors, name, 1.5) for name in (square, wide)}
    deltas[table] = 1.5 * (table_factors[f"{table}.lora_embedding_B"] @ table_factors[f"{table}.lora_embedding_A"])
    expected, norms = {}, {}
    for name, delta in deltas.items():
        merged = weights[f"{name}.weight"].T + delta
        if dora:
            norms[f"{name}.lora_magnitude_vector"] = random(len(merged)).abs() + 0.5
            merged = merged / merged.norm(dim=1, keepdim=True) * norms[f"{name}.lora_magnitude_vector"][:, None]
        expected[f"{name}.weight"] = merged.T
    found = adapter(tmp_path / "lora", "../base", {**tensors, **table_factors, **norms}, use_dora=dora)
    check(found, "GPT2LMHeadModel", expected)


def test_convolutions_and_dora(tmp_path: Path) -> None:
    weights = load_file(base(tmp_path / "base", "ViTForImageClassification", VIT) / "model.safetensors")
    name = "vit.embeddings.patch_embeddings.projection"
    down, up, norms = random(4, 3, 4, 4), random(32, 4, 1, 1), random(1, 32, 1, 1).abs()
    tensors = {
        f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up, f"{name}.lora_magnitude_vector.weight": norms
    }  # fmt: skip
    found = adapter(tmp_path / "lora", "../base", tensors, use_dora=True)
    merged = weights[f"{name}.weight"] + 1.5 * torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
    merged = merged / merged.flatten(1).norm(dim=1)[:, None, None, None] * norms.reshape(-1, 1, 1, 1)
    check(found, "ViTForImageClassification", {f"{name}.weight": merged})


def test_parameter_names_of_earlier_releases(tmp_path: Path) -> None:
    """Language models in multimodal models had other names; adapters have the names of the release that saved them."""
    settings = {
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "image_size": 16, "patch_size": 8,
        },
        "text_config": {"model_type": "llama", **LLAMA}, "image_token_index": 5,
    }  # fmt: skip
    name = "LlavaForConditionalGeneration"
    source = base(tmp_path / "base", name, settings)
    old, new = ("language_model.model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj")
    tensors = factors(old, 48, 32)
    found = adapter(tmp_path / "lora", "../base", tensors)
    plain = transformers.LlavaForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    expected = plain.get_submodule(new).weight.detach() + product(tensors, old, 1.5)
    check(found, name, {f"{new}.weight": expected})


def test_the_base_may_be_quantized(tmp_path: Path) -> None:
    """The product is added to the dequantized weights of the base before rounding."""
    source = base(tmp_path / "base", "LlamaForCausalLM", LLAMA)
    name = "model.layers.0.self_attn.q_proj"
    state = load_file(source / "model.safetensors")
    packed = state[f"{name}.weight"].to(torch.float8_e4m3fn)
    quantized = {key: tensor for key, tensor in state.items() if key != f"{name}.weight"}
    quantized |= {f"{name}.weight": packed, f"{name}.weight_scale_inv": torch.tensor([[0.5, 0.25], [2, 1]])}
    save_file(quantized, source / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((source / "config.json").read_text())
    settings["quantization_config"] = {
        "quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(settings))
    tensors = factors(name, 32, 32)
    scales = torch.tensor([[0.5, 0.25], [2, 1]]).repeat_interleave(16, 0).repeat_interleave(16, 1)
    expected = packed.float() * scales + product(tensors, name, 1.5)
    found = adapter(tmp_path / "lora", "../base", tensors)
    for dtype in ("fp32", "bf16"):
        check(found, "LlamaForCausalLM", {f"{name}.weight": expected}, dtype=dtype)


def test_a_new_head_and_biases_replace_those_of_the_base(tmp_path: Path) -> None:
    """The base has no classifier; loading it without the adapter is an error."""
    source = base(tmp_path / "base", "BertModel", BERT)
    name = "bert.encoder.layer.0.attention.self.query"
    head = {"classifier.weight": random(2, 32), "classifier.bias": random(2)}
    bias = random(32)
    tensors = {**factors(name, 32, 32), f"{name}.base_layer.bias": bias, **head}
    found = adapter(
        tmp_path / "lora", str(source), tensors, task_type="SEQ_CLS", modules_to_save=["classifier"], bias="all"
    )
    result = export(found, tmp_path / "out", ExportOptions(validate="quick"))
    assert result.manifest.task == "text-classification" and result.manifest.validation["status"] == "passed"
    weights = load_file(source / "model.safetensors")
    plain = transformers.BertForSequenceClassification.from_pretrained(source).eval()
    state = plain.state_dict()
    state |= head | {f"{name}.bias": bias}
    key = f"{name}.weight"
    state[key] = weights[key.removeprefix("bert.")] + product(tensors, name, 1.5)
    plain.load_state_dict(state)
    ids = torch.tensor([[1, 5, 9], [3, 4, 2]])
    with torch.no_grad():
        expected = plain(ids, attention_mask=torch.ones_like(ids)).logits
    assert np.allclose(run(tmp_path / "out", input_ids=ids, attention_mask=torch.ones_like(ids)), expected, atol=1e-5)
    with pytest.raises(WeightsMismatchError, match="classifier"):
        export(source, tmp_path / "no", ExportOptions(task="text-classification"))


def run(directory: Path, **inputs: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the first output of an export."""
    from onnxruntime import InferenceSession

    session = InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {item.name: np.zeros([], np.int64) for item in session.get_inputs()}
    feeds |= {name: tensor.numpy() for name, tensor in inputs.items()}
    if "token_type_ids" in feeds and "token_type_ids" not in inputs:
        feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
    found: np.ndarray[Any, Any] = session.run(None, feeds)[0]
    return found


QUERY = "bert.encoder.layer.0.attention.self.query"


def merged_bert(source: Path, tensors: State) -> Any:
    plain = transformers.BertForMaskedLM.from_pretrained(source).eval()
    with torch.no_grad():
        plain.get_submodule(QUERY).weight += product(tensors, QUERY, 1.5)
    return plain


def differs(directory: Path, plain: Any) -> float:
    ids = torch.tensor([[1, 5, 9, 7], [3, 4, 2, 8]])
    with torch.no_grad():
        expected = plain(ids, attention_mask=torch.ones_like(ids)).logits.numpy()
    return float(abs(run(directory, input_ids=ids, attention_mask=torch.ones_like(ids)) - expected).max())


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Path, Path, State]:
    source = base(tmp_path / "base", "BertForMaskedLM", BERT)
    tensors = factors(QUERY, 32, 32)
    return source, adapter(tmp_path / "lora", "../base", tensors), tensors


def created_entries(source: Path, options: ExportOptions) -> tuple[bool, bool]:
    """Return which parts of a blueprint weren't in the cache: the graphs, the binding."""
    found = BlueprintSource(open_checkpoint(source, options), options, lambda *_: None)
    return not found.blueprint().trace.cached, found.draft is not None


def test_the_blueprint_of_the_base_is_used(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    """The base's graph is used for an adapter; another adapter with the same shapes needs neither torch nor tracing."""
    source, found, _ = bert
    export(source, tmp_path / "plain", ExportOptions(validate="none"))
    options = ExportOptions(adapter=str(found))
    assert created_entries(source, options) == (False, True)
    other_tensors = factors(QUERY, 32, 32)
    other = adapter(tmp_path / "other", "elsewhere", other_tensors)
    options = ExportOptions(adapter=str(other))
    assert created_entries(source, options) == (False, False)
    export(source, tmp_path / "merged", options)
    assert differs(tmp_path / "merged", merged_bert(source, other_tensors)) < 1e-5
    assert differs(tmp_path / "plain", merged_bert(source, other_tensors)) > 1e-3
    adapter(
        other, "elsewhere", other_tensors, lora_alpha=12
    )  # the scale is in the expressions, and therefore in the key
    assert created_entries(source, options) == (False, True)


def test_the_manifest_names_adapter_and_base_and_can_be_validated(
    bert: tuple[Path, Path, State], tmp_path: Path
) -> None:
    source, found, tensors = bert
    export(found, tmp_path / "one", ExportOptions())
    export(source, tmp_path / "two", ExportOptions(adapter=str(found)))
    for name in ("one", "two"):
        manifest = read_manifest(tmp_path / name)
        assert manifest is not None
        assert Path(manifest.source["adapter"]["base"]).resolve() == source
        assert set(manifest.source["weights_sha256"]) == {"model.safetensors", "adapter_model.safetensors"}
        assert validate(tmp_path / name).status == "passed"
        assert differs(tmp_path / name, merged_bert(source, tensors)) < 1e-5
    plain = validate(tmp_path / "two", str(source))
    assert plain.status == "failed"  # without the adapter, the outputs differ


def test_validation_with_a_memory_limit(bert: tuple[Path, Path, State], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("onnxport.validation.memory.MARGIN", 1000)
    monkeypatch.setattr("onnxport.validation.on_demand.SMALL", 100)
    source = base(tmp_path / "deep", "BertForMaskedLM", {**BERT, "num_hidden_layers": 5})
    for memory, status, note in (
        (60_000, "passed", "weights were read from disk"),
        (10_000, "partial", "validated: "),
    ):
        result = export(adapter(bert[1], str(source), bert[2]), tmp_path / str(memory), ExportOptions(memory=memory))
        assert result.manifest.validation["status"] == status
        assert note in result.manifest.validation["note"]


def test_the_tokenizer_of_the_adapter_is_used(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    source, found, _ = bert
    for directory, last in ((source, "base"), (found, "own")):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", last]
        (directory / "vocab.txt").write_text("\n".join(words))
        transformers.BertTokenizer(str(directory / "vocab.txt")).save_pretrained(directory)
        export(found, tmp_path / f"{last}-out", ExportOptions(validate="quick"))
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / f"{last}-out")
        assert loaded.convert_tokens_to_ids(last) == 5
    assert json.loads((tmp_path / "own-out" / "config.json").read_text())["model_type"] == "bert"


def test_merged_weights_are_written_and_others_linked(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    source, found, tensors = bert
    result = export(found, tmp_path / "out", ExportOptions(weights="link"))
    assert {"model.onnx_data", "model.safetensors"} <= {file.name for file in result.plan}
    assert (tmp_path / "out" / "model.onnx_data").stat().st_size == 32 * 32 * 4
    assert differs(tmp_path / "out", merged_bert(source, tensors)) < 1e-5


def test_a_pickled_base_is_merged_in_memory(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    source, found, tensors = bert
    plain = merged_bert(source, tensors)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    export(found, tmp_path / "out", ExportOptions())
    assert differs(tmp_path / "out", plain) < 1e-5


def test_tied_weights(tmp_path: Path) -> None:
    """A tensor saved under one of the tied names is used for both, unless training untied them."""
    source = base(tmp_path / "base", "BertForMaskedLM", BERT)
    table = "bert.embeddings.word_embeddings"
    saved = random(64, 32)
    found = adapter(tmp_path / "lora", "../base", {**factors(QUERY, 32, 32), f"{table}.weight": saved})
    expected = {
        f"{table}.weight": saved, "cls.predictions.decoder.weight": saved,
        f"{QUERY}.weight": merged_bert(source, load(found)).get_submodule(QUERY).weight.detach(),
    }  # fmt: skip
    check(found, "BertForMaskedLM", expected)
    one = {f"{table}.weight": saved}
    both = {**one, "cls.predictions.decoder.weight": saved}
    names = ["word_embeddings", "decoder"]
    check(adapter(found, "../base", both, modules_to_save=names), "BertForMaskedLM", both)
    binding = check(adapter(found, "../base", one, modules_to_save=names, ensure_weight_tying=True), *tied_check(both))
    assert "cls.predictions.decoder.weight" in binding.tied
    with pytest.raises(UnsupportedError, match=r"has different values for .* which are tied.*tie_word_embeddings"):
        check(adapter(found, "../base", {**both, "cls.predictions.decoder.weight": saved + 1}), *tied_check({}))


def tied_check(expected: State) -> tuple[str, State]:
    return "BertForMaskedLM", expected


def test_changes_of_one_of_two_tied_weights_untie_them(tmp_path: Path) -> None:
    source = base(tmp_path / "base", "BertForMaskedLM", BERT)
    table, decoder = "bert.embeddings.word_embeddings", "cls.predictions.decoder"
    saved, lora = (
        random(64, 32),
        {f"{table}.lora_embedding_A": random(4, 64), f"{table}.lora_embedding_B": random(32, 4)},
    )
    names = ["word_embeddings", "decoder"]
    found = tmp_path / "lora"
    weight = load_file(source / "model.safetensors")[f"{table}.weight"]
    changed = weight + 1.5 * (lora[f"{table}.lora_embedding_B"] @ lora[f"{table}.lora_embedding_A"]).T
    for tensors, settings, expected in (
        ({f"{table}.weight": saved}, {"modules_to_save": names}, {f"{table}.weight": saved}),
        ({f"{decoder}.weight": saved}, {"modules_to_save": names}, {f"{decoder}.weight": saved}),
        *(
            ({f"{table}.weight": saved, f"{decoder}.weight": other}, {"modules_to_save": names}, None)
            for other in (saved + 1,)
        ),
        (lora, {}, {f"{table}.weight": changed}),
    ):
        wanted = expected or tensors
        binding = check(adapter(found, "../base", tensors, **settings), *tied_check(wanted))
        assert f"{decoder}.weight" in binding.expressions


def test_trained_rows_of_token_embeddings(tmp_path: Path) -> None:
    source = base(tmp_path / "base", "BertForMaskedLM", BERT)
    table = "bert.embeddings.word_embeddings"
    rows, indices = random(4, 32), [9, 3, 4, 63]
    expected = load_file(source / "model.safetensors")[f"{table}.weight"]
    expected[indices] = rows
    found = adapter(
        tmp_path / "lora", "../base", {f"{table}.token_adapter.trainable_tokens_delta": rows},
        trainable_token_indices=indices,
    )  # fmt: skip
    check(found, *tied_check({f"{table}.weight": expected, "cls.predictions.decoder.weight": expected}))
    named = {"decoder": indices}
    tensors = {"cls.predictions.decoder.token_adapter.trainable_tokens_delta": rows}
    check(
        adapter(found, "../base", tensors, trainable_token_indices=named),
        *tied_check({"cls.predictions.decoder.weight": expected}),
    )


def load(directory: Path) -> State:
    return {
        name.removeprefix("base_model.model."): tensor
        for name, tensor in load_file(directory / "adapter_model.safetensors").items()
    }


GOOD = factors(QUERY, 32, 32)
ROWS = {"bert.embeddings.word_embeddings.token_adapter.trainable_tokens_delta": random(1, 32)}
ERRORS: dict[str, tuple[dict[str, Any], State, type[OnnxportError], str]] = {
    "another method": ({"peft_type": "IA3"}, GOOD, UnsupportedError, "peft_type is 'IA3'"),
    "biases of LoRA factors": ({"lora_bias": True}, GOOD, UnsupportedError, "lora_bias is True"),
    "an unknown setting": ({"use_tomorrow": True}, GOOD, UnsupportedError, "use_tomorrow is True"),
    "PiSSA": ({"init_lora_weights": "pissa"}, GOOD, UnsupportedError, "init_lora_weights is pissa"),
    "no trained tokens": ({"trainable_token_indices": [1]}, GOOD, CorruptCheckpointError, "has no trained tokens"),
    "other trained tokens": ({"trainable_token_indices": [1, 2]}, ROWS, CorruptCheckpointError, "one token id for"),
    "trained tokens that don't exist": (
        {"trainable_token_indices": [64]}, ROWS, WeightsMismatchError, r"token ids up to 64.*\[64, 32\]",
    ),
    "no rank": ({"r": 0}, GOOD, CorruptCheckpointError, "r is 0"),
    "an invalid pattern": ({"alpha_pattern": {"(": 1}}, GOOD, CorruptCheckpointError, "alpha_pattern"),
    "another rank": ({"r": 8}, GOOD, CorruptCheckpointError, "rank of .* is 4, but 8 in adapter_config.json"),
    "another layer": ({"layers_to_transform": [1]}, GOOD, CorruptCheckpointError, "layers_to_transform"),
    "no magnitude vector": ({"use_dora": True}, GOOD, CorruptCheckpointError, "no lora_magnitude_vector"),
    "one factor": ({}, {f"{QUERY}.lora_A.weight": random(4, 32)}, CorruptCheckpointError, "needs lora_A and lora_B"),
    "no such module": ({}, factors("bert.nothing", 32, 32), WeightsMismatchError, "bert.nothing.*doesn't have"),
    "no such parameter": ({}, {**GOOD, "bert.x.weight": random(2)}, WeightsMismatchError, "bert.x.weight"),
    "another shape": ({}, factors(QUERY, 32, 31), WeightsMismatchError, r"\[32, 4\] and \[4, 31\].*\[32, 32\]"),
    "another vocabulary": (
        {}, {"bert.embeddings.word_embeddings.weight": random(65, 32)}, WeightsMismatchError,
        r"bias is \[64\], must be \[65\]",
    ),
    "a layer norm": ({}, factors("bert.embeddings.LayerNorm", 32, 1), UnsupportedError, "which is a LayerNorm"),
    "no base": ({"base_model_name_or_path": None}, GOOD, CheckpointNotFoundError, "doesn't name its base model"),
    "a missing base": (
        {"base_model_name_or_path": "/not/there"}, GOOD, CheckpointNotFoundError, "no such directory",
    ),
    "a base that is an adapter": ({"base_model_name_or_path": "."}, GOOD, UnsupportedError, "an adapter too"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_what_cannot_be_merged(bert: tuple[Path, Path, State], name: str) -> None:
    settings, tensors, error, message = ERRORS[name]
    found = adapter(bert[1], "../base", tensors, **settings)
    with pytest.raises(error, match=message):
        check(found, "BertForMaskedLM", {})


def test_missing_files(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    source, found, _ = bert
    for path, message in ((source, "isn't a PEFT adapter"), (tmp_path / "gone", "no such directory")):
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(source, ExportOptions(adapter=str(path)))
    with pytest.raises(UnsupportedError, match="pass their base model as MODEL"):
        open_checkpoint(found, ExportOptions(adapter=str(found)))
    (found / "adapter_model.safetensors").rename(found / "adapter_model.bin")
    with pytest.raises(CheckpointNotFoundError, match=re.escape("adapter_model.bin, a pickle")):
        open_checkpoint(found, ExportOptions())


Targets = dict[str, Any]
PEFT: dict[str, tuple[str, dict[str, Any], Targets]] = {
    "linear": ("LlamaForCausalLM", LLAMA, {"target_modules": "all-linear", "use_rslora": True, "r": 3}),
    "patterns": (
        "LlamaForCausalLM", LLAMA,
        {"target_modules": ["q_proj", "o_proj"], "layers_to_transform": [1], "rank_pattern": {"q_proj": 2},
         "alpha_pattern": {"layers.1.self_attn.o_proj": 5}},
    ),
    "biases and a head": (
        "BertForSequenceClassification", BERT,
        {"target_modules": ["query"], "bias": "all", "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"},
    ),
    "biases of changed modules": ("BertModel", BERT, {"target_modules": ["query"], "bias": "lora_only"}),
    "dora": ("BertForSequenceClassification", BERT, {"target_modules": ["query", "dense"], "use_dora": True}),
    "conv1d and an embedding": ("GPT2LMHeadModel", GPT2, {"target_modules": ["c_attn", "c_proj", "wte"]}),
    "dora of conv1d and an embedding": (
        "GPT2LMHeadModel", GPT2, {"target_modules": ["c_attn", "c_proj", "wte"], "use_dora": True},
    ),
    "convolutions": ("ViTForImageClassification", VIT, {"target_modules": ["projection"]}),
    "dora of a convolution": ("ViTForImageClassification", VIT, {"target_modules": ["projection"], "use_dora": True}),
}  # fmt: skip


@pytest.mark.parametrize("name", PEFT)
def test_the_result_equals_that_of_peft(name: str, tmp_path: Path) -> None:
    import peft

    class_name, settings, chosen = PEFT[name]
    source = base(tmp_path / "base", class_name, settings)
    model_class: Callable[..., Any] = getattr(transformers, class_name)
    wrapped = peft.get_peft_model(
        model_class.from_pretrained(source),  # type: ignore[attr-defined]
        peft.LoraConfig(**({"r": 4, "lora_alpha": 7} | chosen)),
    )
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(random(*parameter.shape))
    wrapped.save_pretrained(tmp_path / "lora")
    merged = peft.PeftModel.from_pretrained(
        model_class.from_pretrained(source),  # type: ignore[attr-defined]
        tmp_path / "lora",
    ).merge_and_unload()
    plain = model_class.from_pretrained(source).state_dict()  # type: ignore[attr-defined]
    expected = {key: tensor for key, tensor in merged.state_dict().items() if not torch.equal(tensor, plain[key])}
    assert expected
    check(tmp_path / "lora", class_name, expected)


TIED = {**LLAMA, "tie_word_embeddings": True}
TRAINED: dict[str, tuple[dict[str, Any], int, Targets]] = {
    "a resized vocabulary": (LLAMA, 67, {"target_modules": ["q_proj"]}),
    "a resized vocabulary, tied": (TIED, 67, {"target_modules": ["q_proj"]}),
    "a resized vocabulary, smaller": (TIED, 60, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "a resized vocabulary and its LoRA, tied": (TIED, 67, {"target_modules": ["embed_tokens", "q_proj"]}),
    "a copy of tied embeddings": (TIED, 64, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "a copy of a tied head": (TIED, 64, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "copies that stay tied": (
        TIED, 64, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "LoRA of tied embeddings": (TIED, 64, {"target_modules": ["embed_tokens", "q_proj"]}),
    "LoRA that stays tied": (TIED, 64, {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "LoRA of both": (TIED, 64, {"target_modules": ["embed_tokens", "lm_head"]}),
    "tokens": (
        LLAMA, 64,
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [9, 3], "lm_head": [5]}},
    ),
    "tokens of tied embeddings": (TIED, 64, {"target_modules": ["q_proj"], "trainable_token_indices": [3, 9]}),
    "new tokens": (TIED, 67, {"target_modules": ["q_proj"], "trainable_token_indices": [66, 64, 65]}),
}  # fmt: skip
"""Case to the settings of the base model, the size of the vocabulary in training, and those of the adapter."""


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", TRAINED)
def test_the_outputs_equal_those_of_peft(name: str, tmp_path: Path) -> None:
    """The adapter runs unmerged in PEFT: merging it there changes weights that were tied to the changed ones, too."""
    import peft

    settings, size, chosen = TRAINED[name]
    source = base(tmp_path / "base", "LlamaForCausalLM", settings)
    model = transformers.LlamaForCausalLM.from_pretrained(source)
    model.resize_token_embeddings(size)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**({"r": 4, "lora_alpha": 7} | chosen)))
    with torch.no_grad():
        for parameter in {id(p): p for p in wrapped.parameters() if p.requires_grad}.values():
            parameter.add_(random(*parameter.shape))
    wrapped.save_pretrained(tmp_path / "lora")
    ids = torch.tensor([[1, 3, 9, 5, size - 1, 2]])
    with torch.no_grad():
        expected = wrapped.eval()(ids).logits
    options = ExportOptions(task="text-generation", validate="quick")
    checkpoint = open_checkpoint(tmp_path / "lora", options)
    loaded = load_model(checkpoint, transformers.LlamaForCausalLM, options)
    assert loaded.config.vocab_size == size
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=1e-5)
    if name in ("a resized vocabulary, tied", "a copy of tied embeddings", "new tokens"):
        export(tmp_path / "lora", tmp_path / "out", options)
        positions = torch.arange(6)[None]
        found = run(tmp_path / "out", input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == size


LINEAR = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (32, 48)}


def llama_adapter(directory: Path, source: Path, rank: int, modules: dict[str, tuple[int, int]] = LINEAR) -> Path:
    tensors: State = {}
    for layer in (0, 1):
        for module, (out, into) in modules.items():
            tensors |= factors(f"model.layers.{layer}.{module}", out, into, rank)
    return adapter(directory, str(source), tensors, r=rank, lora_alpha=3 * rank)


def merged_llama(found: Path) -> Any:
    """Return the base model with the adapter merged into its weights."""
    options = ExportOptions()
    return load_model(open_checkpoint(found, options), transformers.LlamaForCausalLM, options)


IDS = torch.tensor([[1, 5, 9, 7], [3, 4, 2, 8]])


def logits_of(directory: Path, **settings: Any) -> np.ndarray[Any, Any]:
    loaded = onnxport.load(directory, **settings)
    return np.asarray(loaded(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits)


@pytest.mark.parametrize("weights", ["copy", "link"])
def test_one_base_runs_with_several_adapters(tmp_path: Path, weights: Any) -> None:
    source = base(tmp_path / "base", "LlamaForCausalLM", LLAMA)
    first = llama_adapter(tmp_path / "first", source, 4)
    options = ExportOptions(adapter_inputs=True, weights=weights, task="text-generation")
    result = export(first, tmp_path / "out", options)
    assert "first.onnx_adapter" in {file.name for file in export(first, "none", replace(options, dry_run=True)).plan}
    assert "first.onnx_adapter" in result.manifest.files
    names = {case["component"] for case in result.manifest.validation["cases"]}
    assert (result.manifest.validation["status"], names) == ("passed", {"model", "model with the adapter"})
    second = llama_adapter(tmp_path / "second", source, 2, {"mlp.down_proj": (32, 48)})
    assert main(["adapter", str(second), str(tmp_path / "out")]) == 0
    for model, settings in (
        (transformers.LlamaForCausalLM.from_pretrained(source), {}),
        (merged_llama(first), {"adapter": tmp_path / "out" / "first.onnx_adapter"}),
        (merged_llama(second), {"adapter": tmp_path / "out" / "second.onnx_adapter"}),
    ):
        with torch.no_grad():
            expected = model(IDS).logits
        np.testing.assert_allclose(logits_of(tmp_path / "out", **settings), expected, atol=1e-5)
    assert validate(tmp_path / "out").status == "passed"  # the base model


def test_a_graph_with_a_cache_generates_with_an_adapter(tmp_path: Path) -> None:
    source = base(tmp_path / "base", "LlamaForCausalLM", LLAMA)
    found = llama_adapter(tmp_path / "lora", source, 4)
    export(source, tmp_path / "out", ExportOptions(adapter=str(found), adapter_inputs=True, validate="quick"))
    loaded = onnxport.load(tmp_path / "out", adapter=tmp_path / "out" / "lora.onnx_adapter")
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = merged_llama(found).generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), **settings)
    assert loaded.generate(input_ids=IDS[:1], **settings).tolist() == expected.tolist()


T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2, "vocab_size": 64}


def t5_adapter(directory: Path, source: Path, parts: tuple[str, ...]) -> Path:
    tensors: State = {}
    for part, layers in (("encoder", ("0.SelfAttention",)), ("decoder", ("0.SelfAttention", "1.EncDecAttention"))):
        for layer in layers if part in parts else ():
            for name in ("q", "v"):
                tensors |= factors(f"{part}.block.1.layer.{layer}.{name}", 32, 32)
    return adapter(directory, str(source), tensors)


@pytest.mark.wide
def test_each_graph_of_an_encoder_decoder_has_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = base(tmp_path / "base", "T5ForConditionalGeneration", T5)
    first = t5_adapter(tmp_path / "first", source, ("encoder", "decoder"))
    options = ExportOptions(adapter_inputs=True, validate="quick", stamping=False)
    manifest = export(first, tmp_path / "out", options).manifest
    names = [f"first.{graph}.onnx_adapter" for graph in ("encoder_model", "decoder_model_merged")]
    assert set(names) <= set(manifest.files)
    cases = {case["component"] for case in manifest.validation["cases"]}
    assert {"encoder_model with the adapter", "decoder_model_merged with the adapter"} <= cases
    second = t5_adapter(tmp_path / "second", source, ("decoder",))
    assert main(["adapter", str(second), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("second.") == 2
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "decoder_start_token_id": 0}
    for found, file in ((None, None), (first, "first.onnx_adapter"), (second, "second.encoder_model.onnx_adapter")):
        model_class = transformers.T5ForConditionalGeneration
        opened = open_checkpoint(found or source, ExportOptions())
        model = load_model(opened, model_class, ExportOptions())
        loaded = onnxport.load(tmp_path / "out", adapter=None if file is None else tmp_path / "out" / file)
        start = torch.zeros(2, 1, dtype=torch.int64)
        with torch.no_grad():
            expected = model.eval()(input_ids=IDS, decoder_input_ids=start).logits
        np.testing.assert_allclose(loaded(input_ids=IDS, decoder_input_ids=start).logits, expected, atol=1e-4)
        assert torch.equal(loaded.generate(IDS, **settings), model.generate(IDS, **settings))


def test_run_with_an_adapter(bert: tuple[Path, Path, State], tmp_path: Path, capsys: Any) -> None:
    source, found, tensors = bert
    export(found, tmp_path / "out", ExportOptions(adapter_inputs=True, validate="quick"))
    command = ["run", str(tmp_path / "out"), "--input-ids", "1,5,9", "--json"]
    for arguments, model in (
        ([], transformers.BertForMaskedLM.from_pretrained(source)),
        (["--adapter", str(tmp_path / "out" / "lora.onnx_adapter")], merged_bert(source, tensors)),
    ):
        capsys.readouterr()
        assert main([*command, *arguments]) == 0
        first = json.loads(capsys.readouterr().out)["logits"]["first"]
        with torch.no_grad():
            expected = model(torch.tensor([[1, 5, 9]])).logits.flatten()[:6]
        np.testing.assert_allclose(first, expected, atol=1e-5)


def test_adapters_that_can_not_be_inputs(bert: tuple[Path, Path, State], tmp_path: Path) -> None:
    source, found, tensors = bert
    options = ExportOptions(adapter_inputs=True)
    for extra, settings, message in (
        ({"bert.encoder.layer.0.attention.self.query.bias": random(32)}, {"bias": "all"}, "has bert.*query.bias"),
        ({f"{QUERY}.lora_magnitude_vector.weight": random(32)}, {"use_dora": True}, "has DoRA's magnitudes"),
        (
            {
                "bert.embeddings.word_embeddings.lora_embedding_A": random(4, 64),
                "bert.embeddings.word_embeddings.lora_embedding_B": random(32, 4),
            },
            {}, "has factors of the embeddings bert.embeddings",
        ),
    ):  # fmt: skip
        adapter(found, "../base", {**tensors, **extra}, **settings)
        with pytest.raises(UnsupportedError, match=message):
            export(found, tmp_path / "out", options)
    with pytest.raises(OptionError, match="--adapter-inputs needs an adapter"):
        export(source, tmp_path / "out", options)


def test_adapters_of_another_model(bert: tuple[Path, Path, State], tmp_path: Path, capsys: Any) -> None:
    source, found, tensors = bert
    export(found, tmp_path / "out", ExportOptions(adapter_inputs=True, validate="none"))
    export(source, tmp_path / "plain", ExportOptions(validate="none"))
    other = factors("bert.encoder.layer.1.attention.self.query", 32, 32)
    for changed, directory, message in (
        (other, "out", "layer.1.attention.self.query, which the graph has no weights or inputs for"),
        (factors(QUERY, 32, 16), "out", "lora_A.weight is [16, 4], and the graph takes [32,"),
        (tensors, "plain", "has no inputs for adapters: export it with --adapter-inputs"),
    ):
        adapter(found, "../base", changed)
        assert main(["adapter", str(found), str(tmp_path / directory)]) != 0
        assert message in capsys.readouterr().err
    with pytest.raises(OptionError, match="has no inputs for adapters"):
        onnxport.load(tmp_path / "plain", adapter=tmp_path / "out" / "lora.onnx_adapter")
    (tmp_path / "damaged.onnx_adapter").write_bytes(b"no adapter")
    for name, error in (("gone", CheckpointNotFoundError), ("damaged", CorruptCheckpointError)):
        with pytest.raises(error, match=f"{name}.onnx_adapter"):
            onnxport.load(tmp_path / "out", adapter=tmp_path / f"{name}.onnx_adapter")
