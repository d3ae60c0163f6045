"""Repeat the layers of a graph that was traced with few layers, up to full depth.

Nodes that are computed once are moved before the layers. Then every layer of the full model is copied from a traced
layer of the same type: the same nodes, with the parameters and the graph inputs of its layer index, and the outputs of
the previous layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from onnxport.passes.scopes import SCOPES, scopes_of
from onnxport.stamping.layout import Layers, Region, StampError, cache_index, split, with_cache_index
from onnxport.stamping.proof import Dependence, layer_nodes, prove
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StampError", "stamp"]


@dataclass(frozen=True)
class _Slot:
    """The position of a value in layers of one type.

    Attributes:
        layer_type: the layer type.
        node: position of its node among the layer's nodes.
        output: index among that node's outputs.
    """

    layer_type: int
    node: int
    output: int


@dataclass(frozen=True)
class _Location:
    """The position of a value in a traced layer.

    Attributes:
        layer: index of the traced layer.
        slot: position in it.
    """

    layer: int
    slot: _Slot


def stamp(graph: ir.Graph, layers: Layers) -> None:
    """Repeat layers in place.

    Args:
        graph: a clean graph with the layers `layers.traced`, and with names of per-layer inputs and outputs.
        layers: the traced layers and those of the full model.

    Raises:
        StampError: the layers couldn't be proved isomorphic; the graph is unchanged.
    """
    regions = split(graph, layers)
    if not regions:
        return
    dependence = Dependence(tuple(graph), layers, regions)
    nodes_of = [layer_nodes(regions, layer, dependence) for layer in range(len(regions))]
    slots = _prove_all(layers, regions, dependence, nodes_of)
    plan = _Plan(graph, layers, nodes_of, slots)
    plan.check(regions, dependence)
    plan.apply()


def _prove_all(
    layers: Layers, regions: Sequence[Region], dependence: Dependence, nodes_of: list[list[ir.Node]]
) -> _Slots:
    """Prove that the traced layers of each type are isomorphic, and find the values passed from layer to layer."""
    slots = _Slots(layers, nodes_of)
    for layer_type in dict.fromkeys(layers.traced):
        indices = [layer for layer, other in enumerate(layers.traced) if other == layer_type]
        if len(indices) == 1 and layers.full.count(layer_type) > 1:
            raise StampError(f"{layers.paths[0]}: a layer type that occurs several times was traced only once")
        for earlier, later in pairwise(indices):
            proof = prove(layers, regions, earlier, later, dependence)
            nodes_of[earlier][:] = [node for node, _ in proof.nodes]
            slots.index(earlier)
            for later_value, earlier_value in proof.chained.items():
                slots.join(earlier_value, later_value)
    _join_only_values(nodes_of, slots)
    return slots


def _join_only_values(nodes_of: list[list[ir.Node]], slots: _Slots) -> None:
    """Join the slots of the layers' outputs if every layer passes a single value of the same type to the next layer."""
    owner = {node: layer for layer, nodes in enumerate(nodes_of) for node in nodes}
    passed: list[list[ir.Value]] = []
    for layer, nodes in enumerate(nodes_of):
        following = layer + 1 if layer + 1 < len(nodes_of) else None
        values = (value for node in nodes for value in node.outputs)
        passed.append([v for v in values if any(owner.get(user) == following for user, _ in v.uses())])
    if all(len(values) == 1 for values in passed):
        first = passed[0][0]
        for (value,) in passed[1:]:
            if (value.dtype, value.shape) == (first.dtype, first.shape):
                slots.join(first, value)


