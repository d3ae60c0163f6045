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
from onnxport.errors import MissingDependencyError, UnsupportedError
from onnxport.loading.load import load_config, load_model

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


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
MXFP8 = {**FP8, "quant_method": "mxfp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}
LINEAR, PACKED = "proj.weight", ("gate_up_proj", "down_proj")

METHODS: dict[str, tuple[str, dict[str, Any], Any, Quantize, dict[str, Any]]] = {
    "fp8": ("LlamaForCausalLM", TEXT, LINEAR, quantize_blocks, FP8),
    "fp8 experts": ("Qwen3MoeForCausalLM", EXPERTS, LINEAR, quantize_blocks, FP8),
    "mxfp4": ("GptOssForCausalLM", GPT_OSS, PACKED, quantize_4_bit, MXFP4),
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


@pytest.mark.parametrize("method_name", ["fp8", "mxfp4"])
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
        ({"quant_method": "gptq", "bits": 4}, r"quantized \(gptq\).*the package gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"\(bitsandbytes\).*the package bitsandbytes"),
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
