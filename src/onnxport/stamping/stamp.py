"""Repeat the layers of a graph that was traced with few of them, until it has all.

What is computed once stays before the layers. Then every layer of the full model is made from a traced one of its kind:
same nodes, with the parameters and the graph inputs of its own number, fed by the layer before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from onnxport.passes.scopes import SCOPES, scopes_of
from onnxport.stamping.layout import (
    Layers,
    Region,
    StampError,
    cache_number,
    split,
    with_cache_number,
)
from onnxport.stamping.proof import Dependence, own_nodes, prove
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StampError", "stamp"]

Place = tuple[int, int, int]
"""A value in a kind of layer: the kind, the position of its node, the position among that node's outputs."""


def stamp(graph: ir.Graph, layers: Layers) -> None:
    """Repeat layers in place.

    Args:
        graph: a graph with `layers.traced` layers, cleaned, its per-layer inputs and outputs named.
        layers: which layers they are, and what they stand for.

    Raises:
        StampError: the layers couldn't be proved alike; the graph is unchanged then.
    """
    regions = split(graph, layers)
    if not regions:
        return
    dependence = Dependence(tuple(graph), layers, regions)
    own = [own_nodes(regions, number, dependence) for number in range(len(regions))]
    slots = _prove_all(layers, regions, dependence, own)
    plan = _Plan(graph, layers, own, slots)
    plan.check(regions, dependence)
    plan.carry_out()


def _prove_all(layers: Layers, regions: Sequence[Region], dependence: Dependence, own: list[list[ir.Node]]) -> _Slots:
    """Prove one layer of each kind by another, and learn which values are handed from layer to layer."""
    slots = _Slots(layers, own)
    for kind in dict.fromkeys(layers.traced):
        numbers = [number for number, other in enumerate(layers.traced) if other == kind]
        if len(numbers) == 1 and layers.full.count(kind) > 1:
            raise StampError(f"{layers.paths[0]}: a kind of layer was traced once and occurs more often")
        for pair in pairwise(numbers):
            proof = prove(layers, regions, pair, dependence)
            own[pair[0]][:] = [earlier for earlier, _ in proof.nodes]
            slots.index(pair[0])
            for later, earlier in proof.chained.items():
                slots.join(earlier, later)
    _join_only_values(own, slots)
    return slots


def _join_only_values(own: list[list[ir.Node]], slots: _Slots) -> None:
    """Where every layer hands on one value of one type, that is what the next layer reads, whatever their kinds."""
    owner = {node: number for number, nodes in enumerate(own) for node in nodes}
    handed: list[list[ir.Value]] = []
    for number, nodes in enumerate(own):
        following = number + 1 if number + 1 < len(own) else None
        values = (value for node in nodes for value in node.outputs)
        handed.append([v for v in values if any(owner.get(user) == following for user, _ in v.uses())])
    if all(len(values) == 1 for values in handed):
        first = handed[0][0]
        for (value,) in handed[1:]:
            if (value.dtype, value.shape) == (first.dtype, first.shape):
                slots.join(first, value)


class _Slots:
    """Know which values of different kinds of layers play the same part for the layer after them."""

    def __init__(self, layers: Layers, own: list[list[ir.Node]]) -> None:
        self._layers, self._own = layers, own
        self._places: dict[ir.Value, tuple[int, Place]] = {}
        self._parent: dict[Place | ir.Value, Place | ir.Value] = {}
        for number in range(len(own)):
            self.index(number)

    def index(self, number: int) -> None:
        """Note the places of all values of a traced layer."""
        kind = self._layers.traced[number]
        for value in [value for value, (owner, _) in self._places.items() if owner == number]:
            del self._places[value]
        for position, node in enumerate(self._own[number]):
            for index, value in enumerate(node.outputs):
                self._places[value] = (number, (kind, position, index))

    def place(self, value: ir.Value) -> tuple[int, Place] | None:
        """Return the traced layer that computes a value and the value's place in it; None outside the layers."""
        return self._places.get(value)

    def join(self, one: ir.Value, other: ir.Value) -> None:
        """Note that two values play the same part."""
        root = self._root(self._key(other))
        if self._root(self._key(one)) != root:
            self._parent[self._root(self._key(one))] = root

    def counterpart(self, value: ir.Value, kind: int) -> Place | None:
        """Return the place in layers of `kind` that plays the part of `value`."""
        own = self._places.get(value)
        if own is not None and own[1][0] == kind:
            return own[1]
        root = self._root(self._key(value))
        members = [key for key in self._parent if self._root(key) == root]
        return next((key for key in (*members, root) if isinstance(key, tuple) and key[0] == kind), None)

    def _key(self, value: ir.Value) -> Place | ir.Value:
        place = self._places.get(value)
        return value if place is None else place[1]

    def _root(self, key: Place | ir.Value) -> Place | ir.Value:
        while key in self._parent:
            key = self._parent[key]
        return key


