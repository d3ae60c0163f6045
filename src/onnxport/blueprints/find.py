"""Describe, trace and bind a checkpoint; each step uses the cache if it has an entry."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxport.binding.bind import rebind
from onnxport.blueprints import entries
from onnxport.blueprints.blueprint import Blueprint, Trace, TracedGraph, at_full_depth, cast_borders, describe_graph
from onnxport.blueprints.keys import export_key, trace_key
from onnxport.blueprints.store import Store
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import Inventory, Reader
from onnxport.description.description import Description
from onnxport.description.encoder_outputs import Interface, Modality
from onnxport.description.image_processing import ImageProcessing
from onnxport.fusions.fuse import fuse
from onnxport.options import ExportOptions, Progress
from onnxport.patching.scope import exclusive

if TYPE_CHECKING:
    import onnx_ir as ir
    from transformers import PreTrainedConfig

    from onnxport.blueprints.describing import Described
    from onnxport.blueprints.draft import Draft

logger = logging.getLogger(__name__)


class BlueprintSource:
    """Create the description, the trace and the blueprint of a checkpoint, in that order.

    If the cache has the blueprint, neither torch nor transformers is imported. If it has only the graphs, for instance
    from a model of another depth, the checkpoint is bound, and nothing is described or traced.

    Attributes:
        draft: the draft of the described model; None if the blueprint is from the cache.
        described: its description, with the code; None if the graphs are from the cache.

    Args:
        checkpoint: the checkpoint.
        options: the options that determine the graphs, and whether the cache is used.
        report: called with the stage.
    """

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> None:
        self.draft: Draft | None = None
        self.described: Described | None = None
        self._checkpoint, self._options, self._report = checkpoint, options, report
        self._store = Store() if options.cache and options.description is None else None
        self._export_key, self._cached = self._find_export()
        self._trace_key: str | None = None
        self._cached_graphs: tuple[TracedGraph, ...] | None = None
        self._graphs: tuple[ir.Model, ...] = ()
        self._image_processing: ImageProcessing | None = None

    def describe(self) -> Description:
        """Describe the graphs of the export.

        Raises:
            CheckpointError: the checkpoint can't be read, or its tensors don't match the model.
            UnsupportedError: Transformers has no class for it and the task, or the model can't be described.
        """
        if self._cached is None:
            with exclusive():  # also for the import of torch and Transformers, whose modules import each other
                description = self._describe()
        else:
            description = self._cached.description
        if self._options.image_processing:
            with exclusive():
                self._image_processing = self._find_image_processing(description)
        return description

    def _find_image_processing(self, description: Description) -> ImageProcessing:
        from onnxport.blueprints.image_processing import find_image_processing
        from onnxport.blueprints.subject import subject_of

        self._report("inspect the image processor", None)
        subject = subject_of(self._checkpoint, self._options) if self.draft is None else self.draft.subject
        return find_image_processing(subject, description)

    def _describe(self) -> Description:
        self._report("import PyTorch and Transformers", None)
        from onnxport.blueprints.describing import describe_draft, description_of
        from onnxport.blueprints.draft import make_draft

        self.draft = make_draft(self._checkpoint, self._options, self._report)
        if self._store is not None:
            self._trace_key = trace_key(self._checkpoint, self.draft, self._options)
            self._cached_graphs = _find_graphs(self._store, self._trace_key)
        if self._cached_graphs is not None:
            graphs = tuple(traced.description for traced in self._cached_graphs)
            return description_of(self.draft, graphs, self._options.graph)
        self.described = describe_draft(self.draft, self._checkpoint, self._options, self._report)
        self.draft = self.described.draft
        return self.described.description

    def trace(self, description: Description) -> Trace:
        """Trace the described graphs, with as few layers as represent all of them.

        Args:
            description: the result of `describe`.

        Raises:
            TraceError: a graph can't be captured.
        """
        if self._cached is not None:
            trace = self._cached.trace
            self._graphs = tuple(map(at_full_depth, trace.graphs, trace.depths))
            return trace
        with exclusive():
            return self._trace()

    def _trace(self) -> Trace:
        from onnxport.blueprints.describing import describe_draft
        from onnxport.blueprints.tracing import stamp_cached, trace_graphs

        assert self.draft is not None, "a model is described before it is traced"
        full_graphs = stamp_cached(self._cached_graphs, self.draft) if self._cached_graphs is not None else None
        if full_graphs is None:
            self._cached_graphs = None
            described = self.described or describe_draft(self.draft, self._checkpoint, self._options, self._report)
            self.described, full_graphs = trace_graphs(described, self._checkpoint, self._options, self._report)
            self.draft = self.described.draft
        self._graphs = tuple(full.graph for full in full_graphs)
        graphs = tuple(full.traced for full in full_graphs)
        return Trace(graphs, tuple(full.depth for full in full_graphs), cached=self._cached_graphs is not None)

    def make(self, description: Description, trace: Trace) -> Blueprint:
        """Create the blueprint, and cache it.

        Args:
            description: the result of `describe`.
            trace: the result of `trace`.
        """
        for model in self._graphs:
            is_packed = self._options.weights == "copy" and not self._options.adapter_inputs
            fuse(model, self._options.optimize, packs_weights=is_packed)
            if self._image_processing is not None:
                from onnxport.blueprints.image_processing import process_images

                process_images(model, self._image_processing)
            cast_borders(model, self._options.graph)
        graphs = map(describe_graph, trace.graphs, trace.depths, self._graphs)
        described = replace(description, graphs=tuple(graphs))
        if self._cached is not None:
            processing = self._image_processing
            return replace(self._cached, description=described, graphs=self._graphs, image_processing=processing)
        assert self.draft is not None, "a model is described before it is traced"
        described = replace(described, modalities=_modalities(self.draft.bound.model.config, described))
        binding = self.draft.bound.binding
        blueprint = Blueprint(described, trace, binding, self._graphs, self._image_processing)
        self._cache(blueprint)
        return blueprint

    def blueprint(self) -> Blueprint:
        """Call `describe`, `trace` and `make`."""
        description = self.describe()
        return self.make(description, self.trace(description))

    def _find_export(self) -> tuple[str | None, Blueprint | None]:
        """Return the key of the export, and its blueprint if the cache has it."""
        inventory = _inventory(self._checkpoint) if self._store is not None else None
        key = export_key(self._checkpoint, inventory, self._options) if inventory is not None else None
        if self._store is None or inventory is None or key is None:
            return None, None
        self._report("look for a blueprint", None)
        return key, _find_export(self._store, key, self._checkpoint, inventory)

    def _cache(self, blueprint: Blueprint) -> None:
        """Cache a blueprint: its traced graphs under the trace key, the rest under the export key."""
        store, key, traces = self._store, self._export_key, self._trace_key
        if store is None or traces is None:
            return
        label = f"{blueprint.description.architecture}, {blueprint.description.task}"
        if any(depth.note for depth in blueprint.trace.depths):  # the trace key doesn't describe the traced model
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
    from onnxport.architectures._recorded import describe_modalities

    interfaces = {
        graph.name: Interface([spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs])
        for graph in description.graphs
    }
    return describe_modalities(config, interfaces)


def _inventory(checkpoint: Checkpoint) -> Inventory | None:
    """List the tensors of a checkpoint that can be bound lazily; return None for others."""
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
            binding = rebind(entries.binding_of(content), inventory, reader)
        return None if graphs is None or binding is None else entries.export_from_bytes(content, graphs, binding)
    except ValueError as error:
        logger.warning("a cached blueprint can't be used, and is created again: %s", error)
        return None


def _find_graphs(store: Store, key: str | None) -> tuple[TracedGraph, ...] | None:
    content = store.get(key) if key is not None else None
    if content is None:
        return None
    try:
        return entries.graphs_from_bytes(content)
    except ValueError as error:
        logger.warning("cached graphs can't be used, and are traced again: %s", error)
        return None
