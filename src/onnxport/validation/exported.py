"""Validate what an export has written, by the strategy that the memory allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.binding.bound_graphs import bind_graph
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.original import Original
from onnxport.bundles.written import Written
from onnxport.checkpoint.reading import Reader
from onnxport.description.description import GraphDescription
from onnxport.description.tolerances import Tolerance, tolerance_of
from onnxport.errors import NoKernelError
from onnxport.options import ExportOptions, Progress, ValidationOptions
from onnxport.passes.finish import finish
from onnxport.validation.digests import compare_tensors, merged_digests
from onnxport.validation.memory import Strategy, choose_strategy
from onnxport.validation.original import original_model
from onnxport.validation.prove import ProofRequest, prove
from onnxport.validation.reduced import ReducedProof, at_reduced_depth, kept_layers, prove_reduced
from onnxport.validation.report import ValidationReport, merged, with_note
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def validate_export(
    written: Written, blueprint: Blueprint, original: Original, options: ExportOptions, report: Progress
) -> ValidationReport:
    """Compare every graph of an export with the original.

    Args:
        written: the export.
        blueprint: the description of its graphs, and the graphs as they were traced.
        original: the checkpoint, and the model that was described.
        options: level, tolerances, memory, dtype.
        report: called with the stage and the share that is done.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        ValidationError: ONNX Runtime can't load or run a graph.
    """
    strategy = choose_strategy(original.checkpoint, options.validation, reducible=_is_reducible(blueprint))
    report("load the weights", None)
    if strategy.kind == "reduced":
        with _few_layers(written, blueprint, original, options, report) as few:
            found = _validate_few(few, written, blueprint, original, options, report)
        return with_note(found, strategy.note)
    reports, model_class = [], original.subject.model_class
    with original_model(original.checkpoint, model_class, options.checkpoint, strategy, original.draft) as (
        model,
        note,
    ):
        described = original.describe(blueprint.description, model)
        for graph in described.graphs:
            request = request_for(graph, model, written.directory, strategy)
            tolerance = tolerance_of(graph, options.validation)
            try:
                found = prove(request, options.validate, tolerance, report)
            except NoKernelError as error:
                found = _no_kernel(error, options.validation, tolerance)
            reports.append(found)
    return with_note(merged(reports), note)


def request_for(graph: GraphDescription, model: PreTrainedModel, directory: Path, strategy: Strategy) -> ProofRequest:
    """Say what is validated of one graph.

    Args:
        graph: its description, with the code for the model.
        model: the original.
        directory: where the graph is.
        strategy: whether its weights stay on disk.
    """
    module, examples = graph.module_of(model), graph.code.examples
    return ProofRequest(
        graph.name, directory / graph.file, module, examples, graph.sizes, mapped=strategy.kind != "whole"
    )


def _no_kernel(error: NoKernelError, options: ValidationOptions, tolerance: Tolerance) -> ValidationReport:
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
    depths = blueprint.trace.depths
    return (
        bool(blueprint.binding.files)
        and any(depth.layers for depth in depths)
        and all(depth.as_drafted and (depth.layers or not depth.note) for depth in depths)
    )


@dataclass(frozen=True)
class _FewLayers:
    """Hold the model that was traced, with real weights, and its graphs with the same.

    Attributes:
        model: the model.
        directory: where its graphs are.
        layers: names in the full model of the layers that it has.
        depth: how many layers the full model has.
    """

    model: PreTrainedModel
    directory: Path
    layers: tuple[str, ...]
    depth: int


@contextmanager
def _few_layers(
    written: Written, blueprint: Blueprint, original: Original, options: ExportOptions, report: Progress
) -> Iterator[_FewLayers]:
    """Give the model that was traced real weights, and write its graphs with the same, in a block."""
    from onnxport.validation.on_demand import read_on_demand

    draft = original.make_draft(report)
    stacks = draft.reduction.stacks
    kept = {stack.path: kept_layers(stack.traced, stack.full) for stack in stacks}
    binding = at_reduced_depth(draft.bound.binding, kept)
    names = tuple(f"{path}.{index}" for path, layers in kept.items() for index in layers)
    beside = replace(options.output, external_data="always", weights="copy")
    with (
        Reader(original.checkpoint.directory, binding.files) as reader,
        tempfile.TemporaryDirectory(dir=written.directory, prefix=".proof.") as name,
    ):
        for traced in blueprint.trace.graphs:
            graph = traced.graph.clone()
            finish(graph, keep_layout=options.weights == "link")
            bind_graph(graph, binding, reader, prefix=traced.prefix)
            write_graph(plan_graph(graph, traced.file, beside), graph, Path(name), reader)
        model = read_on_demand(draft.reduction.model, binding, reader)
        yield _FewLayers(model, Path(name), names, sum(len(stack.full) for stack in stacks))
        reader.verify()


def _validate_few(
    few: _FewLayers,
    written: Written,
    blueprint: Blueprint,
    original: Original,
    options: ExportOptions,
    report: Progress,
) -> ValidationReport:
    compared = []
    for plan in written.plan.graphs:
        report(f"compare the weights of {plan.graph_file}", None)
        compared.append(compare_tensors(plan, written.graphs.models[plan.graph_file], written.directory))
    digests, reports = merged_digests(compared), []
    for graph in original.describe(blueprint.description, few.model).graphs:
        tolerance = tolerance_of(graph, options.validation)
        proof = ReducedProof(request_for(graph, few.model, few.directory, Strategy("reduced")), few.layers, few.depth)
        try:
            found = prove_reduced(proof, digests, options.validate, tolerance, report)
        except NoKernelError as error:
            found = _no_kernel(error, options.validation, tolerance)
        reports.append(found)
    return merged(reports)
