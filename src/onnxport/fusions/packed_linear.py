"""Multiply with the matrices of several linear layers at once.

    MatMul(x, Transpose(Q)), MatMul(x, Transpose(K)), MatMul(x, Transpose(V))
        →   q, k, v = Split(MatMul(x, Transpose(Concatenate(Q, K, V))))

The layers are those of a module that read the same value: queries, keys and values, or a gate and its factor. One
product of a token reads its input once, and starts threads once; Split copies its outputs. The concatenated matrix is
an expression over the parameters, which is evaluated when it is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxport.fusions._matching import add_constant, add_node, int64, producer, rank, replace, sole_user
from onnxport.passes.linear import SMALLEST, chooses_experts
from onnxport.weights.building import concatenate
from onnxport.weights.parameters import ParameterTensor

WIDEST = 4
"""Outputs of packed layers on a CPU, at most, as a multiple of their inputs.

A gate and its factor have more, 5.3 times their inputs in SmolLM2: packed, a token of Llama 0.55 B takes 5 % longer
with one and with two threads, one of SmolLM2-135M as long, and a prompt of 512 tokens 1 to 4 % longer. With packed
queries, keys and values (1.7 times), a token of SmolLM2 takes 5 % less with two threads (int4, ONNX Runtime 1.32, a
Xeon).
"""


class PackedLinearPass(ir.passes.InPlacePass):
    """Pack the matrices of linear layers that read the same value.

    Args:
        widest: outputs of packed layers, at most, as a multiple of their inputs; None for any.
    """

    def __init__(self, widest: int | None = None) -> None:
        super().__init__()
        self._widest = widest

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a graph in place."""
        groups = [
            products for products in _groups(model.graph) if self._widest is None or _ratio(products) <= self._widest
        ]
        for products in groups:
            _pack(model.graph, products)
        return ir.passes.PassResult(model, modified=bool(groups))


def _groups(graph: ir.Graph) -> Iterator[list[ir.Node]]:
    """Yield the products of a value with several matrices of one module."""
    groups: dict[_Key, list[ir.Node]] = {}
    for node in graph:
        value = node.inputs[0] if node.op_type == "MatMul" and node.domain == "" else None
        matrix = _matrix_of(node) if value is not None and (rank(value) or 0) >= 2 else None
        if matrix is not None and min(matrix.shape.numpy()) >= SMALLEST and not chooses_experts(node):
            assert value is not None
            groups.setdefault(_Key(value, _module_of(matrix), matrix.dtype), []).append(node)
    yield from (products for products in groups.values() if len(products) > 1)


def _ratio(products: list[ir.Node]) -> float:
    """Return the number of outputs of linear layers divided by that of their inputs."""
    shapes = [matrix.shape.numpy() for matrix in map(_matrix_of, products) if matrix is not None]
    return sum(int(outputs) for outputs, _ in shapes) / int(shapes[0][1])


@dataclass(frozen=True)
class _Key:
    """What the products of a group have in common."""

    value: ir.Value
    module: str
    dtype: ir.DataType


def _module_of(matrix: ParameterTensor) -> str:
    """Return the path of the module that has the linear layer of a weight."""
    return str(matrix.name).rpartition(".")[0].rpartition(".")[0]


def _matrix_of(product: ir.Node) -> ParameterTensor | None:
    """Return the parameter [outputs, inputs] whose transpose a node multiplies with, if nothing else uses either."""
    transpose = producer(product.inputs[1], "Transpose")
    matrix = transpose.inputs[0] if transpose is not None and sole_user(transpose.outputs[0]) is product else None
    if matrix is None or rank(matrix) != 2 or sole_user(matrix) is None:
        return None
    return matrix.const_value if isinstance(matrix.const_value, ParameterTensor) else None


def _pack(graph: ir.Graph, products: list[ir.Node]) -> None:
    first, matrices = products[0], [matrix for matrix in map(_matrix_of, products) if matrix is not None]
    layers = [str(matrix.name).removesuffix(".weight").rpartition(".")[2] for matrix in matrices]
    name = f"{_module_of(matrices[0])}.{'_'.join(layers)}.weight"
    packed = ParameterTensor.computed(name, concatenate([matrix.expression for matrix in matrices], 0))
    shape, tensor_type = ir.Shape(packed.shape.numpy()), ir.TensorType(packed.dtype)
    weight = ir.Value(name=name, shape=shape, type=tensor_type, const_value=packed)
    graph.register_initializer(weight)
    transpose = add_node(first, "Transpose", [weight], {"perm": [1, 0]})
    product = add_node(first, "MatMul", [first.inputs[0], transpose.outputs[0]])
    sizes = [int(matrix.shape.numpy()[0]) for matrix in matrices]
    lengths = add_constant(graph, f"split_{'_'.join(map(str, sizes))}", int64(sizes))
    split = add_node(first, "Split", [product.outputs[0], lengths], {"axis": -1}, outputs=len(products))
    for old, new in zip(products, split.outputs, strict=True):
        new.shape, new.type = old.outputs[0].shape, old.outputs[0].type
        replace(old.outputs[0], new)
