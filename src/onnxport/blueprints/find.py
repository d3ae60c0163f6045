"""Get a checkpoint's blueprint: from the cache, as far as it is there, or by making it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxport.binding.bind import rebind
from onnxport.blueprints import entries
from onnxport.blueprints.blueprint import Blueprint, TracedGraph, at_full_depth
from onnxport.blueprints.keys import export_key, trace_key
from onnxport.blueprints.store import Store
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import Inventory, Reader
from onnxport.options import ExportOptions, Progress

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.blueprints.make import Draft

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """Hold a blueprint, and what it was made of where it wasn't in the cache.

    Attributes:
        blueprint: see `Blueprint`.
        graphs: the blueprint's graphs with all their layers, in order; whoever asked may change them.
        draft: None where the blueprint was found whole; nothing of torch or transformers was imported then.
    """

    blueprint: Blueprint
    graphs: tuple[ir.Model, ...]
    draft: Draft | None = None


def find_blueprint(checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> Found:
    """Return the blueprint of a checkpoint.

    Raises:
        CheckpointError: the checkpoint can't be read, or its tensors don't fit.
        UnsupportedError: there is no class or no description for it and the task.
        TraceError: it can't be captured.
    """
    store = Store() if options.cache and options.description is None else None
    inventory = _inventory(checkpoint)
    key = export_key(checkpoint, inventory, options) if store is not None and inventory is not None else None
    if store is not None and inventory is not None and key is not None:
        report("look for a blueprint", None)
        known = _find_export(store, key, checkpoint, inventory)
        if known is not None:
            return Found(known, tuple(map(at_full_depth, known.graphs, known.depths)))
    return _make(checkpoint, options, (store, key), report)


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
            binding = rebind(entries.binding_of(content), inventory, reader)
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


def _make(
    checkpoint: Checkpoint, options: ExportOptions, cache: tuple[Store | None, str | None], report: Progress
) -> Found:
    from onnxport.blueprints.make import draft, make

    store, key = cache
    drafted = draft(checkpoint, options, report)
    traces = trace_key(checkpoint, drafted, options) if store is not None else None
    known = _find_graphs(store, traces) if store is not None else None
    blueprint, graphs = make(checkpoint, drafted, (known, options), report)
    if store is not None and traces is not None:
        _keep(store, (key, traces), blueprint)
    return Found(blueprint, graphs, drafted)


def _keep(store: Store, keys: tuple[str | None, str], blueprint: Blueprint) -> None:
    """Keep a blueprint: graphs under the key of what was traced, the rest under that of the export."""
    key, traces = keys
    label = f"{blueprint.architecture}, {blueprint.task.full_name}"
    if any(depth.note for depth in blueprint.depths):  # something else was traced than the key says
        traces = f"{key}-graphs" if key is not None else ""
    if not traces:
        return
    if not blueprint.cached:
        store.put(traces, "graphs", label, entries.graphs_to_bytes(blueprint.graphs))
    if key is not None and blueprint.binding.files:
        try:
            content = entries.export_to_bytes(blueprint, traces)
        except ValueError as error:
            logger.debug("not cached: %s", error)
            return
        store.put(key, "export", label, content)
