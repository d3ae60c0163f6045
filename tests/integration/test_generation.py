"""Decoders generate the same tokens as PyTorch with their cache, for every type of cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.matrix.tiny import checkpoint_of
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from tests.breadth import sampled

TOKENS = {"min_new_tokens": 64, "max_new_tokens": 64}
_SPECIAL = {"vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False}
_BERT = {
    **_SPECIAL,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 256,
}
_LLAMA = {**_BERT, "num_key_value_heads": 2, "head_dim": 8}
_GPT2 = {**_SPECIAL, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_ALTERNATING = ["sliding_attention", "full_attention"]
_SCALED = {"rope_theta": 10_000.0, "factor": 2.0}
_MINIMAX = {**_LLAMA, **_EXPERTS, "num_hidden_layers": 4, "block_size": 8}
_ZAYA = {**_LLAMA, **_EXPERTS, "num_experts_per_tok": 1, "router_hidden_size": 16, "sliding_window": 20}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "learned positions": ("GPT2Config", _GPT2),
    "positions from the mask": ("OPTConfig", {**_BERT, "ffn_dim": 64, "word_embed_proj_dim": 32}),
    "ALiBi": ("BloomConfig", {**_SPECIAL, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "interleaved rotary positions": ("GPTJConfig", {**_GPT2, "rotary_dim": 4}),
    "grouped heads and ALiBi in bfloat16": (
        "FalconConfig",
        {**_BERT, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": True},
    ),
    "sliding window in every layer": ("MistralConfig", {**_LLAMA, "num_hidden_layers": 4, "sliding_window": 20}),
    "sliding window longer than the traced sequence": (
        "Gemma3TextConfig",
        {**_LLAMA, "sliding_window": 40, "layer_types": _ALTERNATING},
    ),
    "rotary positions scaled by the length": (
        "LlamaConfig",
        {**_LLAMA, "max_position_embeddings": 40, "rope_parameters": {"rope_type": "dynamic", **_SCALED}},
    ),
    "rotary positions scaled by the length in some layers": (
        "Gemma3TextConfig",
        {
            **_LLAMA,
            **{"max_position_embeddings": 40, "sliding_window": 64, "layer_types": _ALTERNATING},
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
                "full_attention": {"rope_type": "dynamic", **_SCALED},
            },
        },
    ),
    "attention sinks, experts and sliding windows": (
        "GptOssConfig",
        {**_LLAMA, **_EXPERTS, "sliding_window": 20, "layer_types": _ALTERNATING},
    ),
    "different key and value sizes": (
        "DeepseekV3Config",
        {
            **_BERT,
            **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6},
            **{"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 32, "first_k_dense_replace": 1},
        },
    ),
    "layers with a shared cache": (
        "Gemma4TextConfig",
        {
            **_LLAMA,
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "sliding_window": 20,
            "layer_types": _ALTERNATING * 2,
            "vocab_size_per_layer_input": 99,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 16,
        },
    ),
    "encoder architecture as decoder": ("BertGenerationConfig", {**_BERT, "is_decoder": True}),
    "convolution and attention layers": (
        "Lfm2Config",
        {
            **_LLAMA,
            "num_hidden_layers": 5,
            "layer_types": ["conv", "conv", "conv", "full_attention", "full_attention"],
            "block_auto_adjust_ff_dim": False,
        },
    ),
    "lightning and full attention layers": (
        "MiniMaxConfig",
        {**_MINIMAX, "layer_types": ["full_attention", "linear_attention"] * 2},
    ),
    "recurrent states in modules": (
        "RecurrentGemmaConfig",
        {**_LLAMA, "num_hidden_layers": 6, "lru_width": 32, "attention_window_size": 20, "num_key_value_heads": 1},
    ),
    "keys and a recurrent state in every layer": (
        "ZayaConfig",
        {**_ZAYA, "num_hidden_layers": 4, "layer_types": [*["hybrid"] * 3, "hybrid_sliding"]},
    ),
    "Mamba 2": (
        "Mamba2Config",
        {
            **_SPECIAL,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 8,
        },
    ),
    "Mamba": (
        "MambaConfig",
        {**_SPECIAL, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
    ),
    "delta rule and full attention layers": (
        "Qwen3_5TextConfig",
        {
            **_LLAMA,
            "num_hidden_layers": 4,
            "layer_types": [*["linear_attention"] * 3, "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    "compressed windows of tokens": (
        "DeepseekV4Config",
        {
            **_BERT,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"],
            "mlp_layer_types": ["hash_moe", "moe", "moe"],
            "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
            **{"sliding_window": 20, "head_dim": 8, "partial_rotary_factor": 0.5, "q_lora_rank": 16},
            **{"o_groups": 2, "o_lora_rank": 16, "index_n_heads": 16, "index_head_dim": 8, "index_topk": 3},
            **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        },
    ),
}
WIDE = {
    "interleaved rotary positions",
    "rotary positions scaled by the length in some layers",
    "encoder architecture as decoder",
    "lightning and full attention layers",
    "keys and a recurrent state in every layer",
    "Mamba 2",
    "recurrent states in modules",
    "ALiBi",
    "different key and value sizes",
    "rotary positions scaled by the length",
    "sliding window in every layer",
    "sliding window longer than the traced sequence",
}
"""Cases that only `make conformance` runs: others cover their mechanisms."""
_RECURRENT = ["past_conv.0", "past_recurrent.0", "past_conv.1", "past_recurrent.1"]
_KEYS = ["past_key_values.0.key", "past_key_values.0.value"]
_COMPRESSED = [f"past_{name}.1.{part}" for name in ("compressor", "indexer") for part in ("kv", "gate")]
CACHE_INPUTS = {
    "Mamba": ["past_conv.0", "past_ssm.0", "past_conv.1", "past_ssm.1"],
    "delta rule and full attention layers": _RECURRENT,
    "lightning and full attention layers": [*_KEYS, "past_recurrent.1"],
    "recurrent states in modules": _RECURRENT,
    "keys and a recurrent state in every layer": [*_KEYS, *_RECURRENT[:2]],
    "compressed windows of tokens": ["past_key_values.0.key", "past_key_values.1.key", *_COMPRESSED],
}
"""The first cache inputs of models that cache more than keys and values; their graphs are validated, too."""
WITH_BEAMS = (
    "learned positions",
    "ALiBi",
    "sliding window in every layer",
    "rotary positions scaled by the length",
    "layers with a shared cache",
    "convolution and attention layers",
    "compressed windows of tokens",
)


@pytest.fixture(autouse=True, scope="module")
def use_one_thread() -> Iterator[None]:
    """Use one thread of torch: for tiny models, several are slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def checkpoint(parent: Path, name: str, arguments: dict[str, Any]) -> tuple[Path, Any]:
    """Write a seeded model; return its directory and the model that PyTorch loads from it."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**arguments))
    randomize(model)
    model.save_pretrained(parent / name)
    return parent / name, transformers.AutoModelForCausalLM.from_pretrained(parent / name).eval()


def exported(source: Path, task: str | None = "text-generation-with-past", proof: str = "none", **options: Any) -> Path:
    output = source.parent / f"{source.name}-{'-'.join([str(task), *options])}"
    onnxport.export(source, output, onnxport.ExportOptions(task=task, validate=proof, **options))
    return output


def padded_prompts() -> dict[str, torch.Tensor]:
    """Return three prompts of 30 tokens, two of them padded on the left."""
    tokens = torch.randint(3, 99, (3, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, :9] = mask[2, :4] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask}


def generated(model: Any, inputs: dict[str, torch.Tensor], **settings: Any) -> tuple[list[Any], torch.Tensor]:
    """Return the tokens that a model generates, and the logits of each step."""
    with torch.no_grad():
        found = model.generate(
            **inputs, **TOKENS, do_sample=False, output_logits=True, return_dict_in_generate=True, **settings
        )
    return found.sequences.tolist(), torch.stack(found.logits)


@pytest.mark.parametrize("case", sampled(CASES, CASES.keys() - WIDE))
def test_generated_tokens_equal_pytorchs(case: str, tmp_path: Path) -> None:
    source, original = checkpoint(tmp_path, *CASES[case])
    expected_states = CACHE_INPUTS.get(case, [])
    output = exported(source, proof="quick" if expected_states else "none")
    manifest = json.loads((output / "onnxport.json").read_text())
    assert manifest["validation"]["status"] == ("passed" if expected_states else "skipped")
    names = [tensor["name"] for tensor in manifest["components"][0]["inputs"] if tensor["name"].startswith("past_")]
    assert names[: len(expected_states)] == expected_states
    model = onnxport.load(output, threads=1)
    for inputs in ({name: tensor[:1] for name, tensor in padded_prompts().items()}, padded_prompts()):
        expected, wanted_logits = generated(original, inputs)
        found, logits = generated(model, inputs)
        assert found == expected
        torch.testing.assert_close(logits, wanted_logits, atol=1e-3, rtol=1e-3)
        assert len(set(expected[0][30:])) > 3, "the test shows little: the model repeats itself"
    fused = onnxport.load(exported(source, optimize="cpu"), threads=1)  # `expected` is of prompts padded on the left
    assert generated(fused, padded_prompts())[0] == expected
    if case in WITH_BEAMS:
        assert (
            generated(model, padded_prompts(), num_beams=3)[0] == generated(original, padded_prompts(), num_beams=3)[0]
        )


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Path]:
    """A decoder with sliding windows shorter than the prompts: its checkpoint, PyTorch's model, and the export."""
    parent = tmp_path_factory.mktemp("windowed")
    source, original = checkpoint(parent, *CASES["sliding window in every layer"])
    return source, original, exported(source)


