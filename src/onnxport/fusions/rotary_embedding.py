"""Fuse rotary position embeddings.

    x ─┬─ Mul(cos) ───────────────────────────────┐
       ├─ Slice(…, half:) ─ Neg ─┐                Add   →   RotaryEmbedding(x, cos[…, :half], sin[…, :half])
       └─ Slice(…, :half) ───── Concat ─ Mul(sin) ┘

`cos` and `sin` are computed once from the positions, and each of their values twice: only one is computed. Interleaved
embeddings (Cohere, GPT-J) rotate neighbours instead of halves. If only the first part of each head is rotated (Phi,
GPT-NeoX), `x` is the whole head.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from onnxport.fusions._matching import (
    Attributes,
    add_constant,
    add_node,
    constant,
    int64,
    integers,
    operand_orders,
    producer,
    rank,
    replace,
    same_axis,
    same_shape,
    scalar,
    size,
)


class RotaryEmbeddingPass(ir.passes.InPlacePass):
    """Replace rotations of queries and keys with `RotaryEmbedding`.

    Queries and keys are [batch, heads, sequence, head_size] or [batch, sequence, heads, head_size].
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        rotations = _Rotations(model.graph)
        modified = False
        for node in [node for node in model.graph if node.op_type in ("Add", "Concat") and node.domain == ""]:
            modified = rotations.fuse(node) or modified
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True)
class _Rotation:
    """What is rotated.

    Attributes:
        x: the queries or keys.
        cos: factors that are broadcast over the heads.
        sin: likewise.
        interleaved: whether neighbours are rotated, instead of halves.
        compact: whether cos and sin have each value once.
    """

    x: ir.Value
    cos: ir.Value
    sin: ir.Value
    interleaved: bool = False
    compact: bool = False


