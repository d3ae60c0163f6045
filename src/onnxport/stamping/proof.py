"""Prove that two traced layers are alike: node by node, attribute by attribute, input by input.

The later layer is the template. Its nodes are those that depend on a layer's parameters or on its own graph inputs;
whatever else lies in its region is computed once for all layers and stays where it is. The earlier layer must contain a
counterpart of each template node, in order, and may contain more only where that is computed once, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.stamping.layout import Layers, Region, StampError, cache_number, with_cache_number

if TYPE_CHECKING:
    import onnx_ir as ir

Chained = tuple["ir.Value", "ir.Value"]
"""The value that the earlier layer gets from before it, and the one that the later layer gets in its place."""


@dataclass
class Proof:
    """Collect what corresponds in two layers.

    Attributes:
        nodes: earlier and later node.
        chained: what the one gets from the layer before it and the other from the one before that.
    """

    nodes: list[tuple[ir.Node, ir.Node]] = field(default_factory=list)
    chained: dict[ir.Value, ir.Value] = field(default_factory=dict)


class Dependence:
    """Know which values depend on a layer: on its parameters, its graph inputs, or a value that does.

    Args:
        nodes: all nodes of the graph, in order.
        layers: which parameters are a layer's.
        regions: the layers' regions; only there does a node that reads a per-layer graph input depend on it.
    """

    def __init__(self, nodes: Sequence[ir.Node], layers: Layers, regions: Sequence[Region]) -> None:
        self._layers = layers
        inside = {node for region in regions for node in region.nodes}
        self._values: set[ir.Value] = set()
        for node in nodes:
            if any(self._is_seed(value, node in inside) or value in self._values for value in _inputs(node)):
                self._values.update(node.outputs)

    def __contains__(self, node: ir.Node) -> bool:
        return node.outputs[0] in self._values

    def _is_seed(self, value: ir.Value, inside: bool) -> bool:
        if value.is_initializer():
            return self._layers.number_of_parameter(value) is not None
        return inside and value.is_graph_input() and (cache_number(str(value.name)) or 0) > 0


def _inputs(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def prove(layers: Layers, regions: Sequence[Region], pair: tuple[int, int], dependence: Dependence) -> Proof:
    """Match two layers of one kind.

    Args:
        layers: names of parameters.
        regions: all regions, in order.
        pair: numbers of the earlier and the later layer.
        dependence: which nodes are a layer's own.

    Raises:
        StampError: they differ; it names the first nodes that do.
    """
    earlier, later = (regions[number] for number in pair)
    template = own_nodes(regions, pair[1], dependence)
    matcher = _Matcher(layers, pair, dependence)
    rest = iter(earlier.nodes)
    for node in template:
        for candidate in rest:
            if matcher.match(candidate, node):
                break
            if candidate in dependence:
                raise StampError(
                    f"{layers.paths[0]}: {_say(candidate)} of layer {pair[0]} isn't {_say(node)} of {pair[1]}"
                )
        else:
            raise StampError(f"{layers.paths[0]}: layer {pair[1]} has {_say(node)}, which layer {pair[0]} hasn't")
    extra = next((node for node in rest if node in dependence), None)
    if extra is not None and later is not regions[-1]:
        raise StampError(f"{layers.paths[0]}: layer {pair[0]} has {_say(extra)}, which layer {pair[1]} hasn't")
    return matcher.proof


def own_nodes(regions: Sequence[Region], number: int, dependence: Dependence) -> list[ir.Node]:
    """Return the nodes of a layer that depend on it.

    The last region holds the end of the graph, too: as much of it is the layer's as the one before has after its own
    module's nodes.
    """
    region = regions[number]
    nodes = [node for node in region.nodes[: region.own] if node in dependence]
    after = [node for node in region.nodes[region.own :] if node in dependence]
    if number == len(regions) - 1:
        before = regions[number - 1]
        after = after[: sum(node in dependence for node in before.nodes[before.own :])]
    return nodes + after


def _say(node: ir.Node) -> str:
    return f"{node.op_type} ({node.outputs[0].name})"


class _Matcher:
    """Match nodes of two layers in order, remembering what corresponds."""

    def __init__(self, layers: Layers, pair: tuple[int, int], dependence: Dependence) -> None:
        self.proof = Proof()
        self._dependence = dependence
        self._layers = layers
        self._earlier, self._later = pair
        self._values: dict[ir.Value, ir.Value] = {}

    def match(self, earlier: ir.Node, later: ir.Node) -> bool:
        """Take two nodes for counterparts, if they are."""
        if not same_operation(earlier, later):
            return False
        chained: dict[ir.Value, ir.Value] = {}
        for old, new in zip(earlier.inputs, later.inputs, strict=True):
            if not self._corresponds(old, new, chained):
                return False
        self.proof.chained.update(chained)
        self.proof.nodes.append((earlier, later))
        self._values.update(zip(later.outputs, earlier.outputs, strict=True))
        return True

    def _corresponds(self, old: ir.Value | None, new: ir.Value | None, chained: dict[ir.Value, ir.Value]) -> bool:
        if old is None or new is None or new in self._values:
            return self._values.get(new, None) is old if new is not None else old is None
        if old is new:
            return True
        if old.is_initializer() or new.is_initializer():
            return self._same_parameter(old, new)
        if new.is_graph_input():
            return old.is_graph_input() and _same_input(old, new)
        known = {**self.proof.chained, **chained}
        if new in known or old in known.values():
            return known.get(new) is old
        producer = new.producer()
        if (
            producer is None or producer not in self._dependence
        ):  # not handed on by a layer: a value of its own, such as another mask
            return False
        if old.shape != new.shape:  # sizes are computed from the graph's inputs: after more layers, they are others
            return False
        chained[new] = old
        return True

    def _same_parameter(self, old: ir.Value, new: ir.Value) -> bool:
        layers = self._layers
        return (
            layers.number_of_parameter(old) == self._earlier
            and layers.number_of_parameter(new) == self._later
            and layers.renumbered(str(old.name), self._later) == new.name
            and old.dtype == new.dtype
            and old.shape == new.shape
        )


def _same_input(old: ir.Value, new: ir.Value) -> bool:
    number = cache_number(str(new.name))
    return number is not None and with_cache_number(str(old.name), number) == new.name and old.shape == new.shape


def same_operation(one: ir.Node, other: ir.Node) -> bool:
    """Return whether two nodes do the same to their inputs: operator, attributes, types of the outputs."""
    import onnx_ir as ir

    if one.op_identifier() != other.op_identifier() or len(one.inputs) != len(other.inputs):
        return False
    if len(one.outputs) != len(other.outputs) or one.attributes.keys() != other.attributes.keys():
        return False
    for name, value in one.attributes.items():
        if value.type is ir.AttributeType.GRAPHS or not same_attribute(value, other.attributes[name]):
            return False
    return all(a.dtype == b.dtype for a, b in zip(one.outputs, other.outputs, strict=True))


def same_attribute(one: ir.Attr, other: ir.Attr) -> bool:
    """Compare two attributes, tensors by their bytes, graphs node by node."""
    import onnx_ir as ir

    if one.type == other.type and one.type is ir.AttributeType.GRAPH:
        return _same_graph(one.as_graph(), other.as_graph())
    if one.type != other.type or one.type is not ir.AttributeType.TENSOR:
        return bool(one.type == other.type and one.value == other.value)
    a, b = one.as_tensor(), other.as_tensor()
    return a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape) and a.tobytes() == b.tobytes()


def _same_graph(one: ir.Graph, other: ir.Graph) -> bool:
    """Compare the bodies of two nodes; what they read from outside must be the same constant."""
    pairs: dict[ir.Value | None, ir.Value] = dict(zip(one.inputs, other.inputs, strict=False))

    def same(a: ir.Value | None, b: ir.Value | None) -> bool:
        return pairs[a] is b if a in pairs else a is b and (a is None or a.is_initializer())

    if len(one.inputs) != len(other.inputs) or len(one) != len(other) or one.initializers or other.initializers:
        return False
    for a, b in zip(one, other, strict=True):
        if not same_operation(a, b) or not all(map(same, a.inputs, b.inputs)):
            return False
        pairs.update(zip(a.outputs, b.outputs, strict=True))
    return [pairs.get(value) for value in one.outputs] == list(other.outputs)
