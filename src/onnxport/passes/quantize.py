"""Replace matrices by quantized ones, and the operators that use them by those that take them.

    4 bits   MatMul(x, Transpose(W))   →   MatMulNBits(x, values, scales)
             Gather(W, ids)            →   GatherBlockQuantized(values, ids, scales)
    NF4      MatMul(x, Transpose(W))   →   MatMulBnb4(x, values, scales)
    8 bits   MatMul(x, Transpose(W))   →   x, s, z = DynamicQuantizeLinear(x); MatMulInteger(x, values, z) · s · scales
             Gather(W, ids)            →   Gather(values, ids) · Gather(scales, ids)

A matrix that is used twice, as embedding and as head, is stored once. One is quantized only if all of its uses in all
graphs can take it: the model is then the original with other weights, which it is compared with. The sources of the
operators are ONNX Runtime's documentation of contributed operators, and of dynamic quantization.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from onnxport.passes.linear import SMALLEST, chooses_experts
from onnxport.passes.quantization_plan import QuantizedMatrix, Stored, joined
from onnxport.passes.scopes import node_like, replace_node
from onnxport.weights.building import cut, transpose
from onnxport.weights.expressions import Concatenate, Expression
from onnxport.weights.parameters import Parameter, ParameterTensor, parameters_of
from onnxport.weights.precision import Precision
from onnxport.weights.quantization import BlockScheme, Dequantized, Nf4Scheme, Part, RowScheme

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's operators."""


@dataclass(frozen=True)
class MatrixUse:
    """A node that uses a parameter, or a part of one, as a matrix.

    Attributes:
        node: a `MatMul`, `Gemm` or `Gather`.
        by_columns: whether the parameter has the output features as columns, `[inputs, outputs]`.
        expert: index of the matrix in a parameter of three axes; None for one of two.
    """

    node: ir.Node
    by_columns: bool = False
    expert: int | None = None

    @property
    def is_lookup(self) -> bool:
        """Whether rows are looked up."""
        return self.node.op_type == "Gather"