class _Rotations:
    """Fuse the rotations of a graph, whose factors are computed once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._once: dict[tuple[ir.Value, bool], ir.Value | None] = {}
        self._per_token: dict[ir.Value, ir.Value] = {}

    def fuse(self, node: ir.Node) -> bool:
        """Fuse a rotation that ends at a node, if one does."""
        found = _of_sum(node) if node.op_type == "Add" else _of_halves(node)
        if found is None:
            return False
        caches = [
            factor if found.compact else self._computed_once(factor, interleaved=found.interleaved)
            for factor in (found.cos, found.sin)
        ]
        cos, sin = caches
        heads_first = None if cos is None or sin is None else _has_heads_first(found.x, cos, sin)
        if cos is None or sin is None or heads_first is None:
            return False
        last, x, width = _whole_head(node, found.x)
        attributes: Attributes = {"interleaved": int(found.interleaved), "rotary_embedding_dim": width}
        inputs = [self._of_tokens(cache, x, last, heads_first=heads_first) for cache in (cos, sin)]
        replace(last.outputs[0], self._rotate(last, x, inputs, attributes, heads_first=heads_first))
        return True

    def _rotate(
        self, last: ir.Node, x: ir.Value, caches: list[ir.Value], attributes: Attributes, *, heads_first: bool
    ) -> ir.Value:
        if heads_first:
            return add_node(last, "RotaryEmbedding", [x, *caches], attributes).outputs[0]
        heads, width = size(x, 2) or 0, size(x, 3) or 0
        flat = self._reshape(x, last, 0, 0, heads * width)
        if x.shape is not None:
            flat.shape, flat.type = ir.Shape([*x.shape.dims[:2], heads * width]), x.type
        rotated = add_node(last, "RotaryEmbedding", [flat, *caches], {**attributes, "num_heads": heads}).outputs[0]
        rotated.shape, rotated.type = flat.shape, flat.type
        return self._reshape(rotated, last, 0, 0, heads, width)

    def _reshape(self, value: ir.Value, before: ir.Node, *sizes: int) -> ir.Value:
        name = "_".join(["heads", *map(str, sizes)])
        return add_node(before, "Reshape", [value, add_constant(self._graph, name, int64(sizes))]).outputs[0]

    def _of_tokens(self, cache: ir.Value, x: ir.Value, before: ir.Node, *, heads_first: bool) -> ir.Value:
        """Return factors [batch, sequence, size] for each token, of those that are broadcast over heads."""
        if cache not in self._per_token:
            axis = 1 if heads_first else 2
            unsqueeze = producer(cache, "Unsqueeze")
            if unsqueeze is not None and integers(unsqueeze.inputs[1]) == [axis] and unsqueeze.inputs[0] is not None:
                tokens = unsqueeze.inputs[0]
            else:
                axes = add_constant(self._graph, f"axis_{axis}", int64([axis]))
                tokens = add_node(before, "Squeeze", [cache, axes]).outputs[0]
            if size(cache, 0) == 1 and size(x, 0) != 1:  # all samples of a batch share them
                ones = add_constant(self._graph, "ones_of_factors", int64([1, 1]))
                batch = add_node(before, "Shape", [x], {"start": 0, "end": 1}).outputs[0]
                shape = add_node(before, "Concat", [batch, ones], {"axis": 0}).outputs[0]
                tokens = add_node(before, "Expand", [tokens, shape]).outputs[0]
            if tokens.shape is None and cache.shape is not None and x.shape is not None:
                sequence = cache.shape[2 if heads_first else 1]
                tokens.shape, tokens.type = ir.Shape([x.shape[0], sequence, cache.shape[3]]), cache.type
            self._per_token[cache] = tokens
        return self._per_token[cache]

    def _computed_once(self, value: ir.Value, *, interleaved: bool) -> ir.Value | None:
        """Return factors with each value once; None if the values may differ."""
        key = (value, interleaved)
        if key not in self._once:
            self._once[key] = self._compute_once(value, interleaved=interleaved)
        return self._once[key]

    def _compute_once(self, value: ir.Value, *, interleaved: bool) -> ir.Value | None:
        node = value.producer()
        if node is None or node.domain != "" or constant(value) is not None:
            return None
        base = _repeated_neighbours(value) if interleaved else _repeated_halves(value)
        if base is not None or node.op_type not in ("Cos", "Sin", "Cast", "Unsqueeze", "Mul"):
            return base
        first, *others = node.inputs
        if first is None or (node.op_type == "Mul" and scalar(others[0]) is None):
            return None
        if node.op_type == "Unsqueeze" and integers(others[0]) not in ([1], [2]):
            return None
        source = self._computed_once(first, interleaved=interleaved)
        if source is None:
            return None
        once = _add_after(value, node.op_type, [source, *others], node.attributes)
        once.type = value.type
        if value.shape is not None:
            once.shape = ir.Shape([*value.shape.dims[:-1], (size(value, -1) or 0) // 2])
        return once


def _add_after(
    value: ir.Value, op_type: str, inputs: list[ir.Value | None], attributes: Attributes | None = None
) -> ir.Value:
    """Return the output of a node that is inserted after the one that computes a value."""
    source = value.producer()
    assert source is not None and isinstance(source.graph, ir.Graph)
    node = add_node(source, op_type, inputs, attributes)
    source.graph.remove(node)
    source.graph.insert_after(source, node)
    return node.outputs[0]


def _of_sum(node: ir.Node) -> _Rotation | None:
    """Match `x * cos + turned(x) * sin`."""
    for direct, indirect in operand_orders(node):
        plain, turned = producer(direct, "Mul"), producer(indirect, "Mul")
        if plain is None or turned is None:
            return None
        for x, cos in operand_orders(plain):
            for value, sin in operand_orders(turned):
                for interleaved, source in ((False, _turned_halves(value)), (True, _turned_neighbours(value))):
                    if source is x and rank(x) == 4:
                        return _Rotation(x, cos, sin, interleaved)
    return None


def _of_halves(node: ir.Node) -> _Rotation | None:
    """Match `Concat(a * cos - b * sin, b * cos + a * sin)`, where a and b are the halves of x."""
    if len(node.inputs) != 2 or node.attributes.get_int("axis", 0) not in (-1, 3):
        return None
    difference, total = producer(node.inputs[0], "Sub"), producer(node.inputs[1], "Add")
    if difference is None or total is None:
        return None
    (a, cos), (b, sin) = (_operands(value) for value in difference.inputs)
    halves = _halves_of(a, b)
    if halves is None or cos is None or sin is None:
        return None
    products = [set(map(id, _operands(value))) for value in total.inputs]
    expected = [{id(b), id(cos)}, {id(a), id(sin)}]
    return _Rotation(halves, cos, sin, compact=True) if products in (expected, expected[::-1]) else None


def _operands(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    product = producer(value, "Mul")
    return (product.inputs[0], product.inputs[1]) if product is not None else (None, None)


def _halves_of(a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    """Return the value of which two values are the first and the second half of the last axis."""
    split, lower, upper = producer(a, "Split"), sliced(a), sliced(b)
    if split is not None:
        is_halved = len(split.outputs) == 2 and split.outputs[1] is b and size(a, -1) == size(b, -1)
        axis = split.attributes.get_int("axis", 0)
        return split.inputs[0] if is_halved and split.outputs[0] is a and axis in (-1, 3) else None
    if lower is None or upper is None or lower[0] is not upper[0]:
        return None
    width = size(lower[0], -1) or 0
    return lower[0] if lower[1:] == (0, width // 2, 1) and upper[1:] == (width // 2, width, 1) else None


def _turned_halves(value: ir.Value) -> ir.Value | None:
    """Return x of `Concat(-x[half:], x[:half])`."""
    concat = producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or concat.attributes.get_int("axis", 0) not in (-1, 3):
        return None
    negated = producer(concat.inputs[0], "Neg")
    return _halves_of(concat.inputs[1], negated.inputs[0]) if negated is not None else None


def _turned_neighbours(value: ir.Value) -> ir.Value | None:
    """Return x of `Reshape(Concat(Unsqueeze(-x[1::2]), Unsqueeze(x[::2])))`."""
    pairs = _pairs(value)
    negated = producer(pairs[0], "Neg") if pairs is not None else None
    if pairs is None or negated is None:
        return None
    odd, even = sliced(negated.inputs[0]), sliced(pairs[1])
    if odd is None or even is None or odd[0] is not even[0] or (odd[1], even[1]) != (1, 0):
        return None
    x, width = even[0], size(even[0], -1)
    return x if odd[2:] == even[2:] == (width, 2) else None


def _pairs(value: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Return a and b of `Reshape(Concat(Unsqueeze(a), Unsqueeze(b)))`, whose values are a0 b0 a1 b1 …."""
    reshape = producer(value, "Reshape")
    concat = producer(reshape.inputs[0], "Concat") if reshape is not None else None
    if value is None or concat is None or len(concat.inputs) != 2:
        return None
    columns = [producer(column, "Unsqueeze") for column in concat.inputs]
    values = [column.inputs[0] for column in columns if column is not None and integers(column.inputs[1]) == [-1]]
    axes = rank(value) or 0
    if len(values) != 2 or concat.attributes.get_int("axis", 0) not in (-1, axes):
        return None
    a, b = values
    if a is None or b is None or rank(a) != axes or (size(value, -1) or 0) != 2 * (size(a, -1) or 0):
        return None
    return a, b