class _Slots:
    """Equivalence classes of values, across layer types, that have the same role for the next layer."""

    def __init__(self, layers: Layers, nodes_of: list[list[ir.Node]]) -> None:
        self._layers, self._nodes_of = layers, nodes_of
        self._locations: dict[ir.Value, _Location] = {}
        self._parent: dict[_Slot | ir.Value, _Slot | ir.Value] = {}
        for layer in range(len(nodes_of)):
            self.index(layer)

    def index(self, layer: int) -> None:
        """Record the slots of all values of a traced layer."""
        layer_type = self._layers.traced[layer]
        for value in [value for value, location in self._locations.items() if location.layer == layer]:
            del self._locations[value]
        for position, node in enumerate(self._nodes_of[layer]):
            for index, value in enumerate(node.outputs):
                self._locations[value] = _Location(layer, _Slot(layer_type, position, index))

    def locate(self, value: ir.Value) -> _Location | None:
        """Return the traced layer that computes a value, and its slot there; None outside the layers."""
        return self._locations.get(value)

    def join(self, one: ir.Value, other: ir.Value) -> None:
        """Record that two values have the same role."""
        root = self._root(self._key(other))
        if self._root(self._key(one)) != root:
            self._parent[self._root(self._key(one))] = root

    def counterpart(self, value: ir.Value, layer_type: int) -> _Slot | None:
        """Return the slot in layers of a type that has the same role as `value`; None if there is none."""
        location = self._locations.get(value)
        if location is not None and location.slot.layer_type == layer_type:
            return location.slot
        root = self._root(self._key(value))
        members = [key for key in self._parent if self._root(key) == root]
        slots = (key for key in (*members, root) if isinstance(key, _Slot))
        return next((slot for slot in slots if slot.layer_type == layer_type), None)

    def _key(self, value: ir.Value) -> _Slot | ir.Value:
        location = self._locations.get(value)
        return value if location is None else location.slot

    def _root(self, key: _Slot | ir.Value) -> _Slot | ir.Value:
        while key in self._parent:
            key = self._parent[key]
        return key