@dataclass
class _Plan:
    """Build the layers of the full graph from the traced ones."""

    graph: ir.Graph
    layers: Layers
    own: list[list[ir.Node]]
    slots: _Slots
    _made: list[list[ir.Node]] = field(default_factory=list)

    def _passed_on(self) -> dict[ir.Value, ir.Node]:
        """Return the per-layer outputs that no layer computes, with their nodes: a cache that is handed through.

        Raises:
            StampError: such an output isn't one operation on the same layer's graph inputs.
        """
        found = {}
        for value in self.graph.outputs:
            number, node = cache_number(str(value.name)), value.producer()
            if number is None or node is None or self.slots.place(value):
                continue
            if any(v is None or not v.is_graph_input() or cache_number(str(v.name)) != number for v in node.inputs):
                raise StampError(f"{self.layers.paths[0]}: the output {value.name} comes from outside the layers")
            found[value] = node
        return found

    def check(self, regions: Sequence[Region], dependence: Dependence) -> None:
        """Refuse what can't be repeated, before anything changes.

        Raises:
            StampError: a layer reads from another than the one before it, the end of the graph from another than the
                last, or graph inputs aren't numbered as layers are.
        """
        inside = {node: number for number, nodes in enumerate(self.own) for node in nodes}
        name = self.layers.paths[0]
        for node in self.graph:
            for value in node.inputs:
                if value is not None:
                    self._check_use(value, inside.get(node))
        between = (node for region in regions[:-1] for node in region.nodes)
        for node in between:
            if node not in inside and node in dependence:
                raise StampError(f"{name}: {node.op_type} ({node.outputs[0].name}) belongs to no layer")
        for value in self.graph.outputs:
            found = self.slots.place(value)
            if found and cache_number(str(value.name)) is None and found[0] != len(self.own) - 1:
                raise StampError(f"{name}: the output {value.name} comes out of layer {found[0]}")
        self._passed_on()
        self._caches()
        for kind, following in pairwise(self.layers.full):
            self._check_entries(kind, following)

    def _check_use(self, value: ir.Value, reader: int | None) -> None:
        """Check that a value of a layer is read by that layer, the next one, or the end of the graph.

        Args:
            value: any value.
            reader: number of the layer that reads it, None outside the layers.
        """
        found = self.slots.place(value)
        if found is None or reader == found[0]:
            return
        name, owner = self.layers.paths[0], found[0]
        if reader is None:
            if owner != len(self.own) - 1 or self.slots.counterpart(value, self.layers.full[-1]) is None:
                raise StampError(f"{name}: {value.name} of layer {owner} is read outside the layers")
        elif reader != owner + 1 and not self._is_unique(owner):
            raise StampError(f"{name}: layer {reader} reads {value.name} of layer {owner}")

    def _is_unique(self, number: int) -> bool:
        """Return whether a traced layer stands for itself alone, so that layers far behind it may read from it."""
        return self.layers.full.count(self.layers.traced[number]) == 1

    def _template(self, kind: int) -> int:
        """Return the traced layer that layers of a kind are made from: the second, which has a layer before it."""
        numbers = [number for number, other in enumerate(self.layers.traced) if other == kind]
        return numbers[min(1, len(numbers) - 1)]

    def _check_entries(self, kind: int, following: int) -> None:
        """Check that a layer of one kind finds what it reads in a layer of another kind before it."""
        number = self._template(following)
        for value in {value for node in self.own[number] for value in node.inputs if value is not None}:
            found = self.slots.place(value)
            if found is None or found[0] == number or self._is_unique(found[0]):
                continue
            if self.slots.counterpart(value, kind) is None:
                raise StampError(f"{self.layers.paths[0]}: layer {number} reads {value.name}, which others lack")

    def _caches(self) -> list[list[int]]:
        """List the numbers of the graph inputs and outputs of every traced layer.

        Raises:
            StampError: they aren't counted in the order of the layers.
        """
        found: list[list[int]] = []
        for nodes in self.own:
            made = {value for node in nodes for value in node.outputs}
            read = [value for node in nodes for value in node.inputs if value is not None and value.is_graph_input()]
            names = [str(value.name) for value in read] + [str(v.name) for v in self.graph.outputs if v in made]
            found.append(sorted({number for name in names if (number := cache_number(name)) is not None}))
        flat = [number for numbers in found for number in numbers]
        if any(len(numbers) > 1 for numbers in found) or flat != list(range(len(flat))):
            raise StampError(f"{self.layers.paths[0]}: the layers use the caches {found}, not one each in order")
        return found

    def carry_out(self) -> None:
        """Replace the traced layers by all layers."""
        graph, layers = self.graph, self.layers
        caches, passed = self._caches(), self._passed_on()
        tail = [value for nodes in self.own[-1:] for node in nodes for value in node.outputs]
        old = [node for nodes in self.own for node in nodes]
        anchor = self.own[0][0]
        self._move_common(anchor)
        next_cache = 0
        renumbered: list[tuple[int, int]] = []
        firsts: dict[int, int] = {}
        outputs: dict[str, ir.Value] = {}
        inputs = {str(value.name): value for value in graph.inputs}
        parameters = dict(graph.initializers)
        for number, kind in enumerate(layers.full):
            source = self._template(kind) if number else 0
            copier = _Copier(self, number, source, next_cache, inputs, parameters)
            made = copier.copy()
            graph.insert_before(anchor, made)
            self._made.append(made)
            outputs.update(copier.outputs)
            if caches[source]:
                renumbered += [(caches[source][0], next_cache)]
                firsts.setdefault(kind, next_cache)
                next_cache += 1
        self._reread({caches[n][0]: firsts[kind] for n, kind in enumerate(layers.traced) if caches[n]}, inputs)
        for old_number, number in renumbered:
            for value, node in passed.items():
                if cache_number(str(value.name)) == old_number:
                    name = with_cache_number(str(value.name), number)
                    sources = [inputs[with_cache_number(str(v.name), number)] for v in node.inputs if v is not None]
                    copy = like(node, sources, dict(node.metadata_props))
                    copy.outputs[0].name = name
                    outputs[name] = copy.outputs[0]
                    graph.append(copy)
        self._reconnect(tail)
        graph.inputs[:] = _all_caches(list(graph.inputs), inputs, renumbered)
        graph.outputs[:] = _all_caches(list(graph.outputs), outputs, renumbered)
        graph.remove([*old, *passed.values()], safe=True)
        self._register(parameters)

    def _move_common(self, anchor: ir.Node) -> None:
        """Put what is computed once, and lies between traced layers, before the first of them."""
        own = {node for nodes in self.own for node in nodes}
        positions = {node: position for position, node in enumerate(self.graph)}
        end = positions[self.own[-1][-1]]
        between = [n for n, p in positions.items() if positions[anchor] < p < end and n not in own]
        self.graph.remove(between)
        self.graph.insert_before(anchor, between)

    def made(self, number: int, value: ir.Value) -> ir.Value:
        """Return the value of a finished layer that plays the part of a traced layer's."""
        kind = self.layers.full[number]
        place = self.slots.counterpart(value, kind)
        if place is None:
            raise StampError(f"{self.layers.paths[0]}: layer {number} has no counterpart of {value.name}")
        return self._made[number][place[1]].outputs[place[2]]

    def _reconnect(self, tail: list[ir.Value]) -> None:
        """Let the end of the graph read from the last of all layers."""
        last = len(self.layers.full) - 1
        own = {node for nodes in self.own for node in nodes}
        for value in tail:
            for node, index in [(node, index) for node, index in value.uses() if node not in own]:
                node.replace_input_with(index, self.made(last, value))
        for index, value in enumerate(self.graph.outputs):
            if self.slots.place(value) and cache_number(str(value.name)) is None:
                new = self.made(last, value)
                new.name = value.name
                self.graph.outputs[index] = new

    def _reread(self, firsts: dict[int, int], inputs: dict[str, ir.Value]) -> None:
        """Let what is computed once, such as a mask, read the first cache of the kind that it read.

        Args:
            firsts: number of a traced cache to that of the first one of its kind.
            inputs: the full graph's inputs by name.
        """
        layers = {node for nodes in (*self.own, *self._made) for node in nodes}
        for value in list(self.graph.inputs):
            number = cache_number(str(value.name))
            if number is None or firsts.get(number, number) == number:
                continue
            for node, index in [use for use in value.uses() if use[0] not in layers]:
                node.replace_input_with(index, inputs[with_cache_number(str(value.name), firsts[number])])

    def _register(self, parameters: dict[str, ir.Value]) -> None:
        """Give the graph the parameters of all layers, and no others."""
        for name, value in parameters.items():
            if self.graph.initializers.get(name) is not value:
                self.graph.initializers.pop(name, None)
                self.graph.register_initializer(value)
        for name, value in list(self.graph.initializers.items()):
            if self.layers.number_of_parameter(value) is not None and not value.uses():
                del self.graph.initializers[name]


