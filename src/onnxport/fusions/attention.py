"""Fuse the products and the softmax of attention.

    q ───────────── Mul(√scale) ─┐
    k ─ Transpose ─ Mul(√scale) ─ MatMul ─ Add(mask) ─ Softmax ─┐
    v ───────────────────────────────────────────────────────── MatMul   →   Attention(q, k, v, mask)

The keys and values of grouped-query attention are repeated for the query heads (`Unsqueeze ─ Expand ─ Reshape`) before
the products; `Attention` takes them as they are. It also computes the soft cap of scores (`Div ─ Tanh ─ Mul`).
"""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import replace as replace_fields

import onnx_ir as ir

from onnxport.fusions._matching import (
    add_constant,
    add_node,
    int64,
    integers,
    is_cast_to_float,
    operand_orders,
    permutation,
    producer,
    rank,
    replace,
    same_axis,
    scaled,
    size,
    sole_user,
    without_cast,
)


class AttentionPass(ir.passes.InPlacePass):
    """Replace attention over queries, keys and values [batch, heads, sequence, head_size] with `Attention`.

    Args:
        plain: whether only attention is replaced that has no soft cap, and values of the size of keys.
    """

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self._plain = plain

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        masks = _Masks(model.graph)
        modified = False
        for node in [node for node in model.graph if node.op_type == "Softmax" and node.domain == ""]:
            modified = _fuse(node, masks, plain=self._plain) or modified
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True)
class _Scores:
    """What a softmax is computed of.

    Attributes:
        query: the queries.
        key: the keys, transposed.
        scale: factor of their product.
        softcap: limit of the scores; 0 for none.
        masks: what is added to the scores.
    """

    query: ir.Value
    key: ir.Value
    scale: float
    softcap: float = 0.0
    masks: tuple[ir.Value, ...] = ()


def _fuse(softmax: ir.Node, masks: _Masks, *, plain: bool) -> bool:
    product = sole_user(softmax.outputs[0])
    if product is not None and product.op_type == "Cast" and is_cast_to_float(product):
        product = sole_user(product.outputs[0])
    if product is None or product.op_type != "MatMul" or product.inputs[1] is softmax.outputs[0]:
        return False
    scores = masked_scores(without_cast(softmax.inputs[0]))
    if softmax.attributes.get_int("axis", -1) not in (-1, 3) or scores is None or (scores.softcap and plain):
        return False
    query, (key, factor) = scores.query, untransposed(scores.key)
    value = product.inputs[1]
    if key is None or value is None or not all(_has_heads(states) for states in (query, key, value)):
        return False
    if len({size(states, 0) == 1 for states in (query, key, value) if states is not None}) > 1:
        return False  # `Attention` doesn't broadcast the batch, such as that of learned queries
    if query.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16) or not _same_type(query, key, value, *scores.masks):
        return False
    if plain and size(key, 3) != size(value, 3):
        return False
    shared_key, shared_value = unrepeated(key), unrepeated(value)
    if size(shared_key, 1) == size(shared_value, 1):
        key, value = shared_key, shared_value
    if size(query, 1) % size(key, 1) or size(key, 1) != size(value, 1):  # type: ignore[operator]
        return False
    mask = masks.of(scores.masks, query, before=product)
    if scores.masks and mask is None:
        return False
    attributes = {"scale": scores.scale * factor}
    if scores.softcap:
        attributes["softcap"] = scores.softcap
    inputs = [query, key, value] if mask is None else [query, key, value, mask]
    replace(product.outputs[0], add_node(product, "Attention", inputs, attributes).outputs[0])
    return True


def _has_heads(states: ir.Value) -> bool:
    return rank(states) == 4 and size(states, 1) is not None and size(states, 3) is not None


def _same_type(first: ir.Value, *others: ir.Value | None) -> bool:
    return all(other is None or other.dtype == first.dtype for other in others)


def masked_scores(value: ir.Value | None, depth: int = 2) -> _Scores | None:
    """Match scores to which a mask, a bias of positions, or both are added."""
    added = producer(value, "Add") if depth else None
    if added is None:
        return _scores(value)
    for product, mask in operand_orders(added):
        scores = masked_scores(product, depth - 1)
        if scores is not None:
            return replace_fields(scores, masks=(*scores.masks, mask))
    return None


def _scores(value: ir.Value | None) -> _Scores | None:
    """Match `scale * q @ k`, or its soft cap `c * tanh(scale / c * q @ k)`."""
    value, scale = scaled(value)
    softcap = 0.0
    if (tanh := producer(value, "Tanh")) is not None:
        softcap = scale
        value, scale = scaled(tanh.inputs[0])
        scale *= softcap
    product = producer(value, "MatMul")
    if product is None:
        return None
    (query, of_query), (key, of_key) = scaled(product.inputs[0]), scaled(product.inputs[1])
    if query is None or key is None or rank(query) != 4:
        return None
    return _Scores(query, key, scale * of_query * of_key, softcap)