@dataclass
class _Plan:
    """Build the layers of the full graph from the traced ones."""

    graph: ir.Graph
    layers: Layers
    nodes_of: list[list[ir.Node]]
    slots: _Slots
    stamped: list[list[ir.Node]] = field(default_factory=list)

    def _passed_through(self) -> dict[ir.Value, ir.Node]:
        """Return the per-layer outputs that no layer computes, with their nodes: caches that are passed through.

        Raises:
            StampError: such an output isn't a single operation on graph inputs of the same layer.
        """
        producers = {}
        for value in self.graph.outputs:
            cache, node = cache_index(str(value.name)), value.producer()
            if cache is None or node is None or self.slots.locate(value):
                continue
            if any(v is None or not v.is_graph_input() or cache_index(str(v.name)) != cache for v in node.inputs):
                raise StampError(f"{self.layers.paths[0]}: the output {value.name} is computed outside the layers")
            producers[value] = node
        return producers

    def check(self, regions: Sequence[Region], dependence: Dependence) -> None:
        """Check that the layers can be repeated, before the graph is changed.

        Raises:
            StampError: a layer reads a value of a layer other than its predecessor, the end of the graph one of a layer
                other than the last, or the indices of per-layer graph inputs differ from those of the layers.
        """
        layer_of = {node: layer for layer, nodes in enumerate(self.nodes_of) for node in nodes}
        name = self.layers.paths[0]
        for node in self.graph:
            for value in node.inputs:
                if value is not None:
                    self._check_use(value, layer_of.get(node))
        between = (node for region in regions[:-1] for node in region.nodes)
        for node in between:
            if node not in layer_of and node in dependence:
                raise StampError(f"{name}: {node.op_type} ({node.outputs[0].name}) belongs to no layer")
        for value in self.graph.outputs:
            location = self.slots.locate(value)
            if location and cache_index(str(value.name)) is None and location.layer != len(self.nodes_of) - 1:
                raise StampError(f"{name}: the output {value.name} is computed by layer {location.layer}")
        self._passed_through()
        self._cache_indices()
        for layer_type, following in pairwise(self.layers.full):
            self._check_layer_inputs(layer_type, following)

    def _check_use(self, value: ir.Value, reader: int | None) -> None:
        """Check that a value of a layer is read by that layer, the next one, or the end of the graph.

        Args:
            value: any value.
            reader: index of the layer that reads it; None outside the layers.
        """
        location = self.slots.locate(value)
        if location is None or reader == location.layer:
            return
        name, owner = self.layers.paths[0], location.layer
        if reader is None:
            if owner != len(self.nodes_of) - 1 or self.slots.counterpart(value, self.layers.full[-1]) is None:
                raise StampError(f"{name}: {value.name} of layer {owner} is read outside the layers")
        elif reader != owner + 1 and not self.is_unique(owner):
            raise StampError(f"{name}: layer {reader} reads {value.name} of layer {owner}")

    def is_unique(self, layer: int) -> bool:
        """Return whether a traced layer is the only one of its type, so that any later layer may read from it."""
        return self.layers.full.count(self.layers.traced[layer]) == 1

    def _template(self, layer_type: int) -> int:
        """Return the traced layer to copy for a type: the second, which has a predecessor, if there is one."""
        indices = [layer for layer, other in enumerate(self.layers.traced) if other == layer_type]
        return indices[min(1, len(indices) - 1)]

    def _check_layer_inputs(self, layer_type: int, following: int) -> None:
        """Check that a layer of type `following` can read its inputs from a preceding layer of type `layer_type`."""
        layer = self._template(following)
        for value in {value for node in self.nodes_of[layer] for value in node.inputs if value is not None}:
            location = self.slots.locate(value)
            if location is None or location.layer == layer or self.is_unique(location.layer):
                continue
            if self.slots.counterpart(value, layer_type) is None:
                raise StampError(f"{self.layers.paths[0]}: layer {layer} reads {value.name}, which other layers lack")

    def _cache_indices(self) -> list[list[int]]:
        """Return the indices in the names of the graph inputs and outputs of each traced layer, at most one each.

        Raises:
            StampError: the indices don't follow the order of the layers.
        """
        indices: list[list[int]] = []
        for nodes in self.nodes_of:
            computed = {value for node in nodes for value in node.outputs}
            read = [value for node in nodes for value in node.inputs if value is not None and value.is_graph_input()]
            names = [str(value.name) for value in read] + [str(v.name) for v in self.graph.outputs if v in computed]
            indices.append(sorted({cache for name in names if (cache := cache_index(name)) is not None}))
        flat = [cache for caches in indices for cache in caches]
        if any(len(caches) > 1 for caches in indices) or flat != list(range(len(flat))):
            raise StampError(f"{self.layers.paths[0]}: the layers use the caches {indices}, not one each in order")
        return indices

    def apply(self) -> None:
        """Replace the traced layers with all layers."""
        graph, layers = self.graph, self.layers
        caches, passed_through = self._cache_indices(), self._passed_through()
        tail = [value for nodes in self.nodes_of[-1:] for node in nodes for value in node.outputs]
        traced_nodes = [node for nodes in self.nodes_of for node in nodes]
        anchor = self.nodes_of[0][0]
        self._move_common(anchor)
        copies: list[_CacheCopy] = []
        firsts: dict[int, int] = {}
        outputs: dict[str, ir.Value] = {}
        inputs = {str(value.name): value for value in graph.inputs}
        parameters = dict(graph.initializers)
        for layer, layer_type in enumerate(layers.full):
            source = self._template(layer_type) if layer else 0
            copier = _Copier(self, layer, source, len(copies), inputs, parameters)
            nodes = copier.copy()
            graph.insert_before(anchor, nodes)
            self.stamped.append(nodes)
            outputs.update(copier.outputs)
            if caches[source]:
                firsts.setdefault(layer_type, len(copies))
                copies.append(_CacheCopy(caches[source][0], len(copies)))
        first_of = {caches[n][0]: firsts[layer_type] for n, layer_type in enumerate(layers.traced) if caches[n]}
        self._redirect_common(first_of, inputs)
        for copy in copies:
            for value, node in passed_through.items():
                if cache_index(str(value.name)) == copy.traced:
                    outputs.update([self._pass_through(value, node, copy.full, inputs)])
        self._reconnect(tail)
        graph.inputs[:] = _all_caches(list(graph.inputs), inputs, copies)
        graph.outputs[:] = _all_caches(list(graph.outputs), outputs, copies)
        graph.remove([*traced_nodes, *passed_through.values()], safe=True)
        self._register(parameters)

    def _pass_through(
        self, value: ir.Value, node: ir.Node, cache: int, inputs: dict[str, ir.Value]
    ) -> tuple[str, ir.Value]:
        """Append a copy of a passed-through output's node, with another cache index; return its name and output."""
        name = with_cache_index(str(value.name), cache)
        sources = [inputs[with_cache_index(str(v.name), cache)] for v in node.inputs if v is not None]
        copy = copy_node(node, sources, dict(node.metadata_props))
        copy.outputs[0].name = name
        self.graph.append(copy)
        return name, copy.outputs[0]

    def _move_common(self, anchor: ir.Node) -> None:
        """Move the nodes between traced layers that are computed once to before the first layer."""
        repeated = {node for nodes in self.nodes_of for node in nodes}
        positions = {node: position for position, node in enumerate(self.graph)}
        end = positions[self.nodes_of[-1][-1]]
        between = [n for n, p in positions.items() if positions[anchor] < p < end and n not in repeated]
        self.graph.remove(between)
        self.graph.insert_before(anchor, between)

    def stamped_value(self, layer: int, value: ir.Value) -> ir.Value:
        """Return the counterpart of a traced layer's value in a stamped layer."""
        slot = self.slots.counterpart(value, self.layers.full[layer])
        if slot is None:
            raise StampError(f"{self.layers.paths[0]}: layer {layer} has no counterpart of {value.name}")
        return self.stamped[layer][slot.node].outputs[slot.output]

    def _reconnect(self, tail: list[ir.Value]) -> None:
        """Redirect the end of the graph to the outputs of the last layer of the full model."""
        last = len(self.layers.full) - 1
        repeated = {node for nodes in self.nodes_of for node in nodes}
        for value in tail:
            for node, index in [(node, index) for node, index in value.uses() if node not in repeated]:
                node.replace_input_with(index, self.stamped_value(last, value))
        for index, value in enumerate(self.graph.outputs):
            if self.slots.locate(value) and cache_index(str(value.name)) is None:
                new = self.stamped_value(last, value)
                new.name = value.name
                self.graph.outputs[index] = new

    def _redirect_common(self, firsts: dict[int, int], inputs: dict[str, ir.Value]) -> None:
        """Redirect nodes that are computed once, such as a mask, to the first cache of the layer type that they read.

        Args:
            firsts: traced cache index to the index of the first cache of the same layer type.
            inputs: inputs of the full graph, by name.
        """
        layers = {node for nodes in (*self.nodes_of, *self.stamped) for node in nodes}
        for value in list(self.graph.inputs):
            cache = cache_index(str(value.name))
            if cache is None or firsts.get(cache, cache) == cache:
                continue
            for node, index in [use for use in value.uses() if use[0] not in layers]:
                node.replace_input_with(index, inputs[with_cache_index(str(value.name), firsts[cache])])

    def _register(self, parameters: dict[str, ir.Value]) -> None:
        """Register the parameters of all layers as initializers, and remove unused ones."""
        for name, value in parameters.items():
            if self.graph.initializers.get(name) is not value:
                self.graph.initializers.pop(name, None)
                self.graph.register_initializer(value)
        for name, value in list(self.graph.initializers.items()):
            if self.layers.layer_of_parameter(value) is not None and not value.uses():
                del self.graph.initializers[name]


