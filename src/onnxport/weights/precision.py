"""The precisions of an export: the type of its activations, and how its matrices are quantized.

Their names and the suffixes of their files are those of transformers.js.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxport.options import Dtype, FloatDtype, QuantizeOptions, float_dtype_of
from onnxport.weights.grids import ZeroPoints
from onnxport.weights.quantization import BlockScheme, Nf4Scheme, RowScheme, Scheme

SUFFIXES: dict[Dtype, str] = {
    "fp32": "",
    "fp16": "_fp16",
    "bf16": "_bf16",
    "q8": "_quantized",
    "int8": "_int8",
    "uint8": "_uint8",
    "q4": "_q4",
    "q4f16": "_q4f16",
    "bnb4": "_bnb4",
    "q2": "_q2",
    "q2f16": "_q2f16",
}
"""Suffix of a graph's file name, of a directory with several precisions or a quantized one."""


@dataclass(frozen=True)
class Precision:
    """Hold how the weights of a graph are stored.

    Attributes:
        name: the precision's name.
        float_dtype: type of activations, and of the weights that aren't quantized.
        scheme: how linear layers and embeddings are quantized; None if they aren't.
        head: how the layer is quantized whose output is the logits.
        accuracy_level: of `MatMulNBits`: 4 computes with int8 activations, 0 with the graph's type.
        suffix: suffix of the graphs' file names.
        keeps_grids: whether matrices of a quantized checkpoint keep their integers and scales.
    """

    name: Dtype
    float_dtype: FloatDtype
    scheme: Scheme | None = None
    head: Scheme | None = None
    accuracy_level: int = 0
    suffix: str = ""
    keeps_grids: bool = False

    @property
    def is_calibrated(self) -> bool:
        """Whether matrices are quantized for the inputs that a text gives, if there is one."""
        return isinstance(self.scheme, BlockScheme | RowScheme) and not self.keeps_grids

    @property
    def rounds_inputs(self) -> bool:
        """Whether all inputs of a layer share a scale, so that their sizes are measured by default."""
        return isinstance(self.scheme, RowScheme)


def precisions_of(dtypes: tuple[Dtype, ...], options: QuantizeOptions, *, is_quantized: bool) -> tuple[Precision, ...]:
    """Return the precisions of an export.

    A graph of floating-point weights has no suffix if it is the only precision, as before there were others.

    Args:
        dtypes: their names.
        options: how matrices are quantized.
        is_quantized: whether the checkpoint's weights are quantized already.
    """
    precisions = (_precision(name, options, is_only=len(dtypes) == 1) for name in dtypes)
    return tuple(replace(one, keeps_grids=is_quantized and isinstance(one.scheme, BlockScheme)) for one in precisions)


def _precision(name: Dtype, options: QuantizeOptions, *, is_only: bool) -> Precision:
    float_dtype = float_dtype_of(name)
    if name == float_dtype:
        return Precision(name, float_dtype, suffix="" if is_only else SUFFIXES[name])
    if name in ("q8", "int8", "uint8") and not options.weight_only:
        scheme: Scheme = RowScheme(signed=name != "uint8")
        return Precision(name, float_dtype, scheme, scheme, suffix=SUFFIXES[name])
    if name == "bnb4":
        return Precision(name, float_dtype, Nf4Scheme(), Nf4Scheme(), suffix=SUFFIXES[name])
    bits = 8 if name in ("q8", "int8", "uint8") else int(name[1])
    points: ZeroPoints = "none" if options.symmetric else "integer"
    block = BlockScheme(bits, options.block_size, points)
    head = BlockScheme(options.lm_head or bits, options.block_size, points)
    return Precision(name, float_dtype, block, head, options.accuracy_level, SUFFIXES[name])


def suffixed(file: str, suffix: str) -> str:
    """Return the name of a graph's file with the suffix of a precision: `model.onnx` → `model_q4.onnx`."""
    return f"{file.removesuffix('.onnx')}{suffix}.onnx"