def untransposed(value: ir.Value) -> tuple[ir.Value | None, float]:
    """Return x and a factor of a value that is the factor times x with its last two axes exchanged."""
    transpose = producer(value, "Transpose")
    if transpose is not None and permutation(transpose) == [0, 1, 3, 2]:
        return scaled(transpose.inputs[0])
    if transpose is not None and permutation(transpose) == [0, 2, 3, 1]:  # of [batch, sequence, heads, head_size]
        x = transpose.inputs[0]
        heads_first = add_node(transpose, "Transpose", [x], {"perm": [0, 2, 1, 3]}).outputs[0]
        if x is not None and x.shape is not None:
            heads_first.type = x.type
            heads_first.shape = ir.Shape([x.shape[axis] for axis in (0, 2, 1, 3)])
        return heads_first, 1.0
    reshape = producer(value, "Reshape")
    transpose = producer(reshape.inputs[0], "Transpose") if reshape is not None else None
    flat = producer(transpose.inputs[0], "Reshape") if transpose is not None else None
    if reshape is None or transpose is None or flat is None or permutation(transpose) != [0, 2, 1]:
        return None, 1.0
    x = flat.inputs[0]
    if x is None or _last_sizes(flat.inputs[1], x) != (-2, -1) or _last_sizes(reshape.inputs[1], x) != (-1, -2):
        return None, 1.0
    return scaled(x)


def _last_sizes(shape: ir.Value | None, x: ir.Value) -> tuple[int, int] | None:
    """Return of which of x's last axes the last two sizes of a shape are."""
    sizes = integers(shape)
    if sizes is not None:
        last = (size(x, -2), size(x, -1))
        return {last: (-2, -1), last[::-1]: (-1, -2)}.get((sizes[-2], sizes[-1])) if None not in last else None
    concat = producer(shape, "Concat")
    axes = [_axis_of(part, x) for part in concat.inputs[-2:]] if concat is not None else []
    return (axes[0], axes[1]) if len(axes) == 2 and axes[0] is not None and axes[1] is not None else None


def _axis_of(value: ir.Value | None, x: ir.Value) -> int | None:
    """Return -1 or -2 for `Shape(x)[-1:]` and `Shape(x)[-2:-1]`."""
    node = producer(value, "Slice")
    shape = producer(node.inputs[0], "Shape") if node is not None else None
    if node is None or shape is None or shape.inputs[0] is not x or shape.attributes.get_int("start", 0) != 0:
        return None
    start, end = integers(node.inputs[1]), integers(node.inputs[2])
    if start == [-2] and end == [-1]:
        return -2
    return -1 if start == [-1] and end is not None and end[0] >= 4 else None


def unrepeated(states: ir.Value) -> ir.Value:
    """Return keys or values before they are repeated for the query heads."""
    reshape = producer(states, "Reshape")
    expand = producer(reshape.inputs[0], "Expand") if reshape is not None else None
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    shared = unsqueeze.inputs[0] if unsqueeze is not None and integers(unsqueeze.inputs[1]) == [2] else None
    if shared is None or not _has_heads(shared):
        return states
    is_repeated = same_axis(shared, states, 0) and same_axis(shared, states, 2) and same_axis(shared, states, 3)
    return shared if is_repeated else states


class _Masks:
    """Make masks, each once: sums of biases, with the length of the queries, which `Attention` doesn't broadcast."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._sums: dict[tuple[ir.Value, ...], ir.Value] = {}
        self._expanded: dict[ir.Value, ir.Value] = {}

    def of(self, masks: tuple[ir.Value, ...], query: ir.Value, before: ir.Node) -> ir.Value | None:
        """Return the sum of masks, for queries; None if there are none, or their shapes are unknown."""
        if not masks or any(rank(mask) not in (2, 3, 4) for mask in masks):
            return None
        if len(masks) > 1 and masks not in self._sums:
            total = add_node(before, "Add", masks).outputs[0]
            shape = _broadcast(*masks)
            if shape is None:
                return None
            total.type, total.shape = masks[0].type, shape
            self._sums[masks] = total
        mask = self._sums.get(masks, masks[0])
        if size(mask, -2) != 1 or size(query, 2) == 1:
            return mask
        if mask not in self._expanded:
            axes = rank(mask) or 0
            length = add_node(before, "Shape", [query], {"start": 2, "end": 3})
            ones = add_constant(self._graph, "ones_of_mask", int64([1]))
            shape_of_mask = add_node(before, "Concat", [ones] * (axes - 2) + [length.outputs[0], ones], {"axis": 0})
            expanded = add_node(before, "Expand", [mask, shape_of_mask.outputs[0]]).outputs[0]
            expanded.type = mask.type
            self._expanded[mask] = expanded
        return self._expanded[mask]


def _broadcast(one: ir.Value, other: ir.Value) -> ir.Shape | None:
    """Return the shape of the sum of two masks."""
    if one.shape is None or other.shape is None:
        return None
    axes = max(len(one.shape), len(other.shape))
    first, second = ((*[1] * (axes - len(shape)), *shape.dims) for shape in (one.shape, other.shape))
    return ir.Shape([b if a == 1 else a for a, b in zip(first, second, strict=True)])
