"""Assign the nodes of a captured graph to its repeated layers.

The region of a layer starts at the first node of its module and ends where the next layer's starts, so that nodes
between two layers belong to the first of them. The module of a node is in the engine's metadata.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.passes.scopes import scopes_of
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir as ir

_PER_LAYER = re.compile(
    r"^(?!feature_maps\.|image_embeddings\.|intermediate_embeddings\.)(?P<before>\w+\.)(?P<index>\d+)(?P<after>\..*)?$"
)
"""Pattern of per-layer graph inputs and outputs: `past_key_values.0.key`, `present.3.decoder.value`."""


class StampError(Exception):
    """Layers couldn't be proved isomorphic; all layers are traced instead."""


@dataclass(frozen=True)
class Layers:
    """A stack of repeated layers: the traced layers, and those of the full model.

    Attributes:
        paths: names of the `ModuleList`s of the layers; several if a model splits each layer over parallel lists.
        traced: layer type of each traced layer.
        full: layer type of each layer of the full model.
    """

    paths: tuple[str, ...]
    traced: tuple[int, ...]
    full: tuple[int, ...]

    def layer_of(self, name: str) -> int | None:
        """Return the layer index in a module or parameter name; None outside the layers."""
        for path in self.paths:
            if name.startswith(f"{path}."):
                head = name[len(path) + 1 :].split(".", 1)[0]
                if head.isdigit():
                    return int(head)
        return None

    def layer_of_parameter(self, value: ir.Value) -> int | None:
        """Return the layer index of a parameter; None for other values, constants included."""
        is_parameter = value.is_initializer() and isinstance(value.const_value, ParameterTensor)
        return self.layer_of(str(value.name)) if is_parameter else None

    def with_layer(self, name: str, layer: int) -> str:
        """Return a module or parameter name with another layer index."""
        for path in self.paths:
            if name.startswith(f"{path}."):
                head, dot, rest = name[len(path) + 1 :].partition(".")
                if head.isdigit():
                    return f"{path}.{layer}{dot}{rest}"
        return name


def interleaved(graph: ir.Graph, paths: list[str]) -> list[list[str]]:
    """Group `ModuleList`s whose nodes are interleaved in the graph, in the order of `paths`."""
    spans: dict[str, tuple[int, int]] = {}
    for position, node in enumerate(graph):
        scopes = scopes_of(node)
        path = next((path for path in paths if any(scope.startswith(f"{path}.") for scope in scopes)), None)
        if path is not None:
            spans[path] = (spans.get(path, (position, 0))[0], position)
    groups: list[list[str]] = []
    for path in paths:
        first, last = spans.get(path, (-1, -1))
        overlapping = [
            group for group in groups if any(spans[o][0] < last and first < spans[o][1] for o in group if o in spans)
        ]
        groups = [group for group in groups if group not in overlapping] + [
            [other for group in overlapping for other in group] + [path]
        ]
    return groups


def cache_index(name: str) -> int | None:
    """Return the index in the name of a per-layer input or output; None for other names."""
    match = _PER_LAYER.match(name)
    return int(match["index"]) if match else None


def with_cache_index(name: str, index: int) -> str:
    """Return the name of a per-layer input or output with another index."""
    return _PER_LAYER.sub(lambda match: f"{match['before']}{index}{match['after'] or ''}", name)


@dataclass(frozen=True)
class Region:
    """The nodes of one traced layer.

    Attributes:
        nodes: the nodes, in graph order.
        module_count: number of nodes up to and including the last one of the layer's module.
    """

    nodes: tuple[ir.Node, ...]
    module_count: int


def split(graph: ir.Graph, layers: Layers) -> tuple[Region, ...]:
    """Return one region per traced layer; an empty tuple if no output depends on the layers.

    The last region extends to the end of the graph; the proof determines the end of the layer.

    Raises:
        StampError: a layer has no nodes, or the layers aren't computed in sequence.
    """
    nodes = tuple(graph)
    indices = [_layer_of_node(node, layers) for node in nodes]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for position, layer in enumerate(indices):
        if layer is not None:
            first.setdefault(layer, position)
            last[layer] = position
    if not first:
        return ()
    count = len(layers.traced)
    starts = [first.get(layer, -1) for layer in range(count)]
    if -1 in starts or starts != sorted(starts):
        raise StampError(f"the layers of {layers.paths[0]} aren't computed in sequence")
    ends = [*starts[1:], len(nodes)]
    for layer in range(count):
        if last[layer] >= ends[layer]:
            raise StampError(f"layer {layer} of {layers.paths[0]} overlaps the next layer")
    regions = [
        Region(nodes[begin:end], last[i] - begin + 1) for i, (begin, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return tuple(regions)


def _layer_of_node(node: ir.Node, layers: Layers) -> int | None:
    return next((layer for scope in scopes_of(node) if (layer := layers.layer_of(scope)) is not None), None)
