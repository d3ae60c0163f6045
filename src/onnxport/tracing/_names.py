"""Name the inputs, outputs and symbolic axes of a captured graph."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxport.description.axes import symbols_of
from onnxport.description.signature import Signature

if TYPE_CHECKING:
    import onnx_ir as ir

_SYMBOL = re.compile(r"[A-Za-z_]\w*")


def name_graph(graph: ir.Graph, signature: Signature, inputs: list[str]) -> None:
    """Rename a graph's inputs, outputs and symbolic dimensions in place, in the order of the signature.

    Args:
        graph: a captured graph; its inputs are in the order of `inputs`.
        signature: names and axis labels, in the order of the final graph.
        inputs: flat names of the captured inputs.
    """
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    by_name = {str(value.name): value for value in graph.inputs}
    graph.inputs[:] = [by_name[name] for name in signature.inputs if name in by_name]
    for value, name in zip(graph.outputs, signature.outputs, strict=True):
        value.name = name
    renames = _symbol_names(graph, signature)
    for value in _values(graph):
        _rename_dims(value, renames)
    for value in graph.outputs:
        _label_output(value, signature.outputs[str(value.name)], set(renames.values()))


def _symbol_names(graph: ir.Graph, signature: Signature) -> dict[str, str]:
    """Map the engine's symbols to labels: the symbol of an input axis is renamed to the label of that axis.

    A label that is a sum is used only if one of its terms isn't the label of another axis.
    """
    names: dict[str, str] = {}
    for value in graph.inputs:
        for axis, label in signature.inputs[str(value.name)].items():
            symbol = _symbol(value, axis)
            if symbol is not None and len(symbols_of(label)) == 1 and label not in names.values():
                names.setdefault(symbol, label)
    single = set(names.values())
    for value in graph.inputs:
        for axis, label in signature.inputs[str(value.name)].items():
            symbol = _symbol(value, axis)
            if symbol is not None:
                is_new = not set(symbols_of(label)) <= single and label not in names.values()
                names.setdefault(symbol, label if is_new else f"{value.name}_dim_{axis}")
    return names


def _symbol(value: ir.Value, axis: int) -> str | None:
    """Return the symbol of an axis; None for an integer or an expression."""
    assert value.shape is not None, "a captured graph's inputs have shapes"
    text = str(getattr(value.shape[axis], "value", "") or "")
    return text if _SYMBOL.fullmatch(text) else None


def _values(graph: ir.Graph) -> list[ir.Value]:
    nodes = [output for node in graph.all_nodes() for output in node.outputs]
    return [*graph.inputs, *nodes, *graph.outputs]


def _rename_dims(value: ir.Value, names: Mapping[str, str]) -> None:
    import onnx_ir as ir

    if value.shape is None:
        return
    dims = []
    for dim in value.shape:
        text = getattr(dim, "value", dim)
        if isinstance(text, str):
            text = _SYMBOL.sub(lambda m: names.get(m[0], m[0]), text)
            text = int(text) if text.isdigit() else text  # the engine writes a fixed axis as digits
        dims.append(text)
    value.shape = ir.Shape(dims)


def _label_output(value: ir.Value, labels: Mapping[int, str], known: set[str]) -> None:
    """Label the symbolic axes of an output that have unknown symbols.

    A sum of known symbols is rewritten with its terms in the label's order.
    """
    import onnx_ir as ir

    if value.shape is None:
        return
    dims = [getattr(dim, "value", dim) for dim in value.shape]
    for axis, label in labels.items():
        text = dims[axis] if axis < len(dims) else 0
        if isinstance(text, int):
            continue
        terms = symbols_of(str(text or ""))
        unknown = not set(_SYMBOL.findall(str(text or ""))) <= known
        if not text or unknown or sorted(terms) == sorted(symbols_of(label)):
            dims[axis] = label
    value.shape = ir.Shape(dims)
