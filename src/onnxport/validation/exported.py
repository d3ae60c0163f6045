"""Validate a written export, with the strategy that fits into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.binding.bound_graphs import bind_graph
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.original import Original
from onnxport.bundles.adapter_files import adapter_inputs_of, file_name
from onnxport.bundles.written import Written
from onnxport.checkpoint.reading import Reader
from onnxport.description.arguments import overridden
from onnxport.description.description import Description, GraphDescription
from onnxport.description.tolerances import Tolerance, tolerance_of
from onnxport.errors import NoKernelError
from onnxport.options import ExportOptions, Progress, ValidationOptions
from onnxport.passes.finish import finish
from onnxport.runtime.directory import Directory
from onnxport.runtime.settings import RunSettings
from onnxport.validation.digests import compare_tensors, merged_digests
from onnxport.validation.memory import Strategy, choose_strategy
from onnxport.validation.original import original_model
from onnxport.validation.prove import ProofRequest, prove
from onnxport.validation.reduced import ReducedProof, at_reduced_depth, prove_reduced, select_layers
from onnxport.validation.report import Case, ValidationReport, merged, with_note
from onnxport.validation.samples import compare_samples
from onnxport.validation.sessions import few_runs
from onnxport.validation.tokens import compare_tokens
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
        blueprint: the description of its graphs, and the traced graphs.
        original: the checkpoint, and the described model.
        options: level, tolerances, memory, dtype.
        report: called with the stage and its completed fraction.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        ValidationError: ONNX Runtime can't load or run a graph.
    """
    strategy = choose_strategy(original.checkpoint, options.validation, reducible=_is_reducible(blueprint))
    report("load the weights", None)
    if strategy.name == "reduced":
        with _reduced_model(written, blueprint, original, options, report) as reduced:
            validation = _validate_reduced(reduced, written, blueprint, original, options, report)
        apart = "; the graph with its adapter wasn't compared" if original.adapter is not None else ""
        return with_note(validation, strategy.note + apart)
    reports, model_class = [], original.subject.model_class
    with original_model(original.checkpoint, model_class, options.checkpoint, strategy, original.draft) as (
        model,
        note,
    ):
        described = original.describe(blueprint.description, model)
        is_used = options.validate == "full" and strategy.name == "whole"
        export = Directory(written.directory, RunSettings(session_options=few_runs())) if is_used else None
        for graph in described.graphs:
            casts = options.io_dtype is not None
            request = request_for(graph, model, written.directory, strategy)
            request = replace(request, export=export, cast_outputs=casts)
            tolerance = tolerance_of(graph, options.validation)
            try:
                validation = prove(request, options.validate, tolerance, report)
            except NoKernelError as error:
                validation = _skipped_without_kernel(error, options.validation, tolerance)
            reports.append(validation)
        if export is not None and merged(reports).status != "skipped":
            reports.append(_use(export, described, model, original, options, report))
    if original.adapter is not None and merged(reports).status != "skipped":
        reports += _with_adapter(written, blueprint, original, options, strategy, report)
    return with_note(merged(reports), note)


def _with_adapter(
    written: Written,
    blueprint: Blueprint,
    original: Original,
    options: ExportOptions,
    strategy: Strategy,
    report: Progress,
) -> list[ValidationReport]:
    """Compare the graph that has inputs for an adapter, run with its file, with the original that it is merged into."""
    adapter = original.adapter
    assert adapter is not None
    checkpoint, model_class = replace(original.checkpoint, adapter=adapter), original.subject.model_class
    adapted = {name for name, graph in written.graphs.models.items() if adapter_inputs_of(graph)}
    with original_model(checkpoint, model_class, options.checkpoint, strategy) as (model, _):
        graphs = [graph for graph in original.describe(blueprint.description, model).graphs if graph.file in adapted]
        requests = [
            replace(
                request_for(graph, model, written.directory, strategy),
                name=f"{graph.name} with the adapter",
                adapter=written.directory / file_name(adapter),
            )
            for graph in graphs
        ]
        return [
            prove(request, options.validate, tolerance_of(graph, options.validation), report)
            for request, graph in zip(requests, graphs, strict=True)
        ]