@dataclass(frozen=True)
class _CacheCopy:
    """A cache of the full graph.

    Attributes:
        traced: index of the traced cache that it is copied from.
        full: its index.
    """

    traced: int
    full: int


def _all_caches(traced: list[ir.Value], full: dict[str, ir.Value], copies: list[_CacheCopy]) -> list[ir.Value]:
    """Return graph inputs or outputs with those of all layers at the position of the traced layers'.

    The caches are together, and so are outputs with another name, such as `attentions.0`.

    Args:
        traced: inputs or outputs of the traced graph, in order.
        full: inputs or outputs of the full graph, by name.
        copies: caches of the full graph.
    """
    groups: dict[str, dict[int, list[str]]] = {}
    result: list[ir.Value | str] = []
    for value in traced:
        name = str(value.name)
        cache = cache_index(name)
        if cache is None:
            result.append(value)
            continue
        root = "" if name.startswith(_CACHES) else name.partition(".")[0]
        if root not in groups:
            result.append(root)
        groups.setdefault(root, {}).setdefault(cache, []).append(name)
    return [
        value
        for item in result
        for value in (
            [full[with_cache_index(n, copy.full)] for copy in copies for n in groups[item].get(copy.traced, ())]
            if isinstance(item, str)
            else [item]
        )
    ]