def plan_quantization(graphs: Sequence[tuple[str, ir.Model]], precision: Precision) -> dict[str, QuantizedMatrix]:
    """Choose the parameters that are quantized.

    Args:
        graphs: the prefix of each graph's parameters in the model, and the graph; its parameters have no data.
        precision: how matrices are quantized.

    Returns:
        Full name of a parameter to how it is quantized.
    """
    uses: dict[str, list[MatrixUse | None]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix, model in graphs:
        for value in model.graph.initializers.values():
            for parameter in _parameters(value):
                name = f"{prefix}{parameter.name}"
                shapes[name] = parameter.shape
                uses.setdefault(name, []).extend(matrix_uses(value))
    plan = {}
    for name, found in uses.items():
        known = [use for use in found if use is not None]
        if len(known) == len(found) and known and _is_quantizable(shapes[name], known, precision):
            is_head = any(_is_logits(use.node) for use in known)
            scheme = precision.head if is_head else precision.scheme
            assert scheme is not None
            plan[name] = QuantizedMatrix(scheme, known[0].by_columns)
    return plan


def _parameters(value: ir.Value) -> list[Parameter]:
    """Return the parameters of an initializer: one, or those that are packed as its rows; none if it is a constant."""
    tensor = value.const_value
    if not isinstance(tensor, ParameterTensor):
        return []
    is_packed = isinstance(tensor.expression, Concatenate) and tensor.expression.axis == 0
    return parameters_of(tensor.expression) if is_packed or isinstance(tensor.expression, Parameter) else []


def _is_quantizable(shape: tuple[int, ...], uses: Sequence[MatrixUse], precision: Precision) -> bool:
    if precision.scheme is None or min(shape[-2:]) < SMALLEST or len({use.by_columns for use in uses}) > 1:
        return False
    scheme = precision.scheme
    columns = shape[-2] if uses[0].by_columns else shape[-1]
    is_padded = not isinstance(scheme, RowScheme) and columns % scheme.block_size
    if isinstance(scheme, Nf4Scheme) and (is_padded or any(use.is_lookup for use in uses)):
        return False
    return not any(chooses_experts(use.node) or (use.is_lookup and is_padded) for use in uses)


def _is_logits(node: ir.Node) -> bool:
    return any(value.is_graph_output() and value.name == "logits" for value in node.outputs)


def matrix_uses(weight: ir.Value) -> Iterator[MatrixUse | None]:
    """Yield the uses of a parameter as a matrix; None for each other use."""
    rank = len(weight.shape) if weight.shape is not None else 0
    if rank == 3:
        yield from _expert_uses(weight)
        return
    for use in weight.uses():
        node, is_plain = use.node, use.node.domain == ""
        if rank != 2 or not is_plain:
            yield None
        elif node.op_type == "Transpose":
            yield from (_product(user.node, node.outputs[0], by_columns=False) for user in node.outputs[0].uses())
        elif node.op_type == "Gather" and use.idx == 0 and node.attributes.get_int("axis", 0) == 0:
            yield MatrixUse(node)
        else:
            yield _product(node, weight, by_columns=not _transposes(node))


def _product(node: ir.Node, matrix: ir.Value, *, by_columns: bool) -> MatrixUse | None:
    """Return the use of a matrix by a node that multiplies with it; None if it does something else."""
    left = node.inputs[0] if node.inputs else None
    if node.domain or node.op_type not in ("MatMul", "Gemm") or node.inputs[1] is not matrix or left is matrix:
        return None
    if left is None or left.shape is None or len(left.shape) < 2:
        return None
    attributes = node.attributes
    is_scaled = attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0
    is_transposed = attributes.get_int("transA", 0) == 1
    if is_scaled or is_transposed or (node.op_type == "Gemm" and by_columns == _transposes(node)):
        return None
    return MatrixUse(node, by_columns)


def _transposes(node: ir.Node) -> bool:
    """Return whether a `Gemm` multiplies with the transpose of its second input."""
    flag: int = node.attributes.get_int("transB", 0)
    return flag == 1


def _expert_uses(weight: ir.Value) -> Iterator[MatrixUse | None]:
    """Yield the uses of the matrices of experts: Split of the parameter, or its transpose, squeezed and multiplied."""
    for use in weight.uses():
        split, by_columns = use.node, True
        if split.op_type == "Transpose" and list(split.attributes.get_ints("perm", [])) == [0, 2, 1]:
            users = [user.node for user in split.outputs[0].uses()]
            split, by_columns = (users[0] if len(users) == 1 else split), False
        is_first = split.op_type == "Split" and split.attributes.get_int("axis", 0) == 0
        if not is_first or len(split.outputs) != _experts(weight):
            yield None
            continue
        for expert, part in enumerate(split.outputs):
            for squeezed in part.uses():
                if squeezed.node.op_type != "Squeeze":
                    yield None
                    continue
                matrix = squeezed.node.outputs[0]
                for user in matrix.uses():
                    product = _product_of_expert(user.node, matrix)
                    yield replace(product, by_columns=by_columns, expert=expert) if product else None


def _experts(weight: ir.Value) -> int:
    assert weight.shape is not None
    size = weight.shape[0]
    return size if isinstance(size, int) else 0


def _product_of_expert(node: ir.Node, matrix: ir.Value) -> MatrixUse | None:
    """Return the use of an expert's matrix; the shape of its tokens depends on the routing, and is unknown."""
    is_product = node.op_type == "MatMul" and node.domain == "" and node.inputs[1] is matrix
    return MatrixUse(node) if is_product else None


class QuantizePass(ir.passes.InPlacePass):
    """Quantize parameters of a graph.

    Args:
        plan: full name of a parameter to how it is quantized; see `plan_quantization`.
        prefix: prefix of the graph's parameters in the model.
        precision: how matrices are quantized.
    """

    def __init__(self, plan: Mapping[str, QuantizedMatrix], prefix: str, precision: Precision) -> None:
        super().__init__()
        self._plan, self._prefix, self._precision = plan, prefix, precision

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rewrite a graph in place."""
        found = [
            (value, [self._plan[f"{self._prefix}{parameter.name}"] for parameter in parameters])
            for value in model.graph.initializers.values()
            if (parameters := _parameters(value)) and f"{self._prefix}{parameters[0].name}" in self._plan
        ]
        activations = _Activations()
        for weight, matrices in found:
            matrix = joined(matrices)
            uses = [use for use in matrix_uses(weight) if use is not None]
            tensors = _Tensors(model.graph, weight, matrix)
            for use in uses:
                if isinstance(matrix.scheme, BlockScheme):
                    new = _block_nodes(use, tensors, matrix.scheme, self._precision.accuracy_level)
                    model.opset_imports.setdefault(MICROSOFT, 1)
                elif isinstance(matrix.scheme, Nf4Scheme):
                    new = _nf4_nodes(use, tensors, matrix.scheme)
                    model.opset_imports.setdefault(MICROSOFT, 1)
                else:
                    new = _row_nodes(use, tensors, matrix.scheme, activations, is_shared=len(uses) > 1)
                _name(new, str(use.node.outputs[0].name))
                replace_node(use.node, new)
        if found:
            common_passes.RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def stored_matrices(
    model: ir.Model, prefix: str, component: str, plan: Mapping[str, QuantizedMatrix]
) -> dict[str, QuantizedMatrix]:
    """Return the matrices of a plan that are rounded, with their places in a graph.

    Args:
        model: the graph, before it is quantized.
        prefix: prefix of the graph's parameters in the model.
        component: name of the graph.
        plan: full name of a parameter to how it is quantized.
    """
    found = {}
    for value in model.graph.initializers.values():
        first = 0
        for parameter in _parameters(value):
            matrix = plan.get(f"{prefix}{parameter.name}")
            if matrix is None or matrix.rounded is None or value.const_value is None:
                continue
            rows, columns = matrix.rounded.sizes
            place = Stored(component, str(value.const_value.name), first, rows, columns)
            found[f"{prefix}{parameter.name}"] = replace(matrix, stored=place)
            first += rows
    return found


class _Tensors:
    """Create the tensors of a quantized parameter, each once."""

    def __init__(self, graph: ir.Graph, weight: ir.Value, matrix: QuantizedMatrix) -> None:
        assert isinstance(weight.const_value, ParameterTensor)
        self.name = str(weight.const_value.name)
        expression = weight.const_value.expression
        self._graph, self._matrix = graph, matrix
        self._rows = matrix.rows_of(expression)
        experts = expression.shape[0] if len(expression.shape) == 3 else 1
        self._height = self._rows.shape[0] // experts

    def dequantized(self, expert: int | None) -> Dequantized:
        """Return the quantized matrix."""
        if self._matrix.rounded is not None:
            return self._matrix.rounded
        index = expert or 0
        rows = cut(self._rows, 0, index * self._height, (index + 1) * self._height)
        return self._matrix.quantized(rows)

    def of(self, part: Part, expert: int | None) -> ir.Value | None:
        """Return a part of the quantized matrix; None if it has no such part."""
        expression = getattr(self.dequantized(expert), part)
        return None if expression is None else self.tensor(part, expression, expert)

    @property
    def smoothing(self) -> ir.Value | None:
        """What the inputs of the layer, and looked-up rows, are multiplied with; None if they aren't."""
        factors = self._matrix.smoothing
        return None if factors is None else self.constant("smoothing", 1 / factors.array[0])

    def tensor(self, suffix: str, expression: Expression, expert: int | None = None) -> ir.Value:
        """Return the initializer of an expression."""
        name = f"{self.name}_{suffix}" if expert is None else f"{self.name}.{expert}_{suffix}"
        return self._graph.initializers.get(name) or _initializer(
            self._graph, name, ParameterTensor.computed(name, expression)
        )

    def constant(self, suffix: str, array: np.ndarray) -> ir.Value:  # type: ignore[type-arg]
        """Return the initializer of a constant."""
        name = f"{self.name}_{suffix}"
        return self._graph.initializers.get(name) or _initializer(self._graph, name, ir.tensor(array, name=name))


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape, tensor_type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=shape, type=tensor_type, const_value=tensor)
    graph.register_initializer(value)
    return value