def _all_caches(
    traced: list[ir.Value], known: dict[str, ir.Value], renumbered: list[tuple[int, int]]
) -> list[ir.Value]:
    """List inputs or outputs with those of every layer where those of the traced layers stood.

    Args:
        traced: inputs or outputs of the traced graph, in order.
        known: name to value of those of the full graph.
        renumbered: for every cache of the full graph the traced cache that it was made from, and its own number.
    """
    numbers = {value: cache_number(str(value.name)) for value in traced}
    blocks: dict[int, list[str]] = {}
    for value, number in numbers.items():
        if number is not None:
            blocks.setdefault(number, []).append(str(value.name))
    every = [known[with_cache_number(name, new)] for old, new in renumbered for name in blocks.get(old, ())]
    first = next((index for index, value in enumerate(traced) if numbers[value] is not None), len(traced))
    plain = [value for value in traced if numbers[value] is None]
    before = sum(numbers[value] is None for value in traced[:first])
    return [*plain[:before], *every, *plain[before:]]


def like(node: ir.Node, inputs: Sequence[ir.Value | None], metadata: dict[str, str]) -> ir.Node:
    """Return a node that does to `inputs` what another does to its own; outputs have no names yet."""
    import onnx_ir as ir

    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        [_own(attribute) for attribute in node.attributes.values()],
        overload=node.overload,
        num_outputs=len(node.outputs),
        version=node.version,
        metadata_props=metadata,
    )
    for old, value in zip(node.outputs, new.outputs, strict=True):
        value.shape, value.type = old.shape, old.type
    return new


