"""Describe, trace and bind a checkpoint: each from the cache, as far as it is there, or by doing it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxport.binding.bind import relocate
from onnxport.blueprints import entries
from onnxport.blueprints.blueprint import Blueprint, Trace, TracedGraph, at_full_depth, describe_graph
from onnxport.blueprints.keys import export_key, trace_key
from onnxport.blueprints.store import Store
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import Inventory, Reader
from onnxport.description.description import Description
from onnxport.description.encoder_outputs import Interface, Modality
from onnxport.options import ExportOptions, Progress
from onnxport.patching.scope import exclusive

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedConfig

    from onnxport.blueprints.describing import Described
    from onnxport.blueprints.draft import Draft

logger = logging.getLogger(__name__)


class BlueprintSource:
    """Give the description, the trace and the blueprint of a checkpoint, in that order.

    Where the cache has all of it, neither torch nor transformers is imported. Where it has the graphs alone, made of a
    model of another depth for instance, the checkpoint is bound, and nothing is described or traced.

    Attributes:
        draft: the model that was described; None where the cache had the whole blueprint.
        described: its description, with the code; None where the cache had the graphs.

    Args:
        checkpoint: what is exported.
        options: those that shape a graph, and whether the cache may be used.
        report: called with the stage.
    """

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> None:
        self.draft: Draft | None = None
        self.described: Described | None = None
        self._checkpoint, self._options, self._report = checkpoint, options, report
        self._store = Store() if options.cache and options.description is None else None
        self._key, self._found = self._find_export()
        self._traces_key: str | None = None
        self._known: tuple[TracedGraph, ...] | None = None
        self._graphs: tuple[ir.Model, ...] = ()

    def describe(self) -> Description:
        """Describe the graphs that the checkpoint becomes.

        Raises:
            CheckpointError: the checkpoint can't be read, or its tensors don't fit.
            UnsupportedError: there is no class or no description for it and the task.
        """
        if self._found is not None:
            return self._found.description
        with exclusive():  # also while torch and Transformers are imported, whose modules import each other
            return self._describe()

    def _describe(self) -> Description:
        from onnxport.blueprints.describing import describe_draft, description_of
        from onnxport.blueprints.draft import make_draft

        self.draft = make_draft(self._checkpoint, self._options, self._report)
        if self._store is not None:
            self._traces_key = trace_key(self._checkpoint, self.draft, self._options)
            self._known = _find_graphs(self._store, self._traces_key)
        if self._known is not None:
            return description_of(self.draft, tuple(traced.description for traced in self._known), self._options.graph)
        self.described = describe_draft(self.draft, self._checkpoint, self._options, self._report)
        self.draft = self.described.draft
        return self.described.description

    def trace(self, description: Description) -> Trace:
        """Trace the described graphs, with as few layers as stand for all.

        Args:
            description: what `describe` returned.

        Raises:
            TraceError: a graph can't be captured.
        """
        if self._found is not None:
            trace = self._found.trace
            self._graphs = tuple(map(at_full_depth, trace.graphs, trace.depths))
            return trace
        with exclusive():
            return self._trace()

    def _trace(self) -> Trace:
        from onnxport.blueprints.describing import describe_draft
        from onnxport.blueprints.tracing import stamped, trace_graphs

        assert self.draft is not None, "a model is described before it is traced"
        found = stamped(self._known, self.draft) if self._known is not None else None
        if found is None:
            self._known = None
            described = self.described or describe_draft(self.draft, self._checkpoint, self._options, self._report)
            self.described, found = trace_graphs(described, self._checkpoint, self._options, self._report)
            self.draft = self.described.draft
        self._graphs = tuple(full.graph for full in found)
        graphs = tuple(full.traced for full in found)
        return Trace(graphs, tuple(full.depth for full in found), cached=self._known is not None)

    def make(self, description: Description, trace: Trace) -> Blueprint:
        """Put together what the configuration decides, and keep it in the cache.

        Args:
            description: what `describe` returned.
            trace: what `trace` returned.
        """
        graphs = map(describe_graph, trace.graphs, trace.depths, self._graphs)
        described = replace(description, graphs=tuple(graphs))
        if self._found is not None:
            return replace(self._found, description=described, graphs=self._graphs)
        assert self.draft is not None, "a model is described before it is traced"
        described = replace(described, modalities=_modalities(self.draft.bound.model.config, described))
        blueprint = Blueprint(described, trace, self.draft.bound.binding, self._graphs)
        self._keep(blueprint)
        return blueprint

    def blueprint(self) -> Blueprint:
        """Describe, trace and make: all at once, for who needs nothing in between."""
        description = self.describe()
        return self.make(description, self.trace(description))

    def _find_export(self) -> tuple[str | None, Blueprint | None]:
        """Return the key of the whole export, and its blueprint where the cache has it."""
        inventory = _inventory(self._checkpoint) if self._store is not None else None
        key = export_key(self._checkpoint, inventory, self._options) if inventory is not None else None
        if self._store is None or inventory is None or key is None:
            return None, None
        self._report("look for a blueprint", None)
        return key, _find_export(self._store, key, self._checkpoint, inventory)

    def _keep(self, blueprint: Blueprint) -> None:
        """Keep a blueprint: graphs under the key of what was traced, the rest under that of the export."""
        store, key, traces = self._store, self._key, self._traces_key
        if store is None or traces is None:
            return
        label = f"{blueprint.description.architecture}, {blueprint.description.task}"
        if any(depth.note for depth in blueprint.trace.depths):  # something else was traced than the key tells
            traces = f"{key}-graphs" if key is not None else ""
        if not traces:
            return
        if not blueprint.trace.cached:
            store.put(traces, "graphs", label, entries.graphs_to_bytes(blueprint.trace.graphs))
        if key is not None and blueprint.binding.files:
            try:
                content = entries.export_to_bytes(blueprint, traces)
            except ValueError as error:
                logger.debug("not cached: %s", error)
                return
            store.put(key, "export", label, content)


def _modalities(config: PreTrainedConfig, description: Description) -> tuple[Modality, ...]:
    from onnxport.architectures.describe import describe_modalities

    interfaces = {
        graph.name: Interface([spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs])
        for graph in description.graphs
    }
    return describe_modalities(config, interfaces)


def _inventory(checkpoint: Checkpoint) -> Inventory | None:
    """List the tensors of a checkpoint that can be bound lazily, None for any other."""
    if not checkpoint.in_parts:
        return None
    try:
        return checkpoint.inventory()
    except KeyError:
        return None


def _find_export(store: Store, key: str, checkpoint: Checkpoint, inventory: Inventory) -> Blueprint | None:
    content = store.get(key)
    if content is None:
        return None
    try:
        graphs = _find_graphs(store, entries.traces_of(content))
        with Reader(checkpoint.directory, inventory.files) as reader:
            binding = relocate(entries.binding_of(content), inventory, reader)
        return None if graphs is None or binding is None else entries.export_from_bytes(content, graphs, binding)
    except ValueError as error:
        logger.warning("a cached blueprint is made anew: %s", error)
        return None


def _find_graphs(store: Store, key: str | None) -> tuple[TracedGraph, ...] | None:
    content = store.get(key) if key is not None else None
    if content is None:
        return None
    try:
        return entries.graphs_from_bytes(content)
    except ValueError as error:
        logger.warning("cached graphs are traced anew: %s", error)
        return None
