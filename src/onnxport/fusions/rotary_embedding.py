"""Fuse rotary position embeddings.

    x ─┬─ Mul(cos) ───────────────────────────────┐
       ├─ Slice(…, half:) ─ Neg ─┐                Add   →   RotaryEmbedding(x, cos[…, :half], sin[…, :half])
       └─ Slice(…, :half) ───── Concat ─ Mul(sin) ┘

`cos` and `sin` are computed once from `position_ids`, and both of their halves are equal: only one is computed. If only
the first part of each head is rotated (Phi, GPT-NeoX), `x` is the whole head.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxport.fusions._matching import (
    add_constant,
    add_node,
    constant,
    integers,
    operand_orders,
    producer,
    rank,
    replace,
    same_axis,
    scalar,
    size,
)


class RotaryEmbeddingPass(ir.passes.InPlacePass):
    """Replace rotations of queries and keys [batch, heads, sequence, head_size] with `RotaryEmbedding`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Fuse in place."""
        halves = _Halves(model.graph)
        modified = False
        for node in [node for node in model.graph if node.op_type == "Add" and node.domain == ""]:
            modified = _fuse(node, halves) or modified
        return ir.passes.PassResult(model, modified=modified)


def _fuse(node: ir.Node, halves: _Halves) -> bool:
    for direct, rotated in operand_orders(node):
        found = _rotation(direct, rotated)
        if found is None:
            continue
        x, cos, sin = found
        caches = [halves.of(value) for value in (cos, sin)]
        if None in caches or not same_axis(cos, x, 0):
            return False
        fused = add_node(node, "RotaryEmbedding", [x, *caches])
        replace(node.outputs[0], fused.outputs[0])
        _extend_to_head(fused)
        return True
    return False


def _rotation(direct: ir.Value, rotated: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """Return x, cos and sin [batch, sequence, size] of `x * cos + rotate_half(x) * sin`."""
    plain, turned = producer(direct, "Mul"), producer(rotated, "Mul")
    if plain is None or turned is None:
        return None
    for x, cos in operand_orders(plain):
        for half_turned, sin in operand_orders(turned):
            if _rotated_half(half_turned) is x and rank(x) == 4:
                factors = [_per_position(value) for value in (cos, sin)]
                if factors[0] is not None and factors[1] is not None:
                    return x, factors[0], factors[1]
    return None


def _rotated_half(value: ir.Value) -> ir.Value | None:
    """Return x of `Concat(-x[half:], x[:half])`."""
    concat = producer(value, "Concat")
    if concat is None or len(concat.inputs) != 2 or concat.attributes.get_int("axis") not in (-1, 3):
        return None
    negated = producer(concat.inputs[0], "Neg")
    upper = sliced(negated.inputs[0]) if negated is not None else None
    lower = sliced(concat.inputs[1])
    if upper is None or lower is None or upper[0] is not lower[0]:
        return None
    x, width = upper[0], size(upper[0], -1)
    if width is None or width % 2 or lower[1:] != (0, width // 2) or upper[1:] != (width // 2, width):
        return None
    return x


def sliced(value: ir.Value | None) -> tuple[ir.Value, int, int] | None:
    """Return x, start and end of `x[..., start:end]`."""
    node = producer(value, "Slice")
    if node is None or len(node.inputs) < 4 or node.inputs[0] is None:
        return None
    x, (starts, ends, axes) = node.inputs[0], (integers(bound) for bound in node.inputs[1:4])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1]
    width, last = size(x, -1), (rank(x) or 0) - 1
    if width is None or axes not in ([-1], [last]) or steps != [1] or starts is None or ends is None:
        return None
    return x, starts[0], min(ends[0], width)


def _per_position(value: ir.Value) -> ir.Value | None:
    """Return the factors [batch, sequence, size] that are broadcast over the heads."""
    node = producer(value, "Unsqueeze")
    return node.inputs[0] if node is not None and integers(node.inputs[1]) == [1] and rank(value) == 4 else None


class _Halves:
    """Compute the first half of values whose two halves are equal, each once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._halves: dict[ir.Value, ir.Value | None] = {}

    def of(self, value: ir.Value) -> ir.Value | None:
        """Return the first half on the last axis; None if it may differ from the second."""
        if value not in self._halves:
            self._halves[value] = self._constant(value) if constant(value) is not None else self._computed(value)
        return self._halves[value]

    def _constant(self, value: ir.Value) -> ir.Value | None:
        elements = constant(value)
        assert elements is not None
        half = elements.shape[-1] // 2 if elements.ndim else 0
        if not half or (elements[..., :half] != elements[..., half:]).any():
            return None
        return add_constant(self._graph, f"{value.name}_half", elements[..., :half])

    def _computed(self, value: ir.Value) -> ir.Value | None:
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type == "Concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]:
            return node.inputs[0] if node.attributes.get_int("axis") in (-1, (rank(value) or 0) - 1) else None
        if node.op_type in ("Cos", "Sin", "Cast"):
            sources = [self.of(source) for source in node.inputs if source is not None]
        elif node.op_type == "Mul" and scalar(node.inputs[1]) is not None and node.inputs[0] is not None:
            sources = [self.of(node.inputs[0]), node.inputs[1]]
        else:
            return None
        if None in sources:
            return None
        half = add_node(node, node.op_type, sources, node.attributes)
        output = half.outputs[0]
        output.type = value.type
        if value.shape is not None:
            output.shape = ir.Shape([*value.shape.dims[:-1], (size(value, -1) or 0) // 2])
        return output


def _extend_to_head(fused: ir.Node) -> None:
    """Rotate whole heads, if a rotated first part is concatenated with an unchanged rest."""
    users = [use.node for use in fused.outputs[0].uses()]
    part = sliced(fused.inputs[0])
    if len(users) != 1 or users[0].op_type != "Concat" or part is None or len(users[0].inputs) != 2:
        return
    head, start, end = part
    rest = sliced(users[0].inputs[1])
    if users[0].inputs[0] is not fused.outputs[0] or start != 0 or rest != (head, end, size(head, -1)):
        return
    attributes = {"rotary_embedding_dim": end}
    whole = add_node(fused, "RotaryEmbedding", [head, *fused.inputs[1:]], attributes)
    replace(users[0].outputs[0], whole.outputs[0])