def _own(attribute: ir.Attr) -> ir.Attr:
    """Return an attribute for another node: a graph belongs to one node only."""
    import onnx_ir as ir

    if attribute.type is not ir.AttributeType.GRAPH:
        return attribute
    return ir.AttrGraph(attribute.name, attribute.as_graph().clone(allow_outer_scope_values=True))


class _Copier:
    """Make one layer of the full graph from a traced one."""

    def __init__(
        self,
        plan: _Plan,
        number: int,
        source: int,
        cache: int,
        inputs: dict[str, ir.Value],
        parameters: dict[str, ir.Value],
    ) -> None:
        self.outputs: dict[str, ir.Value] = {}
        self._plan, self._number, self._source, self._cache = plan, number, source, cache
        self._inputs, self._parameters = inputs, parameters
        self._values: dict[ir.Value, ir.Value] = {}

    def copy(self) -> list[ir.Node]:
        """Return the layer's nodes; new inputs, outputs and parameters are noted."""
        made = []
        outputs = {value: str(value.name) for value in self._plan.graph.outputs}
        for node in self._plan.own[self._source]:
            new = like(
                node, [None if value is None else self._input(value) for value in node.inputs], self._metadata(node)
            )
            for old, value in zip(node.outputs, new.outputs, strict=True):
                value.name = f"{old.name}@{self._number}"
                self._values[old] = value
                name = outputs.get(old, "")
                if cache_number(name) is not None:
                    value.name = with_cache_number(name, self._cache)
                    self.outputs[value.name] = value
            made.append(new)
        return made

    def _input(self, value: ir.Value) -> ir.Value:
        if value in self._values:
            return self._values[value]
        name = str(value.name)
        if value.is_initializer():
            if self._plan.layers.number_of_parameter(value) is None:
                return value
            return self._renamed(value, self._plan.layers.renumbered(name, self._number), self._parameters)
        if value.is_graph_input():
            number = cache_number(name)
            return value if number is None else self._renamed(value, with_cache_number(name, self._cache), self._inputs)
        found = self._plan.slots.place(value)
        if found is None:
            return value
        owner, place = found
        if owner != self._source - 1 and self._plan._is_unique(owner):
            return self._unique(owner, place)
        return self._plan.made(self._number - 1, value)

    def _unique(self, owner: int, place: Place) -> ir.Value:
        """Return a value of a layer that is the only one of its kind."""
        number = self._plan.layers.full.index(self._plan.layers.traced[owner])
        return self._plan._made[number][place[1]].outputs[place[2]]

    def _renamed(self, value: ir.Value, name: str, known: dict[str, ir.Value]) -> ir.Value:
        import onnx_ir as ir

        if name not in known or (known[name].dtype, known[name].shape) != (value.dtype, value.shape):
            old = value.const_value  # a layer of another kind may have been traced under this number
            copied = None if old is None else ParameterTensor(name, old.dtype, old.shape.numpy())
            known[name] = ir.Value(name=name, shape=value.shape, type=value.type, const_value=copied)
        return known[name]

    def _metadata(self, node: ir.Node) -> dict[str, str]:
        scopes = [self._plan.layers.renumbered(scope, self._number) for scope in scopes_of(node)]
        return {SCOPES: repr([*scopes, ""])} if scopes else {}
