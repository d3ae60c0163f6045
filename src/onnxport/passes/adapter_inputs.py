"""Add the matrices of a LoRA adapter to linear layers, as inputs of the graph.

    MatMul(x, W)   →   MatMul(x, W) + MatMul(MatMul(x, A), B)

A [in_features, rank] and B [rank, out_features] are inputs with a default of rank 0, which adds zeros: without values
for them, the graph computes the base model. ONNX Runtime's adapters are values for such inputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir as ir

from onnxport.errors import UnsupportedError
from onnxport.weights.parameters import ParameterTensor

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
"""Suffixes of the names of A and B, after the module's path."""


class AdapterInputsPass(ir.passes.InPlacePass):
    """Add inputs for an adapter to linear layers.

    Args:
        weights: names of the layers' weights; those that the graph doesn't have are ignored.
        prefix: prefix of the inputs' names, with which they are those of the whole model.

    Raises:
        UnsupportedError: a weight isn't that of a linear layer.
    """

    def __init__(self, weights: Collection[str], prefix: str = "") -> None:
        super().__init__()
        self._weights, self._prefix = weights, prefix

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a graph in place."""
        found = [value for value in model.graph.initializers.values() if _parameter_name(value) in self._weights]
        for weight in found:
            products = list(_products(weight))
            if not products:
                raise UnsupportedError(
                    f"{_parameter_name(weight)} isn't the weight of a linear layer, and only those take an adapter as "
                    "inputs; merge it, without --adapter-inputs"
                )
            self._add(model.graph, weight, products)
        return ir.passes.PassResult(model, modified=bool(found))

    def _add(self, graph: ir.Graph, weight: ir.Value, products: list[ir.Node]) -> None:
        module = _parameter_name(weight).removesuffix(".weight")
        sizes = _sizes(weight, products[0])
        rank = f"{module}.rank"
        down = _input(graph, self._prefix + module + DOWN, (sizes[0], rank), weight)
        up = _input(graph, self._prefix + module + UP, (rank, sizes[1]), weight)
        for index, product in enumerate(products):
            name = f"{module}.lora" if index == 0 else f"{module}.lora_{index}"
            before = product.outputs[0]
            hidden = ir.node("MatMul", [product.inputs[0], down], name=f"{name}/MatMul_A")
            update = ir.node("MatMul", [hidden.outputs[0], up], name=f"{name}/MatMul_B")
            adapted = ir.node("Add", [before, update.outputs[0]], name=f"{name}/Add")
            for node in (hidden, update, adapted):
                node.outputs[0].name = f"{node.name}_output_0"
            after = adapted.outputs[0]
            after.shape, after.type = before.shape, before.type
            if before.is_graph_output():
                after.name, before.name = before.name, after.name
            graph.insert_after(product, [hidden, update, adapted])
            ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
            adapted.replace_input_with(0, before)


def _parameter_name(value: ir.Value) -> str:
    return str(value.const_value.name) if isinstance(value.const_value, ParameterTensor) else ""


def _products(weight: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that multiply hidden states with a weight, or with its transpose."""
    for use in weight.uses():
        node = use.node
        if node.op_type == "Transpose" and node.domain == "":
            yield from _products(node.outputs[0])
        elif node.op_type in ("MatMul", "Gemm") and node.domain == "" and use.idx == 1:
            yield node


def _sizes(weight: ir.Value, product: ir.Node) -> tuple[int, int]:
    """Return the number of input and of output features of a linear layer."""
    first, second = weight.const_value.shape.numpy()  # type: ignore[union-attr]
    is_transposed = product.inputs[1] is not weight or product.attributes.get_int("transB", 0) == 1
    return (second, first) if is_transposed else (first, second)


def _input(graph: ir.Graph, name: str, axes: tuple[int | str, ...], like: ir.Value) -> ir.Value:
    """Add an input with a default of rank 0."""
    tensor_type = like.type
    assert tensor_type is not None
    sizes = [axis if isinstance(axis, int) else 0 for axis in axes]
    tensor = ir.tensor(np.zeros(sizes, tensor_type.dtype.numpy()), name=name)
    value = ir.Value(name=name, shape=ir.Shape(axes), type=tensor_type, const_value=tensor)
    graph.inputs.append(value)
    graph.register_initializer(value)
    return value