def _repeated_halves(value: ir.Value) -> ir.Value | None:
    """Return x of `Concat(x, x)`."""
    node = producer(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return None
    return node.inputs[0] if node.attributes.get_int("axis", 0) in (-1, (rank(value) or 0) - 1) else None


def _repeated_neighbours(value: ir.Value) -> ir.Value | None:
    """Return x of a value with its elements x0 x0 x1 x1 …."""
    pairs = _pairs(value)
    if pairs is not None:
        return pairs[0] if pairs[0] is pairs[1] else None
    reshape = producer(value, "Reshape")
    tile = producer(reshape.inputs[0], "Tile") if reshape is not None else None
    column = producer(tile.inputs[0], "Unsqueeze") if tile is not None else None
    if tile is None or column is None:
        return None
    x, axes, times = column.inputs[0], rank(column.inputs[0]), integers(tile.inputs[1])
    if x is None or axes is None or axes != rank(value) or integers(column.inputs[1]) not in ([-1], [axes]):
        return None
    return x if times == [1] * axes + [2] and size(value, -1) == 2 * (size(x, -1) or 0) else None


def sliced(value: ir.Value | None) -> tuple[ir.Value, int, int, int] | None:
    """Return x, start, end and step of `x[..., start:end:step]`."""
    node = producer(value, "Slice")
    if node is None or len(node.inputs) < 4 or node.inputs[0] is None:
        return None
    x, (starts, ends, axes) = node.inputs[0], (integers(bound) for bound in node.inputs[1:4])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    width, last = size(x, -1), (rank(x) or 0) - 1
    if width is None or axes not in ([-1], [last]) or not starts or not ends or not steps:
        return None
    return x, starts[0], min(ends[0], width), steps[0]


def _has_heads_first(x: ir.Value, cos: ir.Value, sin: ir.Value) -> bool | None:
    """Return whether x is [batch, heads, sequence, head_size], or [batch, sequence, heads, …]; None for neither."""
    if not same_shape(cos, sin) or rank(cos) != 4 or (size(x, -1) or 0) != 2 * (size(cos, -1) or 0):
        return None
    if not same_axis(cos, x, 0) and size(cos, 0) != 1:
        return None
    if size(cos, 1) == 1 and same_axis(cos, x, 2) and size(x, 1) is not None:
        return True
    return False if size(cos, 2) == 1 and same_axis(cos, x, 1) and size(x, 2) is not None else None


def _whole_head(node: ir.Node, x: ir.Value) -> tuple[ir.Node, ir.Value, int]:
    """Return the last node of a rotation, what it rotates, and the size of the rotated part; 0 for all.

    The rest of a head whose first part is rotated is concatenated with it.
    """
    users = [use.node for use in node.outputs[0].uses()]
    part = sliced(x)
    if len(users) != 1 or users[0].op_type != "Concat" or part is None or len(users[0].inputs) != 2:
        return node, x, 0
    head, start, end, step = part
    rest = sliced(users[0].inputs[1])
    if users[0].inputs[0] is not node.outputs[0] or (start, step) != (0, 1) or rest != (head, end, size(head, -1), 1):
        return node, x, 0
    return users[0], head, end