_CACHES = ("past_", "present")


def copy_node(node: ir.Node, inputs: Sequence[ir.Value | None], metadata: dict[str, str]) -> ir.Node:
    """Return a copy of a node with other inputs and metadata; its outputs have no names."""
    import onnx_ir as ir

    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        [_copy_attribute(attribute) for attribute in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        metadata_props=metadata,
    )
    for old, value in zip(node.outputs, new.outputs, strict=True):
        value.shape, value.type = old.shape, old.type
    return new


def _copy_attribute(attribute: ir.Attr) -> ir.Attr:
    """Return an attribute for another node; a subgraph is cloned, since it belongs to a single node."""
    import onnx_ir as ir

    if attribute.type is not ir.AttributeType.GRAPH:
        return attribute
    return ir.AttrGraph(attribute.name, attribute.as_graph().clone(allow_outer_scope_values=True))


class _Copier:
    """Copy one traced layer to a layer of the full graph.

    Args:
        plan: the plan.
        layer: index of the layer in the full model.
        source: index of the traced layer.
        cache: index of the layer's cache, if it has one.
        inputs: inputs of the full graph, by name; the layer's are added.
        parameters: parameters of the full graph, by name; the layer's are added.
    """

    def __init__(
        self,
        plan: _Plan,
        layer: int,
        source: int,
        cache: int,
        inputs: dict[str, ir.Value],
        parameters: dict[str, ir.Value],
    ) -> None:
        self.outputs: dict[str, ir.Value] = {}
        self._plan, self._layer, self._source, self._cache = plan, layer, source, cache
        self._inputs, self._parameters = inputs, parameters
        self._values: dict[ir.Value, ir.Value] = {}

    def copy(self) -> list[ir.Node]:
        """Return the layer's nodes, and record new inputs, outputs and parameters."""
        nodes = []
        outputs = {value: str(value.name) for value in self._plan.graph.outputs}
        for node in self._plan.nodes_of[self._source]:
            new = copy_node(
                node, [None if value is None else self._input(value) for value in node.inputs], self._metadata(node)
            )
            for old, value in zip(node.outputs, new.outputs, strict=True):
                value.name = f"{old.name}@{self._layer}"
                self._values[old] = value
                name = outputs.get(old, "")
                if cache_index(name) is not None:
                    value.name = with_cache_index(name, self._cache)
                    self.outputs[value.name] = value
            nodes.append(new)
        return nodes

    def _input(self, value: ir.Value) -> ir.Value:
        if value in self._values:
            return self._values[value]
        name = str(value.name)
        if value.is_initializer():
            if self._plan.layers.layer_of_parameter(value) is None:
                return value
            return self._renamed(value, self._plan.layers.with_layer(name, self._layer), self._parameters)
        if value.is_graph_input():
            is_common = cache_index(name) is None
            return value if is_common else self._renamed(value, with_cache_index(name, self._cache), self._inputs)
        location = self._plan.slots.locate(value)
        if location is None:
            return value
        if location.layer != self._source - 1 and self._plan.is_unique(location.layer):
            return self._value_of_unique(location)
        return self._plan.stamped_value(self._layer - 1, value)

    def _value_of_unique(self, location: _Location) -> ir.Value:
        """Return a value of a layer that is the only one of its type."""
        layer = self._plan.layers.full.index(self._plan.layers.traced[location.layer])
        return self._plan.stamped[layer][location.slot.node].outputs[location.slot.output]

    def _renamed(self, value: ir.Value, name: str, values: dict[str, ir.Value]) -> ir.Value:
        import onnx_ir as ir

        if name not in values or (values[name].dtype, values[name].shape) != (value.dtype, value.shape):
            old = value.const_value  # `values` may have the traced layer of another type that had this index
            copied = None if old is None else ParameterTensor(name, old.dtype, old.shape.numpy())
            values[name] = ir.Value(name=name, shape=value.shape, type=value.type, const_value=copied)
        return values[name]

    def _metadata(self, node: ir.Node) -> dict[str, str]:
        scopes = [self._plan.layers.with_layer(scope, self._layer) for scope in scopes_of(node)]
        return {SCOPES: repr([*scopes, ""])} if scopes else {}