class _Activations:
    """Quantize activations to 8 bits, each once."""

    def __init__(self) -> None:
        self._quantized: dict[tuple[ir.Value, bytes], ir.Node] = {}

    def of(self, value: ir.Value, before: ir.Node, smoothing: ir.Value | None) -> ir.Node:
        """Return the `DynamicQuantizeLinear` of a value, which is inserted before a node if there is none yet.

        Args:
            value: the activation.
            before: a node that uses it.
            smoothing: initializer of what it is multiplied with; None if it isn't.
        """
        factors = b"" if smoothing is None or smoothing.const_value is None else smoothing.const_value.tobytes()
        if (value, factors) not in self._quantized:
            nodes = [] if smoothing is None else [node_like("Mul", [value, smoothing], before)]
            node = node_like("DynamicQuantizeLinear", [nodes[0].outputs[0] if nodes else value], before)
            node.resize_outputs(3)
            producer, graph = value.producer(), value.graph  # which may be the body of a loop
            assert graph is not None, "it is an input of the graph, or computed in it"
            _name([*nodes, node], f"{value.name}_{len(self._quantized)}")
            if producer is None:
                graph.insert_before(graph[0], [*nodes, node])
            else:
                graph.insert_after(producer, [*nodes, node])
            self._quantized[value, factors] = node
        return self._quantized[value, factors]