def _use(
    export: Directory,
    described: Description,
    model: PreTrainedModel,
    original: Original,
    options: ExportOptions,
    report: Progress,
) -> ValidationReport:
    """Use the export as a whole: generate with it, then load it and pass samples through it."""
    tolerance = tolerance_of(described.graphs[-1], options.validation)
    cases: list[Case] = []
    if described.canonical_task.with_past:
        report("validate generation", None)
        cases += compare_tokens(described.graphs, model, export, tolerance)
    report("validate samples", None)
    if len(described.graphs) == 1:  # the encoder of an encoder-decoder
        model = described.graphs[0].module_of(model)
    with ExitStack() as stack:
        for graph in described.graphs:
            stack.enter_context(overridden(model, graph.code.config))
        cases += compare_samples(model, export, original.subject.preprocessor, tolerance)
    status = "passed" if all(case.passed for case in cases) else "failed"
    return ValidationReport(status, "full", tolerance.atol, tolerance.rtol, tuple(cases))


def request_for(graph: GraphDescription, model: PreTrainedModel, directory: Path, strategy: Strategy) -> ProofRequest:
    """Return the request for the validation of one graph.

    Args:
        graph: its description, with the code for the model.
        model: the original model.
        directory: the directory of the graph.
        strategy: the validation strategy, which determines whether the graph's weights stay on disk.
    """
    module, examples = graph.module_of(model), graph.code.examples
    return ProofRequest(
        graph.name,
        directory / graph.file,
        module,
        examples,
        graph.sizes,
        graph.max_sizes,
        mapped=strategy.name != "whole",
    )


def _skipped_without_kernel(error: NoKernelError, options: ValidationOptions, tolerance: Tolerance) -> ValidationReport:
    """Return the report of a validation that is skipped because ONNX Runtime lacks a kernel.

    Raises:
        NoKernelError: the dtype isn't bfloat16, for which ONNX Runtime is known to lack kernels.
    """
    if options.dtype != "bf16":
        raise error
    note = f"ONNX Runtime's CPU provider has no bfloat16 kernels, nothing was compared: {error}"
    return ValidationReport("skipped", options.validate, tolerance.atol, tolerance.rtol, note=note)


def _is_reducible(blueprint: Blueprint) -> bool:
    """Return whether all graphs were traced from the model with few layers, and weights can be read in parts."""
    depths = blueprint.trace.depths
    return (
        bool(blueprint.binding.files)
        and any(depth.layers for depth in depths)
        and all(depth.as_drafted and (depth.layers or not depth.note) for depth in depths)
    )


@dataclass(frozen=True)
class _ReducedModel:
    """Hold the traced model, which has few layers, with the checkpoint's weights, and its graphs.

    Attributes:
        model: the model.
        directory: the directory of its graphs, which have the same weights.
        layers: names of its layers in the full model.
        depth: number of layers of the full model.
    """

    model: PreTrainedModel
    directory: Path
    layers: tuple[str, ...]
    depth: int


@contextmanager
def _reduced_model(
    written: Written, blueprint: Blueprint, original: Original, options: ExportOptions, report: Progress
) -> Iterator[_ReducedModel]:
    """Yield the traced model with the checkpoint's weights, and its graphs with the same weights."""
    from onnxport.validation.on_demand import read_on_demand

    draft = original.make_draft(report)
    stacks = draft.reduction.stacks
    selected = {stack.path: select_layers(stack.traced, stack.full) for stack in stacks}
    binding = at_reduced_depth(draft.bound.binding, selected)
    names = tuple(f"{path}.{index}" for path, layers in selected.items() for index in layers)
    external = replace(options.output, external_data="always", weights="copy")
    with (
        Reader(original.checkpoint.directory, binding.files) as reader,
        tempfile.TemporaryDirectory(dir=written.directory, prefix=".proof.") as name,
    ):
        for traced in blueprint.trace.graphs:
            graph = traced.graph.clone()
            finish(graph, keep_layout=options.weights == "link")
            bind_graph(graph, binding, reader, prefix=traced.prefix)
            write_graph(plan_graph(graph, traced.file, external), graph, Path(name), reader)
        model = read_on_demand(draft.reduction.model, binding, reader)
        yield _ReducedModel(model, Path(name), names, sum(len(stack.full) for stack in stacks))
        reader.verify()


def _validate_reduced(
    reduced: _ReducedModel,
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
    for graph in original.describe(blueprint.description, reduced.model).graphs:
        tolerance = tolerance_of(graph, options.validation)
        request = request_for(graph, reduced.model, reduced.directory, Strategy("reduced"))
        proof = ReducedProof(request, reduced.layers, reduced.depth)
        try:
            validation = prove_reduced(proof, digests, options.validate, tolerance, report)
        except NoKernelError as error:
            validation = _skipped_without_kernel(error, options.validation, tolerance)
        reports.append(validation)
    return merged(reports)