def test_a_prompt_may_be_split_into_several_steps(windowed: tuple[Path, Any, Path]) -> None:
    _, original, directory = windowed
    tokens = padded_prompts()["input_ids"][:1].repeat(1, 2)
    with torch.no_grad():
        expected = original(tokens).logits
    model = onnxport.load(directory, threads=1)
    past, found = None, []
    for piece in tokens.split((23, 17, 1, 18, 1), dim=1):
        result = model(input_ids=piece, past_key_values=past, use_cache=True)
        past = result.past_key_values
        found.append(result.logits)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=2e-4, rtol=1e-3)


@pytest.fixture(scope="module")
def sharing(windowed: tuple[Path, Any, Path]) -> Path:
    """An export of the same decoder whose past and present may be one buffer."""
    directory = exported(windowed[0], optimize="cpu")
    assert Directory(directory).graph("model").shares_cache
    return directory


@pytest.mark.parametrize(
    "settings", [{}, {"num_beams": 3}, {"prompt_lookup_num_tokens": 3}], ids=["greedy", "beams", "cropped"]
)
def test_past_and_present_share_memory_that_grows(
    settings: dict[str, Any], windowed: tuple[Path, Any, Path], sharing: Path
) -> None:
    original, model = windowed[1], onnxport.load(sharing, threads=1)
    rows = 1 if "prompt_lookup_num_tokens" in settings else 3
    prompts = {name: tensor[:rows] for name, tensor in padded_prompts().items()}
    lengths = {"min_new_tokens": 180, "max_new_tokens": 180, "do_sample": False}  # the first memory has room for 128
    expected = original.generate(**prompts, **lengths, **settings)
    assert model.generate(**prompts, **lengths, **settings).tolist() == expected.tolist()