def _block_nodes(use: MatrixUse, tensors: _Tensors, scheme: BlockScheme, accuracy_level: int) -> list[ir.Node]:
    node = use.node
    values, scales, points = (tensors.of(part, use.expert) for part in ("values", "scales", "zero_points"))
    rows, columns = tensors.dequantized(use.expert).shape
    sizes = {"bits": scheme.bits, "block_size": scheme.block_size}
    if use.is_lookup and scheme.zero_points == "float":
        return _looked_up_blocks(node, tensors, use)
    if use.is_lookup:
        assert values is not None and values.shape is not None
        flat = tensors.constant("values_shape", np.array([rows, values.shape[1] * values.shape[2]], np.int64))
        flatten = node_like("Reshape", [values, flat], node)
        inputs = [flatten.outputs[0], node.inputs[1], scales, *([points] if points is not None else [])]
        attributes = {**sizes, "gather_axis": 0, "quantize_axis": 1}
        return [flatten, node_like("GatherBlockQuantized", inputs, node, attributes, MICROSOFT)]
    attributes = {**sizes, "K": columns, "N": rows, "accuracy_level": accuracy_level}
    inputs = [node.inputs[0], values, scales, *([points] if points is not None else [])]
    return _with_bias([node_like("MatMulNBits", inputs, node, attributes, MICROSOFT)], node)


def _nf4_nodes(use: MatrixUse, tensors: _Tensors, scheme: Nf4Scheme) -> list[ir.Node]:
    rows, columns = tensors.dequantized(use.expert).shape
    inputs = [use.node.inputs[0], *(tensors.of(part, use.expert) for part in scheme.parts)]
    attributes = {"K": columns, "N": rows, "block_size": scheme.block_size, "quant_type": _NF4}
    return _with_bias([node_like("MatMulBnb4", inputs, use.node, attributes, MICROSOFT)], use.node)


_NF4 = 1
"""`quant_type` of `MatMulBnb4`: 0 is FP4."""


