"""Bind, plan and write an export: graphs with their tensors, the planned files, and the written files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.binding.bound_graphs import bind_graph
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.original import Original
from onnxport.bundles.adapter_files import (
    adapted_weights,
    adapter_inputs_of,
    file_name,
    write_adapter_files,
)
from onnxport.bundles.adapter_names import adapter_file
from onnxport.bundles.calibration_file import write_importance
from onnxport.bundles.manifest import FILE_NAME, TensorDescription
from onnxport.bundles.side_files import module_files, side_files, write_module_files, write_side_files
from onnxport.checkpoint.adapters import Adapter
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.digest import digesting, sha256_of_files
from onnxport.checkpoint.reading import Reader
from onnxport.description.tasks import LABELLED, Task
from onnxport.errors import UnsupportedError
from onnxport.options import FloatDtype, OutputOptions, Progress
from onnxport.passes.adapter_inputs import DOWN, AdapterInputsPass
from onnxport.passes.finish import finish
from onnxport.passes.quantization_plan import Calibration, QuantizedMatrix, calibrated, keep_grids
from onnxport.passes.quantize import QuantizePass, plan_quantization, stored_matrices
from onnxport.weights.expressions import NO_FILES, Array
from onnxport.weights.precision import Precision, suffixed
from onnxport.writing.planning import GraphPlan, plan_graph
from onnxport.writing.write import write_graph

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class PlannedFile:
    """Describe a file of an export.

    Attributes:
        name: path relative to the output directory.
        bytes: its size; None if unknown before it is written.
    """

    name: str
    bytes: int | None


@dataclass(frozen=True)
class BoundGraphs:
    """Hold graphs of one precision, whose parameters are tensors of a checkpoint.

    Attributes:
        blueprint: their description, and their traced and stamped layers.
        models: file name to graph at full depth.
        reader: reads the tensors.
        precision: how their weights are stored.
        quantized: full name of a parameter to how it is quantized.
    """

    blueprint: Blueprint
    models: Mapping[str, ir.Model]
    reader: Reader
    precision: Precision
    quantized: Mapping[str, QuantizedMatrix] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Hold the files that an export will write.

    Attributes:
        graphs: files and offsets of the tensors of each graph.
        files: every file, with its size; the sizes of graphs are unknown before they are written.
        labelled: whether the outputs of the exported task are scores of labels.
    """

    graphs: tuple[GraphPlan, ...]
    files: tuple[PlannedFile, ...]
    labelled: bool = False


@dataclass(frozen=True)
class Written:
    """Hold a written export.

    Attributes:
        directory: the directory of its files.
        graphs: the written graphs, with their tensors, of each precision.
        plan: files and offsets of the tensors.
        digests: SHA-256 of the checkpoint's files, by name; empty if they are linked.
    """

    directory: Path
    graphs: tuple[BoundGraphs, ...]
    plan: Plan
    digests: Mapping[str, str]

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        """The directory's files."""
        return list_files(self.directory)


def bind_graphs(
    blueprint: Blueprint,
    reader: Reader,
    options: OutputOptions,
    precision: Precision,
    adapter: Adapter | None = None,
    calibration: Calibration | None = None,
) -> BoundGraphs:
    """Bind every graph's parameters to the checkpoint.

    Args:
        blueprint: its graphs aren't modified.
        reader: reads the checkpoint when a tensor is written.
        options: `weights`; linked tensors have the checkpoint's layout.
        precision: how weights are stored.
        adapter: an adapter whose matrices become optional inputs of the graphs; None for graphs without such inputs.
        calibration: what was measured with a text; None if nothing was.

    Raises:
        WeightsMismatchError: a parameter isn't bound, or its dtype or shape differs from its expression's; or the
            adapter changes a layer that isn't in a graph.
        UnsupportedError: the adapter can't be inputs of a graph; or the model has no matrix to quantize.
    """
    traced = blueprint.trace.graphs
    graphs = [graph.clone() for graph in blueprint.graphs]
    weights = set(adapted_weights(adapter, list(blueprint.binding.expressions)).values()) if adapter else set()
    if weights:
        for one, graph in zip(traced, graphs, strict=True):
            local = {name.removeprefix(one.prefix) for name in weights if name.startswith(one.prefix)}
            AdapterInputsPass(local, one.prefix)(graph)
    prefixed = [(one.prefix, graph) for one, graph in zip(traced, graphs, strict=True)]
    quantized = plan_quantization(prefixed, precision) if precision.scheme is not None else {}
    if precision.scheme is not None and not quantized:
        raise UnsupportedError(
            f"the model has no linear layer or embedding that --dtype {precision.name} quantizes; choose "
            f"--dtype {precision.float_dtype}"
        )
    if precision.keeps_grids:
        quantized = keep_grids(quantized, blueprint.binding, reader)
    quantized = calibrated(quantized, calibration or Calibration())
    models = {}
    for one, graph in zip(traced, graphs, strict=True):
        if quantized:
            quantized |= stored_matrices(graph, one.prefix, one.name, quantized)
            QuantizePass(quantized, one.prefix, precision)(graph)
        finish(graph, keep_layout=options.weights == "link")
        bind_graph(graph, blueprint.binding, reader, prefix=one.prefix)
        models[suffixed(one.file, precision.suffix)] = graph
    if adapter is not None:
        _check_inputs(adapter, models, weights)
    return BoundGraphs(blueprint, models, reader, precision, quantized)


