"""Prove what an export has written, in the way that the memory allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.architectures.describe import describe
from onnxport.binding.bound_graphs import bind_graph
from onnxport.blueprints.blueprint import Blueprint, TracedGraph
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.errors import NoKernelError
from onnxport.options import ExportOptions, Progress
from onnxport.passes.finish import finish
from onnxport.validation.digests import compare_tensors, merged_digests
from onnxport.validation.memory import strategy_for
from onnxport.validation.original import original_model
from onnxport.validation.prove import Subject, prove
from onnxport.validation.reduced import ReducedProof, at_reduced_depth, kept_layers, prove_reduced
from onnxport.validation.report import ValidationReport, merged, with_note
from onnxport.validation.tolerances import Tolerance, tolerance_of
from onnxport.writing.planning import GraphPlan, plan_graph
from onnxport.writing.write import write_graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.blueprints.make import Draft
    from onnxport.blueprints.make import Subject as Source


@dataclass(frozen=True)
class Written:
    """Hold an export that was written, and what it came from.

    Attributes:
        directory: where its files are.
        checkpoint: the checkpoint.
        source: class and preprocessor of the original.
        blueprint: its graphs as they were traced, and their binding.
        draft: what the blueprint was made of; None where it came from the cache.
        graphs: file name → the graph that was written, with its bound tensors.
        plans: where its tensors were written, for each graph.
    """

    directory: Path
    checkpoint: Checkpoint
    source: Source
    blueprint: Blueprint
    draft: Draft | None
    graphs: Mapping[str, ir.Model]
    plans: Sequence[GraphPlan]


def prove_export(written: Written, options: ExportOptions, report: Progress) -> ValidationReport:
    """Compare every graph of an export with the original.

    Args:
        written: see `Written`.
        options: level, tolerances, memory, dtype.
        report: called with the stage and the share that is done.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        ValidationError: ONNX Runtime can't load or run a graph.
    """
    strategy = strategy_for(written.checkpoint, options, reducible=_is_reducible(written.blueprint))
    report("load the weights", None)
    if strategy.mode == "reduced":
        with _few_layers(written, options, report) as (model, directory, layers):
            found = _prove_few(written, model, (directory, layers, options), report)
        return with_note(found, strategy.note)
    bound = written.draft.bound if written.draft else None
    reports = []
    with original_model(written.checkpoint, written.source.model_class, options, strategy, bound) as (model, note):
        for traced, subject in _subjects(written, model, (written.directory, options)):
            tolerance = tolerance_of(traced.atol, options)
            try:
                found = prove(replace(subject, mapped=strategy.mode != "whole"), options.validate, tolerance, report)
            except NoKernelError as error:
                found = _no_kernel(error, options, tolerance)
            reports.append(found)
    return with_note(merged(reports), note)


def _subjects(
    written: Written, model: Any, context: tuple[Path, ExportOptions]
) -> Iterator[tuple[TracedGraph, Subject]]:
    """Yield what is proved of each graph; the graphs are in a directory."""
    directory, options = context
    blueprint, source = written.blueprint, written.source
    components = describe(model, blueprint.task, source.preprocessor, options)
    for traced, component in zip(written.blueprint.graphs, components, strict=True):
        examples = Examples(component.config, signature_of(component.config).today(), component.preprocessor)
        yield traced, Subject(traced.name, directory / traced.file, component.model, examples, traced.sizes)


def _no_kernel(error: NoKernelError, options: ExportOptions, tolerance: Tolerance) -> ValidationReport:
    """Report that nothing was compared.

    Raises:
        NoKernelError: the dtype isn't one that is known to have too few kernels.
    """
    if options.dtype != "bf16":
        raise error
    note = f"ONNX Runtime's CPU provider has no bfloat16 kernels, nothing was compared: {error}"
    return ValidationReport("skipped", options.validate, tolerance.atol, tolerance.rtol, note=note)


def _is_reducible(blueprint: Blueprint) -> bool:
    """Say whether the graphs were traced of a model with few layers, all of them, and weights are read in parts."""
    depths = blueprint.depths
    return (
        bool(blueprint.binding.files)
        and any(depth.layers for depth in depths)
        and all(depth.as_drafted and (depth.layers or not depth.note) for depth in depths)
    )


@contextmanager
def _few_layers(
    written: Written, options: ExportOptions, report: Progress
) -> Iterator[tuple[Any, Path, tuple[tuple[str, ...], int]]]:
    """Give the model that was traced real weights, and write its graphs with the same, in a block.

    Yields:
        The model, the directory with its graphs, and its layers' names in the full model with the full one's number.
    """
    from onnxport.blueprints.make import draft
    from onnxport.validation.on_demand import read_on_demand

    drafted = written.draft or draft(written.checkpoint, options, report)
    stacks = drafted.reduction.stacks
    kept = {stack.path: kept_layers(stack.traced, stack.full) for stack in stacks}
    binding = at_reduced_depth(drafted.bound.binding, kept)
    names = tuple(f"{path}.{index}" for path, layers in kept.items() for index in layers)
    beside = replace(options, external_data="always", weights="copy")
    with (
        Reader(written.checkpoint.directory, binding.files) as reader,
        tempfile.TemporaryDirectory(dir=written.directory, prefix=".proof.") as name,
    ):
        for traced in written.blueprint.graphs:
            graph = traced.graph.clone()
            finish(graph, keep_layout=options.weights == "link")
            bind_graph(graph, binding, reader, prefix=traced.prefix)
            write_graph(plan_graph(graph, traced.file, beside), graph, Path(name), reader)
        model = read_on_demand(drafted.reduction.model, binding, reader)
        yield model, Path(name), (names, sum(len(stack.full) for stack in stacks))
        reader.verify()


def _prove_few(
    written: Written,
    model: Any,
    context: tuple[Path, tuple[tuple[str, ...], int], ExportOptions],
    report: Progress,
) -> ValidationReport:
    directory, (names, layers), options = context
    compared = []
    for plan in written.plans:
        report(f"compare the weights of {plan.graph_file}", None)
        compared.append(compare_tensors(plan, written.graphs[plan.graph_file], written.directory))
    digests, reports = merged_digests(compared), []
    for traced, subject in _subjects(written, model, (directory, options)):
        tolerance = tolerance_of(traced.atol, options)
        try:
            found = prove_reduced(ReducedProof(subject, names, layers), digests, options.validate, tolerance, report)
        except NoKernelError as error:
            found = _no_kernel(error, options, tolerance)
        reports.append(found)
    return merged(reports)