def _row_nodes(
    use: MatrixUse, tensors: _Tensors, scheme: RowScheme, activations: _Activations, *, is_shared: bool
) -> list[ir.Node]:
    node = use.node
    values, scales = tensors.of("values", use.expert), tensors.of("scales", use.expert)
    assert values is not None and scales is not None
    point = tensors.constant("zero_point", np.array(scheme.zero_point, np.int8 if scheme.signed else np.uint8))
    smoothing = tensors.smoothing
    if use.is_lookup:
        found = _looked_up(node, values, scales, point, tensors.constant("last", np.array([-1], np.int64)))
        return found if smoothing is None else [*found, node_like("Mul", [found[-1].outputs[0], smoothing], node)]
    nodes = []
    if is_shared:
        nodes.append(node_like("Transpose", [values], node))
        values = nodes[0].outputs[0]
    else:
        graph = node.graph
        assert isinstance(graph, ir.Graph)
        expression = transpose(tensors.dequantized(use.expert).values, (1, 0))
        values = tensors.tensor("values_transposed", expression, use.expert)
    left = node.inputs[0]
    assert left is not None
    activation = activations.of(left, node, smoothing)
    data, step, zero = activation.outputs
    product = node_like("MatMulInteger", [data, values, zero, point], node)
    to_float = node_like("Cast", [product.outputs[0]], node, {"to": ir.DataType.FLOAT})
    scale = node_like("Mul", [step, scales], node)
    scaled = node_like("Mul", [to_float.outputs[0], scale.outputs[0]], node)
    return _with_bias([*nodes, product, to_float, scale, scaled], node)


def _looked_up_blocks(node: ir.Node, tensors: _Tensors, use: MatrixUse) -> list[ir.Node]:
    """Return the nodes that look up rows of 4 bits with float zero points, for want of an operator."""
    ids, values = node.inputs[1], tensors.of("values", use.expert)
    assert ids is not None and ids.shape is not None and values is not None and values.dtype is not None
    nodes: list[ir.Node] = []

    def add(operator: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        nodes.append(node_like(operator, inputs, node, attributes))
        return nodes[-1].outputs[0]

    packed, step, zero = (add("Gather", tensors.of(part, use.expert), ids) for part in _BLOCK_PARTS)
    last = tensors.constant("last", np.array([-1], np.int64))
    low = add("BitwiseAnd", packed, tensors.constant("mask", np.array(15, np.uint8)))
    high = add("BitShift", packed, tensors.constant("shift", np.array(4, np.uint8)), direction="RIGHT")
    pairs = add("Concat", add("Unsqueeze", low, last), add("Unsqueeze", high, last), axis=-1)
    rank = len(ids.shape)
    blocks = tensors.constant("blocks_shape", np.array([0] * (rank + 1) + [-1], np.int64))
    scales = tensors.of("scales", use.expert)
    assert scales is not None
    wide = add("Cast", add("Reshape", pairs, blocks), to=scales.dtype)
    centred = add("Sub", wide, add("Unsqueeze", zero, last))
    scaled = add("Mul", centred, add("Unsqueeze", step, last))
    add("Reshape", scaled, tensors.constant("rows_shape", np.array([0] * rank + [-1], np.int64)))
    return nodes


_BLOCK_PARTS: tuple[Part, ...] = ("values", "scales", "zero_points")


def _looked_up(node: ir.Node, values: ir.Value, scales: ir.Value, point: ir.Value, last: ir.Value) -> list[ir.Node]:
    """Return the nodes that look up quantized rows and dequantize them."""
    ids = node.inputs[1]
    rows, steps = node_like("Gather", [values, ids], node), node_like("Gather", [scales, ids], node)
    wide = node_like("Cast", [rows.outputs[0]], node, {"to": ir.DataType.FLOAT})
    zero = node_like("Cast", [point], node, {"to": ir.DataType.FLOAT})
    centred = node_like("Sub", [wide.outputs[0], zero.outputs[0]], node)
    column = node_like("Unsqueeze", [steps.outputs[0], last], node)
    return [rows, steps, wide, zero, centred, column, node_like("Mul", [centred.outputs[0], column.outputs[0]], node)]


def _with_bias(nodes: list[ir.Node], product: ir.Node) -> list[ir.Node]:
    """Add the bias of a `Gemm`."""
    bias = product.inputs[2] if product.op_type == "Gemm" and len(product.inputs) > 2 else None
    return nodes if bias is None else [*nodes, node_like("Add", [nodes[-1].outputs[0], bias], product)]


def _name(nodes: list[ir.Node], stem: str) -> None:
    """Name the outputs of new nodes: without a name, they'd get one that is unique in the body of a loop alone."""
    for number, node in enumerate(nodes):
        for position, output in enumerate(node.outputs):
            output.name = f"{stem}_{node.op_type}_{number}_{position}"
