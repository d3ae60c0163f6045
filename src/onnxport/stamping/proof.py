"""Prove that two traced layers are isomorphic: node by node, attribute by attribute, input by input.

The later layer is the template. Its nodes are those that depend on the layer's parameters or graph inputs; the other
nodes of its region are computed once for all layers and aren't repeated. The earlier layer must have a counterpart of
each template node, in order, and further nodes only if they are computed once too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxport.stamping.layout import Layers, Region, StampError, cache_index, with_cache_index

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass
class Proof:
    """The correspondence of two layers.

    Attributes:
        nodes: pairs of a node of the earlier layer and its counterpart in the later one.
        chained: value that the later layer reads from its predecessor, to the value that the earlier layer reads.
    """

    nodes: list[tuple[ir.Node, ir.Node]] = field(default_factory=list)
    chained: dict[ir.Value, ir.Value] = field(default_factory=dict)


class Dependence:
    """The nodes that depend on the parameters or the graph inputs of a layer, directly or through other nodes.

    Args:
        nodes: all nodes of the graph, in order.
        layers: the layers.
        regions: regions of the layers; reading a per-layer graph input counts as a dependence only inside them.
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
            return self._layers.layer_of_parameter(value) is not None
        return inside and value.is_graph_input() and (cache_index(str(value.name)) or 0) > 0


def _inputs(node: ir.Node) -> Iterator[ir.Value]:
    return (value for value in node.inputs if value is not None)


def prove(layers: Layers, regions: Sequence[Region], earlier: int, later: int, dependence: Dependence) -> Proof:
    """Match two layers of the same type.

    Args:
        layers: the layers.
        regions: all regions, in order.
        earlier: index of the earlier layer.
        later: index of the later layer, the template.
        dependence: nodes that depend on layers.

    Raises:
        StampError: the layers differ; the message names the first differing nodes.
    """
    template = layer_nodes(regions, later, dependence)
    matcher = _Matcher(layers, earlier, later, dependence)
    rest = iter(regions[earlier].nodes)
    for node in template:
        for candidate in rest:
            if matcher.match(candidate, node):
                break
            if candidate in dependence:
                raise StampError(
                    f"{layers.paths[0]}: {_describe(candidate)} of layer {earlier} isn't {_describe(node)} of {later}"
                )
        else:
            raise StampError(f"{layers.paths[0]}: layer {later} has {_describe(node)}, which layer {earlier} lacks")
    extra = next((node for node in rest if node in dependence), None)
    if extra is not None and later != len(regions) - 1:
        raise StampError(f"{layers.paths[0]}: layer {earlier} has {_describe(extra)}, which layer {later} lacks")
    return matcher.proof


def layer_nodes(regions: Sequence[Region], layer: int, dependence: Dependence) -> list[ir.Node]:
    """Return the nodes of a layer that depend on it.

    The last region also contains the end of the graph. After its module's nodes, the last layer is assumed to have the
    same number of nodes as the previous layer.
    """
    region = regions[layer]
    nodes = [node for node in region.nodes[: region.module_count] if node in dependence]
    following = [node for node in region.nodes[region.module_count :] if node in dependence]
    if layer == len(regions) - 1:
        previous = regions[layer - 1]
        following = following[: sum(node in dependence for node in previous.nodes[previous.module_count :])]
    return nodes + following


def _describe(node: ir.Node) -> str:
    return f"{node.op_type} ({node.outputs[0].name})"


class _Matcher:
    """Match the nodes of two layers in order, and record the correspondence."""

    def __init__(self, layers: Layers, earlier: int, later: int, dependence: Dependence) -> None:
        self.proof = Proof()
        self._dependence = dependence
        self._layers = layers
        self._earlier, self._later = earlier, later
        self._values: dict[ir.Value, ir.Value] = {}

    def match(self, earlier: ir.Node, later: ir.Node) -> bool:
        """Return whether two nodes are counterparts; if so, record them."""
        if not same_operation(earlier, later):
            return False
        chained: dict[ir.Value, ir.Value] = {}
        for old, new in zip(earlier.inputs, later.inputs, strict=True):
            if not self._is_counterpart(old, new, chained):
                return False
        self.proof.chained.update(chained)
        self.proof.nodes.append((earlier, later))
        self._values.update(zip(later.outputs, earlier.outputs, strict=True))
        return True

    def _is_counterpart(self, old: ir.Value | None, new: ir.Value | None, chained: dict[ir.Value, ir.Value]) -> bool:
        if old is None or new is None or new in self._values:
            return self._values.get(new, None) is old if new is not None else old is None
        if old is new:
            return True
        if old.is_initializer() or new.is_initializer():
            return self._same_parameter(old, new)
        if new.is_graph_input():
            return old.is_graph_input() and _same_input(old, new)
        recorded = {**self.proof.chained, **chained}
        if new in recorded or old in recorded.values():
            return recorded.get(new) is old
        producer = new.producer()
        if producer is None or producer not in self._dependence:  # not computed by a layer, such as another mask
            return False
        if old.shape != new.shape:  # the shape depends on the layer index
            return False
        chained[new] = old
        return True

    def _same_parameter(self, old: ir.Value, new: ir.Value) -> bool:
        layers = self._layers
        return (
            layers.layer_of_parameter(old) == self._earlier
            and layers.layer_of_parameter(new) == self._later
            and layers.with_layer(str(old.name), self._later) == new.name
            and old.dtype == new.dtype
            and old.shape == new.shape
        )


def _same_input(old: ir.Value, new: ir.Value) -> bool:
    index = cache_index(str(new.name))
    return index is not None and with_cache_index(str(old.name), index) == new.name and old.shape == new.shape


def same_operation(one: ir.Node, other: ir.Node) -> bool:
    """Return whether two nodes have the same operator, attributes and output dtypes."""
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
    """Return whether two attributes are equal; tensors are compared by bytes, graphs node by node."""
    import onnx_ir as ir

    if one.type == other.type and one.type is ir.AttributeType.GRAPH:
        return _same_graph(one.as_graph(), other.as_graph())
    if one.type != other.type or one.type is not ir.AttributeType.TENSOR:
        return bool(one.type == other.type and one.value == other.value)
    a, b = one.as_tensor(), other.as_tensor()
    return a.dtype == b.dtype and tuple(a.shape) == tuple(b.shape) and a.tobytes() == b.tobytes()


def _same_graph(one: ir.Graph, other: ir.Graph) -> bool:
    """Return whether two subgraphs are isomorphic; values of outer scopes that they read must be the same constants."""
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
