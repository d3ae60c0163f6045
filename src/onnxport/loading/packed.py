"""Dequantize weights whose integers a checkpoint packs: GPTQ, AWQ, compressed-tensors and bitsandbytes.

Transformers needs a package for each of them, most of which need a GPU. Their tensors are expressions here, so that
they are read and dequantized one at a time; the names are those of the weights that they stand for. Sources: the
packing functions of GPTQModel, AutoAWQ, compressed-tensors and bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.json_files import parse_json_object
from onnxport.errors import CorruptCheckpointError, UnsupportedError, brief
from onnxport.weights.building import cut, reshape, transpose
from onnxport.weights.expressions import NO_FILES, Expression, InMemory, Reads
from onnxport.weights.packed import Affine, Codebook, Unpacked

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, Expression]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Columns in the order in which AutoAWQ's GEMM kernel packs 8 of them."""
_BITS = (2, 4, 8)
_COMPRESSED_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
_INT8 = 127
"""Largest integer of LLM.int8, which stands for the largest element of a row."""


def is_unpacked(checkpoint: Checkpoint) -> bool:
    """Return whether the weights of a checkpoint are dequantized here, and not by Transformers' loader."""
    settings = checkpoint.quantization_config or {}
    is_known = settings.get("format", _COMPRESSED_FORMATS[0]) in _COMPRESSED_FORMATS
    return checkpoint.quantization in METHODS and (checkpoint.quantization != "compressed-tensors" or is_known)


def with_weights(checkpoint: Checkpoint, tensors: Tensors, reader: Reads) -> Tensors:
    """Return the tensors of a checkpoint, with the weights that packed integers stand for.

    Args:
        checkpoint: the checkpoint.
        tensors: its tensors by name.
        reader: reads the checkpoint.

    Raises:
        UnsupportedError: integers have another number of bits, or another layout.
        CorruptCheckpointError: a tensor is missing.
    """
    if not is_unpacked(checkpoint):
        return tensors
    return dequantized_tensors(str(checkpoint.quantization), checkpoint.quantization_config or {}, tensors, reader)