def test_a_prompt_may_be_split_if_past_and_present_share_memory(
    windowed: tuple[Path, Any, Path], sharing: Path
) -> None:
    original, model = windowed[1], onnxport.load(sharing, threads=1)
    tokens = padded_prompts()["input_ids"][1:].repeat(1, 2)
    past, found = None, []
    for piece in tokens.split((23, tokens.shape[1] - 24, 1), dim=1):
        result = model(input_ids=piece, past_key_values=past, use_cache=True)
        past = result.past_key_values
        found.append(result.logits)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(found, dim=1), original(tokens).logits, atol=2e-4, rtol=1e-3)


def test_without_torch_the_tokens_are_the_same(windowed: tuple[Path, Any, Path]) -> None:
    _, original, directory = windowed
    arrays = {name: tensor.numpy() for name, tensor in padded_prompts().items()}
    found = LightModel(Directory(directory)).generate(arrays, max_new_tokens=64, eos_token_id=98)
    expected = original.generate(**padded_prompts(), max_new_tokens=64, do_sample=False, eos_token_id=98)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected.numpy())


def test_sampling_is_reproducible_with_a_seed(windowed: tuple[Path, Any, Path]) -> None:
    _, original, directory = windowed
    samples = []
    for model in (onnxport.load(directory), onnxport.load(directory), original):
        torch.manual_seed(7)
        samples.append(model.generate(**padded_prompts(), **TOKENS, do_sample=True, top_k=20).tolist())
    assert samples[0] == samples[1] == samples[2]


def test_assisted_decoding_generates_the_same_tokens(windowed: tuple[Path, Any, Path]) -> None:
    _, original, directory = windowed
    one = {name: tensor[:1] for name, tensor in padded_prompts().items()}
    model = onnxport.load(directory, threads=1)
    expected = original.generate(**one, **TOKENS, do_sample=False)
    for assistant in (original, onnxport.load(directory)):
        found = model.generate(**one, **TOKENS, do_sample=False, assistant_model=assistant)
        assert found.tolist() == expected.tolist()


