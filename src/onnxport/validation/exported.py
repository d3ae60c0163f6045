"""Validate a written export, with the strategy that fits into memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport import samples
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.original import Original
from onnxport.bundles.adapter_files import adapter_inputs_of, file_name
from onnxport.bundles.adapter_names import adapter_file
from onnxport.bundles.written import BoundGraphs, Written, bind_graphs
from onnxport.checkpoint.reading import Reader
from onnxport.description.arguments import overridden
from onnxport.description.description import Description, GraphDescription
from onnxport.description.tolerances import Tolerance, tolerance_of
from onnxport.errors import NoKernelError
from onnxport.options import Dtype, ExportOptions, Progress, ValidationOptions
from onnxport.runtime.directory import Directory
from onnxport.runtime.settings import RunSettings
from onnxport.validation.digests import compare_tensors, merged_digests
from onnxport.validation.image_processing import compare_image_processing
from onnxport.validation.loss import LossRequest, measure_loss
from onnxport.validation.memory import Strategy, choose_strategy
from onnxport.validation.original import original_model
from onnxport.validation.prove import ProofRequest, prove
from onnxport.validation.quantized_original import quantized_binding
from onnxport.validation.reduced import ReducedProof, at_reduced_depth, prove_reduced, select_layers
from onnxport.validation.report import Case, Loss, ValidationReport, merged, with_note
from onnxport.validation.samples import compare_samples
from onnxport.validation.sessions import few_runs
from onnxport.validation.tokens import compare_tokens
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def validate_export(
    written: Written,
    bound: BoundGraphs,
    original: Original,
    options: ExportOptions,
    report: Progress,
) -> ValidationReport:
    """Compare every graph of one precision with the original; quantized ones with its quantized weights.

    Args:
        written: the export.
        bound: the graphs of the precision.
        original: the checkpoint, and the described model.
        options: level, tolerances, memory, dtype.
        report: called with the stage and its completed fraction.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        ValidationError: ONNX Runtime can't load or run a graph.
    """
    strategy = choose_strategy(original.checkpoint, options.validation, reducible=_is_reducible(bound.blueprint))
    report("load the weights", None)
    if strategy.name == "reduced":
        with _reduced_model(written, bound, original, options, report) as reduced:
            validation = _validate_reduced(reduced, written, bound, original, options, report)
        apart = "; the graph with its adapter wasn't compared" if original.adapter is not None else ""
        return with_note(validation, strategy.note + apart)
    reports, model_class = [], original.subject.model_class
    with original_model(
        original.checkpoint, model_class, options.checkpoint, strategy, original.draft, bound.quantized
    ) as (
        model,
        note,
    ):
        described = original.describe(bound.blueprint.description, model)
        is_used = uses_export(options, strategy)
        export = open_export(written.directory, bound.precision.name) if is_used or bound.quantized else None
        for graph, file in zip(described.graphs, bound.models, strict=True):
            casts = options.io_dtype is not None
            request = request_for(graph, model, written.directory, strategy)
            request = replace(
                request,
                file=written.directory / file,
                cast_outputs=casts,
                export=export,
                results=_results(original),
            )
            tolerance = tolerance_of(graph, options.validation)
            reports.append(
                proved_or_skipped(
                    partial(prove, request, options.validate, tolerance, report), options.validation, tolerance
                )
            )
        reports += _images(original, bound.blueprint, reports[0])
        is_run = all(one.status != "skipped" for one in reports)
        if export is not None and is_used and is_run:
            reports.append(compare_use(export, described, model, original.subject.preprocessor, options, report))
    if original.adapter is not None and is_run:
        reports += _with_adapter(written, bound, original, options, strategy, report)
    return with_note(merged(reports), note)


def losses_of(
    written: Written,
    graphs: Sequence[BoundGraphs],
    original: Original,
    options: ExportOptions,
    report: Progress,
) -> tuple[Loss, ...]:
    """Measure what quantized graphs lose against the original.

    Args:
        written: the export.
        graphs: its graphs of each precision.
        original: the checkpoint, and the described model.
        options: memory, and the text to measure with.
        report: called with the stage.

    Returns:
        The loss of each quantized precision; empty if the original's weights don't fit into memory.
    """
    quantized = [bound for bound in graphs if bound.quantized]
    strategy = choose_strategy(original.checkpoint, options.validation, reducible=False)
    if not quantized or strategy.name != "whole":
        return ()
    subject, losses = original.subject, []
    with original_model(original.checkpoint, subject.model_class, options.checkpoint, strategy, original.draft) as (
        model,
        _,
    ):
        text = samples.text(options.calibration_file)
        is_calibrated = options.calibration_file is not None
        request = LossRequest(model, original.preprocessor, subject.task, text, is_calibrated)
        for bound in quantized:
            report(f"measure the loss of {bound.precision.name}", None)
            settings = RunSettings(session_options=few_runs(), dtype=bound.precision.name)
            directory = Directory(written.directory, settings)
            losses.append(measure_loss(request, directory, bound.precision, _better_calibration(bound, options)))
    return tuple(loss for loss in losses if loss is not None)


def _better_calibration(bound: BoundGraphs, options: ExportOptions) -> str:
    """Return the option that calibrates with more than was used; empty if there is none."""
    if options.calibration_file is not None or not bound.precision.is_calibrated:
        return ""
    if any(matrix.importance is not None for matrix in bound.quantized.values()):
        return "--calibration FILE"
    return "--calibration FILE or random" if bound.blueprint.description.reads_text else ""


def _images(original: Original, blueprint: Blueprint, report: ValidationReport) -> list[ValidationReport]:
    """Compare the pre- and postprocessing of images, if a graph computes it; see `compare_image_processing`."""
    processing, opset = original.image_processing, blueprint.description.graphs[0].opset
    return [] if processing is None else [compare_image_processing(original.subject, processing, opset, report)]


def _results(original: Original) -> tuple[str, ...]:
    """Return the names of what a graph computes of the model's outputs."""
    processing = original.image_processing
    return () if processing is None else processing.results