def read_weights(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with the weights that packed integers stand for; see `with_weights`."""
    if not is_unpacked(checkpoint):
        return dict(state)
    import torch
    from onnx_ir.tensor_adapters import TorchTensor

    tensors = {name: InMemory(TorchTensor(tensor.contiguous()).numpy()) for name, tensor in state.items()}
    found = with_weights(checkpoint, tensors, NO_FILES)
    return {
        name: state[name] if value is tensors.get(name) else torch.from_numpy(value.evaluate(NO_FILES))
        for name, value in found.items()
    }


def dequantized_tensors(
    method: str, settings: Mapping[str, Any], tensors: Tensors, reader: Reads
) -> dict[str, Expression]:
    """Return the tensors of a checkpoint with the weights that packed integers stand for.

    Args:
        method: its `quant_method`, a key of `METHODS`.
        settings: its `quantization_config`.
        tensors: its tensors by name.
        reader: reads small tensors that describe others.

    Raises:
        UnsupportedError: the integers have another number of bits, or another layout.
        CorruptCheckpointError: a tensor is missing.
    """
    endings, dequantize = METHODS[method]
    modules: dict[str, dict[str, Expression]] = {}
    for name in tensors:
        ending = next((ending for ending in endings if name.endswith(ending)), None)
        if ending is not None:
            modules[name.removesuffix(ending)] = {}
    for name, tensor in tensors.items():
        for position in (index for index, character in enumerate(name) if character == "."):
            if name[:position] in modules:
                modules[name[:position]][name[position:]] = tensor
    found: dict[str, Expression] = {}
    used: set[str] = set()
    for module, parts in modules.items():
        try:
            weight = dequantize(settings, parts, reader)
        except KeyError as error:
            raise CorruptCheckpointError(
                f"{module} is quantized ({method}), and {module}{error.args[0]} is missing: save the model again"
            ) from error
        except (ValueError, TypeError, IndexError, ArithmeticError) as error:
            raise CorruptCheckpointError(
                f"{module} is quantized ({method}), and its tensors don't fit each other or the settings "
                f"({brief(str(error))}): save the model again"
            ) from error
        if weight is not None:
            found[f"{module}.weight"] = weight
            used.update(f"{module}{name}" for name in parts if name != ".bias")
    return {**{name: tensor for name, tensor in tensors.items() if name not in used}, **found}


def _gptq(settings: Mapping[str, Any], parts: Tensors, _: Reads) -> Expression:
    """`qweight` [inputs / n, outputs], `qzeros` [groups, outputs / n], `scales` [groups, outputs], `g_idx` [inputs]."""
    bits = _bits_of(settings)
    scales = parts[".scales"]
    zeros = Unpacked(parts[".qzeros"], bits, 1)
    stored_less_one = settings.get("checkpoint_format", "gptq") == "gptq"
    values = Affine(Unpacked(parts[".qweight"], bits, 0), scales, zeros, int(stored_less_one), parts.get(".g_idx"))
    return transpose(values, (1, 0))


def _awq(settings: Mapping[str, Any], parts: Tensors, _: Reads) -> Expression:
    """`qweight` [inputs, outputs / 8], `qzeros` [groups, outputs / 8], `scales` [groups, outputs]."""
    if str(settings.get("version", "gemm")).lower() != "gemm":
        raise UnsupportedError(f"AWQ's version {settings['version']!r} isn't read, only gemm; save the model with that")
    bits = _bits_of(settings)
    integers = Unpacked(parts[".qweight"], bits, 1, _AWQ_ORDER)
    zeros = Unpacked(parts[".qzeros"], bits, 1, _AWQ_ORDER)
    return transpose(Affine(integers, parts[".scales"], zeros), (1, 0))


def _compressed(settings: Mapping[str, Any], parts: Tensors, reader: Reads) -> Expression | None:
    """Packed or plain 8-bit rows; a weight that isn't quantized has no scale."""
    if ".weight_packed" in parts:
        return _packed_rows(parts, reader)
    weight = parts.get(".weight")
    if weight is None or weight.dtype not in (ir.DataType.INT8, ir.DataType.FLOAT8E4M3FN):
        return None
    scales, points = parts[".weight_scale"], parts.get(".weight_zero_point")
    zeros = None if points is None else transpose(points, (1, 0))
    return transpose(Affine(transpose(weight, (1, 0)), transpose(scales, (1, 0)), zeros), (1, 0))


def _packed_rows(parts: Tensors, reader: Reads) -> Expression:
    """`weight_packed` [outputs, inputs / n], `weight_scale` [outputs, groups], packed `weight_zero_point`, if any.

    Integers are stored plus half of their range; zero points are packed along the outputs.
    """
    packed, scales = parts[".weight_packed"], parts[".weight_scale"]
    rows, columns = (int(size) for size in parts[".weight_shape"].evaluate(reader))
    bits = 32 // -(-columns // packed.shape[1])
    _check_bits(bits)
    integers = cut(transpose(Unpacked(packed, bits, 1), (1, 0)), 0, 0, columns)
    points = parts.get(".weight_zero_point")
    zeros = None if points is None else transpose(cut(Unpacked(points, bits, 0), 0, 0, rows), (1, 0))
    offset = 1 << (bits - 1) if zeros is None else 0
    return transpose(Affine(integers, transpose(scales, (1, 0)), zeros, offset, parts.get(".weight_g_idx")), (1, 0))


def _bitsandbytes(settings: Mapping[str, Any], parts: Tensors, reader: Reads) -> Expression | None:
    """`weight` uint8 with `absmax` and a `quant_map`, whose scales may be quantized, too; or int8 with `SCB`."""
    weight = parts.get(".weight")
    if weight is not None and ".SCB" in parts:
        scales = reshape(parts[".SCB"], (1, parts[".SCB"].size))
        return transpose(Affine(transpose(weight, (1, 0)), scales, divisor=_INT8), (1, 0))
    states = [name for name in parts if name.startswith(".weight.quant_state.")]
    if weight is None or not states:
        return None
    raw = parts[states[0]].evaluate(reader).tobytes()
    state = parse_json_object(raw, Path(states[0]), purpose="the state of a quantized tensor")
    scales = parts[".weight.absmax"]
    if ".weight.nested_absmax" in parts:
        nested = parts[".weight.nested_absmax"]
        offset = float(state["nested_offset"])
        scales = Codebook(scales, parts[".weight.nested_quant_map"], nested, scales.shape, offset)
    high_first = Unpacked(reshape(weight, (weight.size,)), 4, 0, (1, 0))
    return Codebook(high_first, parts[".weight.quant_map"], scales, tuple(int(size) for size in state["shape"]))


def _bits_of(settings: Mapping[str, Any]) -> int:
    bits = settings.get("bits", settings.get("w_bit", 4))
    _check_bits(bits)
    return int(bits)


def _check_bits(bits: Any) -> None:
    if bits not in _BITS:
        raise UnsupportedError(f"weights of {bits} bits aren't unpacked, only of {', '.join(map(str, _BITS))}")


Dequantize = Callable[[Mapping[str, Any], Tensors, Reads], Expression | None]

METHODS: dict[str, tuple[tuple[str, ...], Dequantize]] = {
    "gptq": ((".qweight",), _gptq),
    "awq": ((".qweight",), _awq),
    "compressed-tensors": ((".weight_packed", ".weight"), _compressed),
    "bitsandbytes": ((".weight",), _bitsandbytes),
}
"""Quantization method to the endings of the tensors that stand for a weight, and the function that dequantizes it."""
