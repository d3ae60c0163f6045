"""The expression of each parameter equals what Transformers loads, bit by bit, and binding reads no tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from conformance.checkpoints import make_checkpoint, randomize
from onnxport.binding.bind import Binding, bind, rebind
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.reading import Reader, list_tensors
from onnxport.errors import CorruptCheckpointError, WeightsMismatchError
from onnxport.loading.load import load_config, load_model
from onnxport.options import ExportOptions
from onnxport.weights.expressions import InMemory
from tests.forked import run_code

State = dict[str, torch.Tensor]

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
SEQ2SEQ = {
    "vocab_size": 64, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip


def saved(name: str, configuration: dict[str, Any], directory: Path, **arguments: Any) -> Path:
    """Save a tiny model of a class with random values."""
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**configuration))
    randomize(model)
    model.save_pretrained(directory, **arguments)
    return directory


def change(directory: Path, act: Callable[[State], State]) -> Path:
    """Change the tensors of a checkpoint with one file."""
    file = directory / "model.safetensors"
    save_file(act(load_file(file)), file, metadata={"format": "pt"})
    return directory


def renamed(**names: str) -> Callable[[State], State]:
    def act(state: State) -> State:
        for old, new in names.items():
            state = {name.replace(old, new): tensor for name, tensor in state.items()}
        return state

    return act


def check(directory: Path, name: str, **options: Any) -> Binding:
    """Bind and load a model, and compare all parameters and buffers."""
    chosen, model_class = ExportOptions(**options), getattr(transformers, name)
    checkpoint = open_checkpoint(directory, chosen)
    bound = bind(checkpoint, model_class, load_config(checkpoint, chosen), chosen)
    expected = load_model(checkpoint, model_class, chosen)
    binding = Binding.from_json(bound.binding.to_json())
    state = expected.state_dict(keep_vars=True)
    assert state.keys() == binding.expressions.keys() | binding.tied.keys()
    with Reader(checkpoint.directory, binding.files) as reader:
        for key, tensor in state.items():
            found = torch.from_numpy(binding[key].evaluate(reader).reshape(-1).view(np.uint8).copy())
            assert torch.equal(found, tensor.detach().contiguous().reshape(-1).view(torch.uint8)), key
            assert binding[key].shape == tuple(tensor.shape)
    first: dict[int, str] = {}
    tied = {key: first.setdefault(id(tensor), key) for key, tensor in state.items()}
    assert dict(binding.tied) == {key: other for key, other in tied.items() if key != other}
    check_buffers(bound.model, expected)
    return bound.binding


def check_buffers(bound: Any, wanted: Any) -> None:
    stored, real = set(bound.state_dict()), dict(wanted.named_buffers())
    for name, buffer in bound.named_buffers():
        if name not in stored:
            assert torch.equal(buffer, real[name]) and buffer.dtype == real[name].dtype, name


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("model_type", "feature", "name"),
    [
        ("bert", "masked-lm", "BertForMaskedLM"),
        ("bert", "masked-lm", "BertModel"),
        ("gpt2", "causal-lm-with-past", "GPT2LMHeadModel"),
        ("t5", "seq2seq-lm-with-past", "T5ForConditionalGeneration"),
        ("vit", "image-classification", "ViTForImageClassification"),
        ("clip", "default", "CLIPModel"),
        ("deberta-v2", "masked-lm", "DebertaV2ForMaskedLM"),
    ],
)
def test_common_models(
    model_type: str, feature: str, name: str, dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = make_checkpoint(model_type, feature, tmp_path_factory.getbasetemp() / "bound")
    assert check(directory, name, dtype=dtype).note == ""


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": True}),
    "untied": ("LlamaForCausalLM", {**GROUPED, "tie_word_embeddings": False}),
    "merged experts": ("MixtralForCausalLM", {**GROUPED, "num_local_experts": 4}),
    "shared and merged experts": (
        "Qwen2MoeForCausalLM",
        {**GROUPED, "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "encoder and decoder": ("BartForConditionalGeneration", SEQ2SEQ),
    "sinusoidal positions": ("MarianMTModel", {**SEQ2SEQ, "forced_eos_token_id": 1}),
    "audio": (
        "WhisperForConditionalGeneration",
        {**SEQ2SEQ, "suppress_tokens": None, "begin_suppress_tokens": None},
    ),
    "weight norm": (
        "Wav2Vec2ForCTC",
        {
            "vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 48, "conv_dim": (16, 16), "conv_stride": (2, 2), "conv_kernel": (3, 3),
            "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        },
    ),
    "batch norm": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "image and text": (
        "LlavaForConditionalGeneration",
        {
            "vision_config": {
                "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "image_size": 16, "patch_size": 8,
            },
            "text_config": {"model_type": "llama", **GROUPED}, "image_token_index": 5, "vision_feature_layer": -1,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("case", MODELS)
def test_conversions_of_transformers(case: str, dtype: str, tmp_path: Path) -> None:
    name, configuration = MODELS[case]
    binding = check(saved(name, configuration, tmp_path), name, dtype=dtype)
    assert binding.note == ""


def test_shards(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", GROUPED, tmp_path, max_shard_size=10_000)
    binding = check(tmp_path, "LlamaForCausalLM")
    assert len(binding.files) > 5


def test_a_checkpoint_in_another_dtype(tmp_path: Path) -> None:
    saved("LlamaForCausalLM", GROUPED, tmp_path)
    change(tmp_path, lambda state: {name: tensor.to(torch.bfloat16) for name, tensor in state.items()})
    check(tmp_path, "LlamaForCausalLM", dtype="fp32")
    binding = check(tmp_path, "LlamaForCausalLM", dtype="bf16")
    assert all(made.contiguous for made in binding.expressions.values())


def test_the_base_model_prefix_may_be_missing(tmp_path: Path) -> None:
    configuration = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1}
    saved("GPT2LMHeadModel", configuration, tmp_path)
    check(tmp_path, "GPT2Model")
    change(tmp_path, renamed(**{"transformer.": ""}))
    check(tmp_path, "GPT2LMHeadModel")
    check(tmp_path, "GPT2Model")


def test_a_submodel_is_found_by_its_prefix(tmp_path: Path) -> None:
    part = {**SEQ2SEQ, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 48}
    text = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    audio = {"model_type": "encodec", "num_filters": 2, "hidden_size": 8, "codebook_size": 4, "codebook_dim": 8}
    whole = {"text_encoder": text, "audio_encoder": audio, "decoder": {**part, "model_type": "musicgen_decoder"}}
    saved("MusicgenForConditionalGeneration", whole, tmp_path)
    assert not check(tmp_path, "MusicgenForCausalLM").leftover
    assert check(tmp_path, "MusicgenModel").leftover  # its heads


def test_old_names_of_layer_norms(tmp_path: Path) -> None:
    saved("BertForMaskedLM", TEXT, tmp_path)
    change(tmp_path, renamed(**{"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}))
    check(tmp_path, "BertForMaskedLM")
    assert len(check(tmp_path, "BertModel").leftover) == 5


def test_old_names_of_weight_norm(tmp_path: Path) -> None:
    saved(*MODELS["weight norm"], tmp_path)
    old = "parametrizations.weight.original"
    change(tmp_path, renamed(**{f"{old}0": "weight_g", f"{old}1": "weight_v"}))
    assert check(tmp_path, "Wav2Vec2ForCTC").note == ""


def test_computed_buffers_are_in_memory(tmp_path: Path) -> None:
    saved(*MODELS["sinusoidal positions"], tmp_path)
    change(tmp_path, lambda state: {name: tensor for name, tensor in state.items() if "positions" not in name})
    binding = check(tmp_path, "MarianMTModel")
    assert {name for name, made in binding.expressions.items() if isinstance(made, InMemory)} == {
        f"model.{side}.embed_positions.weight" for side in ("encoder", "decoder")
    }


@pytest.mark.parametrize("equal", [True, False])
def test_tied_weights_that_are_stored_twice_are_compared(equal: bool, tmp_path: Path) -> None:
    saved(*MODELS["tied"], tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    head = embedding if equal else embedding + 1
    change(tmp_path, lambda state: {**state, "lm_head.weight": head.clone()})
    binding = check(tmp_path, "LlamaForCausalLM")
    assert [comparison.equal for comparison in binding.comparisons] == [equal]
    assert ("lm_head.weight" in binding.tied) is equal


def test_a_binding_fits_a_fine_tune_of_the_same_model(tmp_path: Path) -> None:
    saved(*MODELS["merged experts"], tmp_path / "base", max_shard_size=20_000)
    saved(*MODELS["merged experts"], tmp_path / "tuned")
    change(tmp_path / "tuned", lambda state: {name: tensor + 1 for name, tensor in reversed(state.items())})
    tuned = check(tmp_path / "tuned", "MixtralForCausalLM")
    base = check(tmp_path / "base", "MixtralForCausalLM")
    inventory = list_tensors(tmp_path / "tuned", [tmp_path / "tuned" / "model.safetensors"])
    with Reader(tmp_path / "tuned", inventory.files) as reader:
        moved = rebind(base, inventory, reader)
        assert moved is not None
        assert moved.to_json() == tuned.to_json()
        change(tmp_path / "tuned", lambda state: {name: tensor.to(torch.float16) for name, tensor in state.items()})
        assert (
            rebind(base, list_tensors(tmp_path / "tuned", [*(tmp_path / "tuned").glob("*.safetensors")]), reader)
            is None
        )


def test_another_fine_tune_may_have_other_ties(tmp_path: Path) -> None:
    saved(*MODELS["tied"], tmp_path)
    change(tmp_path, lambda state: {**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()})
    binding = check(tmp_path, "LlamaForCausalLM")
    change(tmp_path, lambda state: {**state, "lm_head.weight": state["lm_head.weight"] + 1})
    inventory = list_tensors(tmp_path, [tmp_path / "model.safetensors"])
    with Reader(tmp_path, inventory.files) as reader:
        assert rebind(binding, inventory, reader) is None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda state: {k: v for k, v in state.items() if "up_proj" not in k}, "2 parameters have no tensor"),
        (lambda state: {**state, "model.extra.weight": torch.ones(3)}, "1 tensors have no parameter: model.extra"),
        (
            lambda state: {**state, "model.norm.weight": torch.ones(33)},
            r"1 tensors have another shape: model.norm.weight is \[33\], must be \[32\]",
        ),
    ],
)
def test_weights_that_do_not_fit_are_an_error(act: Callable[[State], State], message: str, tmp_path: Path) -> None:
    saved(*MODELS["tied"], tmp_path)
    change(tmp_path, act)
    with pytest.raises(WeightsMismatchError, match=message):
        check(tmp_path, "LlamaForCausalLM")


def test_pickled_weights_are_bound_in_memory(tmp_path: Path) -> None:
    saved(*MODELS["tied"], tmp_path)
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    binding = check(tmp_path, "LlamaForCausalLM")
    assert "aren't read in parts" in binding.note
    assert not binding.files and "lm_head.weight" in binding.tied


def test_operations_without_an_expression_are_loaded_eagerly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import core_model_loading

    original = core_model_loading._materialize_copy
    monkeypatch.setattr(
        core_model_loading, "_materialize_copy", lambda tensor, *rest: original(tensor, *rest).flip(0).flip(0)
    )
    saved(*MODELS["tied"], tmp_path)
    binding = check(tmp_path, "LlamaForCausalLM")
    assert "computed with aten.flip.default" in binding.note


SPARSE = """
import resource, sys, json
from pathlib import Path
import transformers, torch
from onnxport.options import ExportOptions
from onnxport.weights import recording
from onnxport.binding import bind as binding
from onnxport.checkpoint import reading
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.loading.load import load_config
options = ExportOptions(dtype=sys.argv[2])
checkpoint = open_checkpoint(Path(sys.argv[1]), options)
config = load_config(checkpoint, options)
transformers.LlamaForCausalLM
def refuse(*_):
    raise AssertionError("a tensor is read")
