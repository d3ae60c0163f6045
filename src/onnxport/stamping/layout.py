"""Say which nodes of a captured graph belong to which repeated layer.

A layer's region begins with the first node of its module and ends where the next layer's begins: what a model computes
between two layers belongs to the one before. Nodes say their module in the engine's metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.passes.scopes import scopes_of
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir

_NUMBERED = re.compile(r"^(?!feature_maps\.)(?P<before>\w+\.)(?P<number>\d+)(?P<after>\..*)?$")
"""Names of per-layer inputs and outputs: `past_key_values.0.key`, `present.3.decoder.value`."""


class StampError(Exception):
    """Say why layers couldn't be proved isomorphic; they are all traced then."""


@dataclass(frozen=True)
class Layers:
    """Describe one run of layers: what was traced, and what it stands for.

    Attributes:
        paths: names of the module lists that hold the layers; several where a model splits a layer over parallel lists.
        traced: the kind of each traced layer.
        full: the kind of each layer at full depth.
    """

    paths: tuple[str, ...]
    traced: tuple[int, ...]
    full: tuple[int, ...]

    def number_of(self, name: str) -> int | None:
        """Return the number of the layer that a module or parameter name lies in; None outside the layers."""
        for path in self.paths:
            if name.startswith(f"{path}."):
                head = name[len(path) + 1 :].split(".", 1)[0]
                if head.isdigit():
                    return int(head)
        return None

    def number_of_parameter(self, value: ir.Value) -> int | None:
        """Return the number of the layer whose parameter a value is; None for any other value, constants included."""
        is_parameter = value.is_initializer() and isinstance(value.const_value, ParameterTensor)
        return self.number_of(str(value.name)) if is_parameter else None

    def renumbered(self, name: str, number: int) -> str:
        """Return the name that belongs to another layer."""
        for path in self.paths:
            if name.startswith(f"{path}."):
                head, dot, rest = name[len(path) + 1 :].partition(".")
                if head.isdigit():
                    return f"{path}.{number}{dot}{rest}"
        return name


def interleaved(graph: ir.Graph, paths: list[str]) -> list[list[str]]:
    """Group lists of layers: those whose nodes lie between each other's belong together, in the order given."""
    spans: dict[str, tuple[int, int]] = {}
    for position, node in enumerate(graph):
        scopes = scopes_of(node)
        path = next((path for path in paths if any(scope.startswith(f"{path}.") for scope in scopes)), None)
        if path is not None:
            spans[path] = (spans.get(path, (position, 0))[0], position)
    groups: list[list[str]] = []
    for path in paths:
        first, last = spans.get(path, (-1, -1))
        near = [
            group for group in groups if any(spans[o][0] < last and first < spans[o][1] for o in group if o in spans)
        ]
        groups = [group for group in groups if group not in near] + [
            [other for group in near for other in group] + [path]
        ]
    return groups


def cache_number(name: str) -> int | None:
    """Return the number in the name of a per-layer input or output, None for any other name."""
    found = _NUMBERED.match(name)
    return int(found["number"]) if found else None


def with_cache_number(name: str, number: int) -> str:
    """Return the name of the same input or output of another layer."""
    return _NUMBERED.sub(lambda found: f"{found['before']}{number}{found['after'] or ''}", name)


@dataclass(frozen=True)
class Region:
    """Hold the nodes of one traced layer, in graph order, and where in it the module's own nodes end.

    Attributes:
        nodes: the nodes.
        own: number of nodes up to and including the last one of the layer's own module.
    """

    nodes: tuple[ir.Node, ...]
    own: int


def split(graph: ir.Graph, layers: Layers) -> tuple[Region, ...]:
    """Find one region per traced layer; none where no output depends on the layers.

    The last region runs to the end of the graph; where the layer ends in it is for the proof to find.

    Raises:
        StampError: a layer left no node, or layers aren't computed one after the other.
    """
    nodes = tuple(graph)
    numbers = [_layer_of(node, layers) for node in nodes]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, number in enumerate(numbers):
        if number is not None:
            first.setdefault(number, position)
            last[number] = position
    if not first:
        return ()
    count = len(layers.traced)
    starts = [first.get(number, -1) for number in range(count)]
    if -1 in starts or starts != sorted(starts):
        raise StampError(f"the layers of {layers.paths[0]} aren't computed one after the other")
    ends = [*starts[1:], len(nodes)]
    for number in range(count):
        if last[number] >= ends[number]:
            raise StampError(f"layer {number} of {layers.paths[0]} goes on after the next one began")
    regions = [
        Region(nodes[begin:end], last[i] - begin + 1) for i, (begin, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return tuple(regions)


def _layer_of(node: ir.Node, layers: Layers) -> int | None:
    return next((number for scope in scopes_of(node) if (number := layers.number_of(scope)) is not None), None)
