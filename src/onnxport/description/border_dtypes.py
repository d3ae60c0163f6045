"""Decide the dtypes of a graph's inputs and outputs, which may differ from those that it computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.description.axes import is_cached

if TYPE_CHECKING:
    from onnxport.options import FloatDtype, GraphOptions

_FLOATS: dict[FloatDtype, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def border_dtype(name: str, dtype: str, options: GraphOptions, *, is_input: bool) -> str:
    """Return the dtype of an input or output.

    The cache keeps the graph's: a decoder's outputs of one step are its inputs of the next. So do outputs that are
    integers.

    Args:
        name: its name in the graph.
        dtype: what the graph computes with, such as `float16` or `int64`.
        options: `token_dtype` for integers, and `io_dtype` for floating-point values.
        is_input: whether it is an input.
    """
    if dtype == "int64":
        return options.token_dtype if is_input else dtype
    if options.io_dtype is None or dtype not in _FLOATS.values() or is_cached(name) or name.startswith("present"):
        return dtype
    return _FLOATS[options.io_dtype]