def _with_adapter(
    written: Written,
    bound: BoundGraphs,
    original: Original,
    options: ExportOptions,
    strategy: Strategy,
    report: Progress,
) -> list[ValidationReport]:
    """Compare the graph that has inputs for an adapter, run with its file, with the original that it is merged into."""
    adapter = original.adapter
    assert adapter is not None
    checkpoint, model_class = replace(original.checkpoint, adapter=adapter), original.subject.model_class
    with original_model(checkpoint, model_class, options.checkpoint, strategy) as (model, _):
        described = original.describe(bound.blueprint.description, model)
        files = dict(zip(bound.models, described.graphs, strict=True))
        graphs = {file: files[file] for file, graph in bound.models.items() if adapter_inputs_of(graph)}
        components = [graph.name for graph in graphs.values()]
        requests = [
            replace(
                request_for(graph, model, written.directory, strategy),
                name=f"{graph.name} with the adapter",
                file=written.directory / file,
                adapter=adapter_file(written.directory / file_name(adapter), graph.name, components),
                results=_results(original),
            )
            for file, graph in graphs.items()
        ]
        return [
            prove(request, options.validate, tolerance_of(graph, options.validation), report)
            for request, graph in zip(requests, graphs.values(), strict=True)
        ]


def uses_export(options: ExportOptions, strategy: Strategy) -> bool:
    """Return whether `compare_use` is run: it needs all weights in memory."""
    return options.validate == "full" and strategy.name == "whole"


def open_export(directory: Path, dtype: Dtype) -> Directory:
    """Return an export, to run the graphs of one precision a few times."""
    return Directory(directory, RunSettings(session_options=few_runs(), dtype=dtype, exact=True))


def compare_use(
    export: Directory,
    described: Description,
    model: PreTrainedModel,
    preprocessor: Any,
    options: ExportOptions,
    report: Progress,
) -> ValidationReport:
    """Use the export as a whole: generate with it, then load it and pass samples through it.

    Args:
        export: the export.
        described: its graphs, with code.
        model: the original.
        preprocessor: tokenizer, processor, image processor or feature extractor of the checkpoint; None if it has none.
        options: tolerances.
        report: called with the stage.
    """
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
        cases += compare_samples(model, export, preprocessor, tolerance)
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
        graph.branch_sizes,
        mapped=strategy.name != "whole",
    )


def proved_or_skipped(
    proof: Callable[[], ValidationReport], options: ValidationOptions, tolerance: Tolerance
) -> ValidationReport:
    """Compare a graph; the validation of one in bfloat16, for which ONNX Runtime lacks kernels, is skipped.

    Args:
        proof: compares it.
        options: the options, with its floating-point type.
        tolerance: bounds of the comparison.

    Raises:
        NoKernelError: ONNX Runtime lacks a kernel for another type.
    """
    try:
        return proof()
    except NoKernelError as error:
        if options.dtype != "bf16":
            raise
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
    written: Written,
    bound: BoundGraphs,
    original: Original,
    options: ExportOptions,
    report: Progress,
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
        traced_graphs = bound.blueprint.trace.graphs
        reduced = replace(bound.blueprint, binding=binding, graphs=tuple(one.graph for one in traced_graphs))
        graphs = bind_graphs(reduced, reader, external, bound.precision)
        for traced, graph in zip(traced_graphs, graphs.models.values(), strict=True):
            write_graph(plan_graph(graph, traced.file, external), graph, Path(name), reader)
        model = read_on_demand(draft.reduction.model, quantized_binding(binding, graphs.quantized), reader)
        yield _ReducedModel(model, Path(name), names, sum(len(stack.full) for stack in stacks))
        reader.verify()


def _validate_reduced(
    reduced: _ReducedModel,
    written: Written,
    bound: BoundGraphs,
    original: Original,
    options: ExportOptions,
    report: Progress,
) -> ValidationReport:
    compared = []
    for plan in written.plan.graphs:
        if plan.graph_file in bound.models:
            report(f"compare the weights of {plan.graph_file}", None)
            compared.append(compare_tensors(plan, bound.models[plan.graph_file], written.directory))
    digests, reports = merged_digests(compared), []
    for graph in original.describe_traced(bound.blueprint.description, reduced.model).graphs:
        tolerance = tolerance_of(graph, options.validation)
        request = request_for(graph, reduced.model, reduced.directory, Strategy("reduced"))
        proof = ReducedProof(request, reduced.layers, reduced.depth)
        reports.append(
            proved_or_skipped(
                partial(prove_reduced, proof, digests, options.validate, tolerance, report),
                options.validation,
                tolerance,
            )
        )
    return merged([*reports, *_images(original, bound.blueprint, reports[0])])