def _check_inputs(adapter: Adapter, models: Mapping[str, ir.Model], weights: Collection[str]) -> None:
    """Check that the graphs have inputs for all layers that an adapter changes."""
    names = {value.name for model in models.values() for value in adapter_inputs_of(model)}
    missing = sorted(name for name in weights if name.removesuffix(".weight") + DOWN not in names)
    if missing:
        raise UnsupportedError(
            f"{adapter.name}: the adapter changes {', '.join(missing)}, which no graph ({', '.join(models)}) has; "
            "merge it, without --adapter-inputs"
        )


def _adapter_inputs(graphs: BoundGraphs) -> dict[str, tuple[TensorDescription, ...]]:
    """Return the inputs for adapters by component, of the graphs that have some."""
    named = zip(graphs.blueprint.trace.graphs, graphs.models.values(), strict=True)
    return {traced.name: inputs for traced, model in named if (inputs := adapter_inputs_of(model))}


def plan_export(
    checkpoint: Checkpoint,
    task: Task,
    graphs: Sequence[BoundGraphs],
    options: OutputOptions,
    adapter: Adapter | None = None,
) -> Plan:
    """Plan the files that will be written; sizes of weights are exact.

    Args:
        checkpoint: the checkpoint.
        task: the exported task.
        graphs: its graphs of each precision, with their tensors.
        options: `external_data` and `weights`.
        adapter: an adapter that is kept apart; None if there is none.

    Raises:
        OptionError: weights can't be linked.
        OutputError: two files would have the same name.
    """
    plans = tuple(plan_graph(graph, name, options) for one in graphs for name, graph in one.models.items())
    files = [PlannedFile(name, size) for plan in plans for name, size in plan.files]
    files += [PlannedFile(path.name, path.stat().st_size) for path in _side_files(checkpoint)]
    files += [PlannedFile(name, path.stat().st_size) for name, path in module_files(checkpoint).items()]
    if adapter is not None:
        components = _adapter_inputs(graphs[0])
        named = (adapter_file(Path(file_name(adapter)), component, components) for component in components)
        files += [PlannedFile(path.name, None) for path in named]
    names = {task.name, *((checkpoint.sentence.model.task,) if checkpoint.sentence else ())}
    return Plan(plans, (*dict.fromkeys(files), PlannedFile(FILE_NAME, None)), bool(names & LABELLED))


def write_export(
    stage: Path,
    plan: Plan,
    graphs: tuple[BoundGraphs, ...],
    original: Original,
    options: OutputOptions,
    report: Progress,
) -> Written:
    """Write the graphs, their weights, and the checkpoint's other files.

    Args:
        stage: the staging directory.
        plan: the files to write.
        graphs: the graphs of each precision.
        original: the checkpoint, and the sources of side files that it lacks.
        options: `weights`.
        report: called with the file and the fraction of all weights that has been written.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        OSError: a file can't be written.
    """
    digests = _write_graphs(stage, plan, graphs, original.checkpoint, options, report)
    checkpoint = original.checkpoint
    write_side_files(
        stage,
        _side_files(checkpoint),
        original,
        labelled=plan.labelled,
        own_tokenizer=not (checkpoint.sentence and checkpoint.sentence.static),
        has_adapter=checkpoint.adapter is not None,
    )
    write_module_files(stage, original.checkpoint)
    if original.adapter is not None:
        write_adapter_files(original.adapter, stage / file_name(original.adapter), _adapter_inputs(graphs[0]))
    write_importance(stage, _importance_of(graphs))
    return Written(stage, graphs, plan, digests)


def _importance_of(graphs: Sequence[BoundGraphs]) -> dict[FloatDtype, dict[str, Array]]:
    """Return the measured inputs of the quantized layers of each floating-point type, by full name of a weight."""
    found: dict[FloatDtype, dict[str, Array]] = {}
    for bound in graphs:
        for name, matrix in bound.quantized.items():
            if matrix.importance is not None:
                found.setdefault(bound.precision.float_dtype, {})[name] = matrix.importance.evaluate(NO_FILES)
    return found


def _write_graphs(
    stage: Path,
    plan: Plan,
    graphs: Sequence[BoundGraphs],
    checkpoint: Checkpoint,
    options: OutputOptions,
    report: Progress,
) -> dict[str, str]:
    """Write the graphs and their weights; return the digests of the checkpoint's files, unless they are linked."""
    paths = () if options.weights == "link" else (*checkpoint.weight_files, *checkpoint.module_weights.values())
    total = sum(tensor.nbytes for graph in plan.graphs for tensor in graph.tensors) or 1
    done = 0
    with digesting(paths, root=checkpoint.root or checkpoint.directory) as digests:
        models = [(name, graph, one.reader) for one in graphs for name, graph in one.models.items()]
        for graph_plan, (name, graph, reader) in zip(plan.graphs, models, strict=True):

            def written(count: int, name: str = name) -> None:
                nonlocal done
                done += count
                report(f"write {name}", done / total)

            write_graph(graph_plan, graph, stage, reader, written)
        adapter = checkpoint.adapter
        return digests() | (sha256_of_files([adapter.file], root=adapter.directory) if adapter else {})


def list_files(directory: Path) -> tuple[PlannedFile, ...]:
    """List the files of a directory, with their sizes."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return tuple(PlannedFile(str(path.relative_to(directory)), path.stat().st_size) for path in paths)


def unlinked_files(directory: Path) -> tuple[Path, ...]:
    """List the files of a directory except the manifest and links to a checkpoint's weights."""
    paths = (directory / file.name for file in list_files(directory) if file.name != FILE_NAME)
    return tuple(path for path in paths if path.stat().st_nlink == 1)


def _side_files(checkpoint: Checkpoint) -> list[Path]:
    return side_files(checkpoint.directory, checkpoint.preprocessor_directory)
