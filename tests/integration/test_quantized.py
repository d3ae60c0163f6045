"""Quantized checkpoints: Transformers' loader dequantizes them, streamed if possible, or an error names the method."""

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

from conformance.checkpoints import randomize
from onnxport import ExportOptions, export
from onnxport.binding.bind import Binding, bind
from onnxport.blueprints.find import BlueprintSource
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.errors import CorruptCheckpointError, MissingDependencyError, UnsupportedError
from onnxport.loading.load import load_config, load_model
from tests.breadth import sampled

State = dict[str, torch.Tensor]
Quantize = Callable[[str, torch.Tensor], tuple[State, torch.Tensor]]
"""Returns the stored tensors of a weight, and the dequantized weight."""

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip
EXPERTS = {**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT_OSS = {
    **TEXT, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
}  # fmt: skip


def quantize_blocks(name: str, weight: torch.Tensor, size: int = 16) -> tuple[State, torch.Tensor]:
    """Quantize to 8 bits, with a scale for each block of 16 x 16."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows // size, size, columns // size, size)
    scales = blocks.abs().amax(dim=(1, 3)) / 448
    packed = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    meant = packed.float() * scales[:, None, :, None]
    shape = weight.shape
    return {name: packed.reshape(shape), f"{name}_scale_inv": scales}, meant.reshape(shape)


def quantize_with_exponents(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    """Quantize to 8 bits, with an exponent for every 32 values of a row."""
    exponents = torch.full((len(weight), weight.shape[1] // 32), 121, dtype=torch.uint8)
    packed = (weight * 64).to(torch.float8_e4m3fn)
    return {name: packed, f"{name}_scale_inv": exponents}, packed.float() / 64


CODES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def quantize_4_bit(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    """Store random 4-bit codes, for the transpose of a weight [experts, in, out]."""
    experts, inner, outer = weight.shape
    codes = torch.randint(0, 16, (experts, outer, inner))
    exponents = torch.randint(118, 124, (experts, outer, inner // 32))
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8).reshape(experts, outer, inner // 32, 16)
    meant = CODES[codes] * 2.0 ** (exponents - 127).repeat_interleave(32, dim=-1)
    stored = {f"{name}_blocks": packed, f"{name}_scales": exponents.to(torch.uint8)}
    return stored, meant.transpose(1, 2)


def grouped(weight: torch.Tensor, size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 4-bit integers [in, out], zeros and half-precision scales [groups, out], and what they stand for."""
    groups = weight.T.reshape(-1, size, len(weight))
    low, high = groups.amin(1), groups.amax(1)
    scales = ((high - low) / 15).half()
    zeros = (-low / scales).round().clamp(1, 15)
    integers = (groups / scales[:, None].float() + zeros[:, None]).round().clamp(0, 15)
    meant = (integers - zeros[:, None]) * scales[:, None].float()
    return integers.reshape(-1, len(weight)).int(), zeros.int(), scales, meant.reshape(-1, len(weight)).T


def packed(integers: torch.Tensor, axis: int, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Pack eight 4-bit integers into one of 32 bits."""
    eights = integers.movedim(axis, -1).unflatten(-1, (-1, 8)).to(torch.int64)
    words = sum(eights[..., position] << (4 * index) for index, position in enumerate(order))
    assert isinstance(words, torch.Tensor)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32).movedim(-1, axis)


def quantize_gptq(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    integers, zeros, scales, meant = grouped(weight)
    stem = name.removesuffix(".weight")
    stored = {"qweight": packed(integers, 0), "qzeros": packed(zeros - 1, 1), "scales": scales}
    indices = {f"{stem}.g_idx": (torch.arange(weight.shape[1]) // 16).int()}
    return {f"{stem}.{key}": tensor for key, tensor in stored.items()} | indices, meant


def quantize_awq(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    integers, zeros, scales, meant = grouped(weight)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    stored = {"qweight": packed(integers, 1, order), "qzeros": packed(zeros, 1, order), "scales": scales}
    return {f"{name.removesuffix('.weight')}.{key}": tensor for key, tensor in stored.items()}, meant


def quantize_compressed(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    groups = weight.reshape(len(weight), -1, 16)
    scales = (groups.abs().amax(2) / 7).bfloat16()
    integers = (groups / scales[:, :, None].float()).round().clamp(-8, 7)
    stored = {"packed": packed((integers.reshape(weight.shape) + 8).int(), 1), "scale": scales}
    shape = {f"{name}_shape": torch.tensor(weight.shape)}
    meant = (integers * scales[:, :, None].float()).reshape(weight.shape)
    return {f"{name}_{key}": tensor for key, tensor in stored.items()} | shape, meant


def quantize_rows(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    scales = weight.abs().amax(1, keepdim=True) / 127
    integers = (weight / scales).round()
    return {name: integers.to(torch.int8), f"{name}_scale": scales}, integers * scales


def quantize_llm_int8(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    largest = weight.abs().amax(1)
    integers = (weight / largest[:, None] * 127).round()
    stored = {name: integers.to(torch.int8), f"{name.removesuffix('weight')}SCB": largest}
    return stored | {f"{name}_format": torch.tensor(0, dtype=torch.uint8)}, integers * (largest / 127)[:, None]


def quantize_nf4(name: str, weight: torch.Tensor) -> tuple[State, torch.Tensor]:
    codes = torch.linspace(-1, 1, 16) ** 3
    blocks = weight.reshape(-1, 64)
    scales = torch.full((len(blocks),), 0.05)
    indices = (blocks / scales[:, None] - 0.0)[..., None].sub(codes).abs().argmin(-1).to(torch.uint8)
    nested_map, offset = torch.linspace(0, 1, 256), 0.02
    state = {"quant_type": "nf4", "blocksize": 64, "shape": list(weight.shape), "nested_offset": offset}
    flat = indices.reshape(-1)
    stored = {
        name: (flat[0::2] << 4 | flat[1::2]).reshape(-1, 1),
        f"{name}.absmax": torch.full((len(blocks),), 255, dtype=torch.uint8),
        f"{name}.nested_absmax": torch.tensor([0.03]),
        f"{name}.nested_quant_map": nested_map,
        f"{name}.quant_map": codes,
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    return stored, (codes[indices.long()] * (torch.tensor(0.03) + offset)).reshape(weight.shape)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized"}
INT8 = {"quant_method": "compressed-tensors", "format": "int-quantized"}
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BNB8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
MXFP8 = {**FP8, "quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}
LINEAR, PACKED = "proj.weight", ("gate_up_proj", "down_proj")

METHODS: dict[str, tuple[str, dict[str, Any], Any, Quantize, dict[str, Any]]] = {
    "fp8": ("LlamaForCausalLM", TEXT, LINEAR, quantize_blocks, FP8),
    "fp8 experts": ("Qwen3MoeForCausalLM", EXPERTS, LINEAR, quantize_blocks, FP8),
    "mxfp4": ("GptOssForCausalLM", GPT_OSS, PACKED, quantize_4_bit, MXFP4),
    "gptq": ("LlamaForCausalLM", TEXT, LINEAR, quantize_gptq, GPTQ),
    "awq": ("LlamaForCausalLM", TEXT, LINEAR, quantize_awq, AWQ),
    "compressed-tensors of 4 bits": ("LlamaForCausalLM", TEXT, LINEAR, quantize_compressed, COMPRESSED),
    "compressed-tensors of 8 bits": ("LlamaForCausalLM", TEXT, LINEAR, quantize_rows, INT8),
    "bitsandbytes of 4 bits": ("LlamaForCausalLM", TEXT, LINEAR, quantize_nf4, BNB),
    "bitsandbytes of 8 bits": ("LlamaForCausalLM", TEXT, LINEAR, quantize_llm_int8, BNB8),
    "mxfp8": ("LlamaForCausalLM", TEXT, LINEAR, quantize_with_exponents, MXFP8),
}


def saved(method_name: str, directory: Path) -> tuple[Path, Path]:
    """Return a quantized checkpoint, and one with its dequantized weights."""
    name, settings, ending, quantize, quantization = METHODS[method_name]
    model_class = getattr(transformers, name)
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**settings))
    randomize(model)
    plain, packed = directory / "plain", directory / "packed"
    model.save_pretrained(plain)
    model.save_pretrained(packed)
    stored, meant = {}, {}
    for key, tensor in load_file(plain / "model.safetensors").items():
        half = tensor.bfloat16()  # most weights that aren't quantized are stored in bfloat16
        parts, value = quantize(key, tensor) if key.endswith(ending) else ({key: half}, half.float())
        stored |= parts
        meant[key] = value
    for path, state in ((packed, stored), (plain, meant)):
        contiguous = {key: tensor.contiguous() for key, tensor in state.items()}
        save_file(contiguous, path / "model.safetensors", metadata={"format": "pt"})
    configure(packed, quantization)
    return packed, plain


def configure(directory: Path, quantization: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": quantization}))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method_name", METHODS)
def test_weights_are_dequantized(method_name: str, dtype: Any, tmp_path: Path) -> None:
    packed, plain = saved(method_name, tmp_path)
    options, model_class = ExportOptions(dtype=dtype), getattr(transformers, METHODS[method_name][0])
    checkpoint = open_checkpoint(packed, options)
    bound = bind(checkpoint, model_class, load_config(checkpoint, options), options)
    streamed = method_name != "mxfp8"
    assert bool(bound.binding.files) == streamed and (bound.binding.note == "") == streamed
    in_memory = load_model(checkpoint, model_class, options).state_dict()
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    wanted = model_class.from_pretrained(plain, dtype=names[dtype]).state_dict()
    binding = Binding.from_json(bound.binding.to_json())
    with Reader(checkpoint.directory, binding.files) as reader:
        for key, expected in wanted.items():
            assert in_memory[key].dtype == expected.dtype, key
            assert torch.equal(in_memory[key], expected), key
            found = binding[key].evaluate(reader).astype(np.float32)
            assert np.array_equal(found, expected.float().numpy()), key
            chunks = [chunk.astype(np.float32).copy() for chunk in binding[key].chunks(reader)]
            assert np.array_equal(np.concatenate(chunks), found.reshape(-1)), key


@pytest.mark.parametrize("method_name", sampled(("fp8", "mxfp4"), ("fp8",)))
def test_the_export_equals_that_of_the_dequantized_checkpoint(method_name: str, tmp_path: Path) -> None:
    from onnxruntime import InferenceSession

    packed, plain = saved(method_name, tmp_path)
    options = ExportOptions(past=False)
    result = export(packed, tmp_path / "out", options)
    assert result.manifest.validation["status"] == "passed"
    assert result.manifest.source["quantization"] == method_name
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    source = BlueprintSource(open_checkpoint(packed, options), options, lambda *_: None)
    assert source.blueprint().trace.cached and source.draft is None
    model = getattr(transformers, METHODS[method_name][0]).from_pretrained(plain, dtype=torch.float32)
    ids = torch.tensor([[1, 5, 9, 7, 11], [3, 4, 2, 8, 6]])
    with torch.no_grad():
        expected = model(ids).logits.numpy()
    session = InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids.numpy(), "attention_mask": np.ones((2, 5), np.int64)}
    feeds["position_ids"] = np.tile(np.arange(5), (2, 1))
    names = [item.name for item in session.get_inputs()]
    assert np.allclose(session.run(["logits"], {name: feeds[name] for name in names})[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"quant_method": "aqlm"}, r"quantized \(aqlm\).*the package aqlm"),
        ({"quant_method": "hqq"}, r"\(hqq\).*the package hqq"),
        ({"quant_method": "bitnet"}, r"\(bitnet\).*export the checkpoint that they were quantized from"),
        ({"quant_method": "metal"}, r"\(metal\)"),
        ({"quant_method": "tomorrow"}, r"\(tomorrow\)"),
        ({}, r"\(None\)"),
    ],
)
def test_an_unsupported_method_is_named(method: dict[str, Any], message: str, tmp_path: Path) -> None:
    packed, _ = saved("fp8", tmp_path)
    configure(packed, method)
    with pytest.raises(UnsupportedError, match=message):
        export(packed, tmp_path / "out", ExportOptions())


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = saved("fp8", tmp_path)
    monkeypatch.setattr("transformers.quantizers.quantizer_finegrained_fp8.is_accelerate_available", lambda: False)
    with pytest.raises(MissingDependencyError, match="pip install accelerate"):
        export(packed, tmp_path / "out", ExportOptions())


def test_a_missing_part_of_a_packed_weight_is_named(tmp_path: Path) -> None:
    checkpoint, _ = saved("gptq", tmp_path)
    file = checkpoint / "model.safetensors"
    missing = "model.layers.0.mlp.down_proj.scales"
    save_file({key: tensor for key, tensor in load_file(file).items() if key != missing}, file, {"format": "pt"})
    with pytest.raises(CorruptCheckpointError, match=rf"down_proj is quantized \(gptq\), and {missing} is missing"):
        export(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("bits", [3, "four"])
def test_other_bits_of_packed_weights_are_named(bits: Any, tmp_path: Path) -> None:
    checkpoint, _ = saved("gptq", tmp_path)
    configure(checkpoint, GPTQ | {"bits": bits})
    with pytest.raises(UnsupportedError, match=f"weights of {bits} bits aren't unpacked, only of 2, 4, 8"):
        export(checkpoint, tmp_path / "out")


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors of 4 bits"])
def test_a_packed_checkpoint_keeps_its_integers(method: str, tmp_path: Path) -> None:
    checkpoint, _ = saved(method, tmp_path)
    result = export(checkpoint, tmp_path / "out", ExportOptions(dtype="q4"))
    assert result.manifest.validation["status"] == "passed"
    groups = {name: group for group in result.manifest.quantization["q4"] for name in group["parameters"]}
    group = groups["model.layers.1.mlp.down_proj.weight"]
    points = "none" if method.startswith("compressed") else "integer"
    assert (group["bits"], group["block_size"], group["zero_points"], group["on_grid"]) == (4, 16, points, True)