def test_tokens_are_streamed(windowed: tuple[Path, Any, Path]) -> None:
    class Streamer:
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.ended = False

        def put(self, tokens: torch.Tensor) -> None:
            self.tokens += tokens.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    _, _, directory = windowed
    one, streamer = {name: tensor[:1] for name, tensor in padded_prompts().items()}, Streamer()
    found = onnxport.load(directory).generate(**one, **TOKENS, do_sample=False, streamer=streamer)
    assert streamer.tokens == found[0].tolist()
    assert streamer.ended


def test_torch_uses_one_thread_between_steps_and_as_many_as_before_after_them(windowed: tuple[Path, Any, Path]) -> None:
    during: list[int] = []

    def count(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        during.append(torch.get_num_threads())
        return scores

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prompt = {name: tensor[:1] for name, tensor in padded_prompts().items()}
        onnxport.load(windowed[2]).generate(**prompt, max_new_tokens=2, logits_processor=[count])
        assert (during, torch.get_num_threads()) == ([1, 1], 2)
    finally:
        torch.set_num_threads(before)


def test_generation_with_the_last_logits_only(windowed: tuple[Path, Any, Path]) -> None:
    source, original, _ = windowed
    model = onnxport.load(exported(source, last_logits=True))
    assert model(**padded_prompts()).logits.shape == (3, 1, 99)
    assert generated(model, padded_prompts())[0] == generated(original, padded_prompts())[0]


def test_generation_without_past(windowed: tuple[Path, Any, Path]) -> None:
    source, original, _ = windowed
    directory = exported(source, task=None, past=False)
    (graph,) = onnxport.inspect(directory).graphs
    assert [value.name for value in graph.inputs] == ["input_ids", "attention_mask", "position_ids"]
    assert [value.name for value in graph.outputs] == ["logits"]
    model = onnxport.load(directory, threads=1)
    assert generated(model, padded_prompts())[0] == generated(original, padded_prompts())[0]
    arrays = {name: tensor.numpy() for name, tensor in padded_prompts().items()}
    found = LightModel(Directory(directory)).generate(arrays, max_new_tokens=8, eos_token_id=98)
    np.testing.assert_array_equal(
        found, original.generate(**padded_prompts(), max_new_tokens=8, do_sample=False).numpy()
    )


def test_an_unsupported_cache_is_an_error(tmp_path: Path) -> None:
    source, _ = checkpoint(tmp_path, "OpenAIGPTConfig", _GPT2)
    with pytest.raises(UnsupportedError, match=r"OpenAIGPTLMHeadModel .* returns no cache.*without -with-past"):
        exported(source)


def test_generation_with_a_model_without_cache(tmp_path: Path) -> None:
    source, original = checkpoint(tmp_path, "OpenAIGPTConfig", _GPT2)
    directory = exported(source, task=None)
    assert onnxport.inspect(directory).task == "text-generation"
    assert generated(onnxport.load(directory), padded_prompts())[0] == generated(original, padded_prompts())[0]


def test_tokens_that_each_step_adds_need_transformers(tmp_path: Path) -> None:
    arguments = {**_SPECIAL, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "mask_token_id": 5, "mask_index": 5}
    source, original = checkpoint(tmp_path, "XLMConfig", {**arguments, "max_position_embeddings": 256})
    directory = exported(source, task="text-generation")
    prompt = padded_prompts()["input_ids"][:1]
    model = onnxport.load(directory, threads=1)
    # A cache would keep the mask token of each step: with one, Transformers 5.24 generates others than its forward.
    settings = {"suppress_tokens": [0], "use_cache": False}
    found, expected = (generated(each, {"input_ids": prompt}, **settings)[0] for each in (model, original))
    assert found == expected
    with pytest.raises(UnsupportedError, match="adds tokens to those of each step; install torch"):
        LightModel(Directory(directory)).generate({"input_ids": prompt.numpy()})


def test_inputs_that_no_graph_takes_are_an_error_in_generation_and_calls(tmp_path: Path) -> None:
    arguments = {**_SPECIAL, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    source, original = checkpoint(tmp_path, "XLNetConfig", arguments)
    model: Any = onnxport.load(exported(source, task="text-generation"), threads=1)
    prompt = padded_prompts()["input_ids"][:1]
    with pytest.raises(UnsupportedError, match=r"XLNetLMHeadModel generates with inputs that no graph.*perm_mask"):
        model.generate(prompt, max_new_tokens=3)
    positions = torch.arange(30)[None]
    with torch.no_grad():
        expected = original(prompt).logits
    torch.testing.assert_close(model(prompt, position_ids=positions).logits, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(OptionError, match=r"position_ids are .* but the exported decoder counts"):
        model(prompt, position_ids=positions + 1)


def test_unsupported_recurrent_states_are_an_error(tmp_path: Path) -> None:
    source, _ = checkpoint(tmp_path, "ZayaConfig", {**_ZAYA, "attention_bias": True})
    with pytest.raises(UnsupportedError, match=r"ZayaForCausalLM can't be exported with past: its recurrence"):
        exported(source)


@pytest.mark.wide
def test_an_inferred_task_is_exported_without_an_unsupported_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "cache"))
    source, original = checkpoint(tmp_path, "ZayaConfig", {**_ZAYA, "attention_bias": True})
    directory = exported(source, task=None)
    assert "ZayaForCausalLM is exported without past: ZayaForCausalLM can't be exported with past" in caplog.text
    assert onnxport.inspect(directory).task == "text-generation"
    assert generated(onnxport.load(directory), padded_prompts())[0] == generated(original, padded_prompts())[0]
    deeper, _ = checkpoint(tmp_path / "deeper", "ZayaConfig", {**_ZAYA, "attention_bias": True, "num_hidden_layers": 6})
    assert onnxport.inspect(exported(deeper, task=None)).task == "text-generation"  # cached graphs


def test_a_buffer_that_transformers_keeps_in_fp32_is_fp32_in_a_graph_of_fp16(tmp_path: Path) -> None:
    source, _ = checkpoint(tmp_path, *CASES["different key and value sizes"])  # the bias of each router
    result = onnxport.export(source, tmp_path / "out", onnxport.ExportOptions(dtype="fp16", validate="quick"))
    assert result.manifest.validation["status"] == "passed"


def test_a_cache_that_transformers_keeps_in_fp32_is_fp16_in_a_graph_of_fp16(tmp_path: Path) -> None:
    source, _ = checkpoint_of("dots3_note", "text-generation-with-past", tmp_path)  # an indexer in float32
    (component,) = json.loads((exported(source, proof="quick", dtype="fp16") / "onnxport.json").read_text())[
        "components"
    ]
    dtypes = {value["name"]: value["dtype"] for value in (*component["inputs"], *component["outputs"])}
    assert dtypes["past_key_values.0.index_key"] == dtypes["present.0.index_key"] == "float16"


def test_padding_is_masked_if_the_first_layer_has_no_keys(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"] * 2
    source, original = checkpoint(tmp_path, "MiniMaxConfig", {**_MINIMAX, "layer_types": kinds})
    expected = generated(original, padded_prompts(), use_cache=False)[
        0
    ]  # with a cache, Transformers loses the mask here
    assert generated(onnxport.load(exported(source), threads=1), padded_prompts())[0] == expected


@pytest.mark.wide
def test_the_delta_rule_is_validated_in_half_precision(tmp_path: Path) -> None:
    # Weights as Transformers initializes them: those of `randomize` amplify rounding errors so much that fp16 and fp32
    # in PyTorch differ by a seventh of the largest logit.
    name, arguments = CASES["delta rule and full attention layers"]
    torch.manual_seed(0)
    initial = transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**arguments))
    initial.save_pretrained(tmp_path / "checkpoint")
    options = onnxport.ExportOptions(task="text-generation-with-past", dtype="fp16")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options)
    assert result.manifest.validation["status"] == "passed"
    original = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float16).eval()
    one = {name: tensor[:1] for name, tensor in padded_prompts().items()}
    assert generated(onnxport.load(tmp_path / "out", threads=1), one)[0] == generated(original, one)[0]


@pytest.mark.wide
@pytest.mark.parametrize("rescale_every", [0, 2])
def test_rwkvs_decaying_averages(rescale_every: int, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 5, "context_length": 256}
    source, original = checkpoint(tmp_path, "RwkvConfig", {**_SPECIAL, **sizes, "rescale_every": rescale_every})
    result = onnxport.export(source, tmp_path / "out", onnxport.ExportOptions(task="text-generation-with-past"))
    assert result.manifest.validation["status"] == "passed"
    states = [tensor.name for tensor in result.manifest.components[0].inputs if tensor.name.startswith("past_")]
    assert states[:4] == ["past_conv.0", "past_recurrent.0", "past_conv.1", "past_recurrent.1"]
    model = onnxport.load(tmp_path / "out", threads=1)
    together = generated(model, {"input_ids": padded_prompts()["input_ids"]})[0]
    for row in range(3):  # one by one: Transformers mixes the sequences of a batch
        one = {"input_ids": padded_prompts()["input_ids"][row : row + 1]}
        expected, wanted_logits = generated(original, one)
        found, logits = generated(model, one)
        assert found == expected == together[row : row + 1]
        torch.testing.assert_close(logits, wanted_logits, atol=1e-3, rtol=1e-3)