reading.Reader.read_into = refuse
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bound = binding.bind(checkpoint, transformers.LlamaForCausalLM, config, options)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, bound.binding.note)
"""


def sparse_llama(directory: Path, layers: int) -> int:
    """Write a Llama with realistic sizes as a sparse file, without values."""
    hidden, inner, vocabulary = 1024, 2816, 32_000
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden]}
    for index in range(layers):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": [hidden, hidden] for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")}
        shapes[f"{layer}.mlp.down_proj.weight"] = [hidden, inner]
        shapes |= {f"{layer}.{name}_layernorm.weight": [hidden] for name in ("input", "post_attention")}
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=16, tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
    ).save_pretrained(directory)  # fmt: skip
    return end


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_binding_reads_nothing_and_takes_no_memory(dtype: str, tmp_path: Path) -> None:
    size = sparse_llama(tmp_path, 28)
    assert size > 1_500_000_000
    done = run_code(SPARSE, str(tmp_path), dtype)
    grown, _, note = done.stdout.strip().partition(" ")
    assert note == ""
    assert int(grown) < 60 << 10


def test_a_model_without_any_of_its_tensors_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    sparse_llama(tmp_path, 28)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 40}))
    done = run_code(SPARSE, str(tmp_path), "fp32", check=False)
    assert "parameters have no tensor" in done.stderr.splitlines()[-1]


def test_a_checkpoint_that_changes_while_it_is_bound_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(*MODELS["tied"], tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    change(tmp_path, lambda state: {**state, "lm_head.weight": embedding.clone()})
    verify = Reader.verify

    def late(self: Reader) -> None:
        (tmp_path / "model.safetensors").touch()
        verify(self)

    monkeypatch.setattr(Reader, "verify", late)
    with pytest.raises(CorruptCheckpointError, match="changed while it was read"):
        check(tmp_path, "LlamaForCausalLM")
