"""Repeat the validation of an exported directory against its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.bundles.calibration_file import read_importance
from onnxport.bundles.manifest import ComponentDescription, Manifest, open_manifest
from onnxport.checkpoint.typed_values import typed
from onnxport.containment import inside
from onnxport.errors import CorruptCheckpointError, OptionError, ValidationError
from onnxport.options import Dtype, ExportOptions, Progress, float_dtype_of
from onnxport.passes.quantization_plan import QuantizedMatrix, from_values
from onnxport.patching.scope import exclusive
from onnxport.validation.reference import choose_reference
from onnxport.validation.report import ValidationReport, merged, of_precision, with_note
from onnxport.weights.quantization import BlockScheme, quantized_already

if TYPE_CHECKING:
    from onnxport.checkpoint.checkpoint import Checkpoint


@exclusive()
def validate(
    directory: str | Path,
    reference: str | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare an exported directory with its original again.

    Args:
        directory: an exported directory.
        reference: checkpoint to compare with; defaults to the manifest's, if that is on this machine: a path, or a
            snapshot in the hub's cache.
        options: tolerances, level, and how the checkpoint is read; task and dtype are the manifest's. The manifest's
            `description` and `trust_remote_code` are ignored.
        progress: called with the stage and its completed fraction.

    Returns:
        The report; the directory isn't modified.

    Raises:
        CorruptCheckpointError: the manifest is damaged.
        CheckpointNotFoundError: the directory has no manifest, or lacks a graph; or the manifest's checkpoint isn't on
            this machine.
        CheckpointError: the reference can't be read.
        UntrustedCodeError: the comparison would run code that the caller didn't name.
        ValidationError: a graph can't be loaded or run.
        OptionError: the directory has a layout that leaves out inputs of the original, or is for a client alone.
    """
    from onnxport.checkpoint.checkpoint import open_checkpoint

    directory = Path(directory)
    manifest = open_manifest(directory)
    manifest.check_runnable(directory)
    requested = _requested(directory, manifest, options or ExportOptions())
    absent = [name for item in manifest.components for name in item.absent_inputs]
    if absent:
        raise OptionError(
            f"{directory} has the layout {manifest.layout}, which leaves out the original's inputs "
            f"{', '.join(dict.fromkeys(absent))}: validate the export in the default layout"
        )
    original = choose_reference(directory, manifest, reference, requested)
    options = original.options
    checkpoint = open_checkpoint(original.model, options.checkpoint)
    reports = [
        report
        for dtype in options.dtypes
        for report in _validate_precision(directory, manifest, dtype, checkpoint, options, progress)
    ]
    return merged(reports)


def _validate_precision(
    directory: Path,
    manifest: Manifest,
    dtype: Dtype,
    checkpoint: Checkpoint,
    options: ExportOptions,
    progress: Progress | None,
) -> Iterator[ValidationReport]:
    """Yield the report of each graph of one precision."""
    from onnxport.blueprints.describing import describe_model
    from onnxport.blueprints.image_processing import find_image_processing, taking_images
    from onnxport.blueprints.subject import subject_of
    from onnxport.description.tolerances import tolerance_of
    from onnxport.validation.exported import compare_use, open_export, proved_or_skipped, request_for, uses_export
    from onnxport.validation.image_processing import compare_image_processing
    from onnxport.validation.memory import choose_strategy
    from onnxport.validation.original import original_model
    from onnxport.validation.prove import prove

    options = replace(options, dtype=float_dtype_of(dtype))
    subject, plan = subject_of(checkpoint, options), _quantization(manifest, dtype, directory)
    strategy = choose_strategy(checkpoint, options.validation, reducible=False)
    is_used = uses_export(options, strategy)
    export = open_export(directory, dtype) if plan or is_used else None
    casts = manifest.options.get("io_dtype") is not None
    named = dtype if plan or len(manifest.dtypes) > 1 else ""
    with original_model(checkpoint, subject.model_class, options.checkpoint, strategy, quantized=plan) as (model, note):
        described = describe_model(model, subject, options.graph)
        processing = find_image_processing(subject, described) if options.image_processing else None
        results = () if processing is None else processing.results
        described = described if processing is None else taking_images(described, processing)
        statuses = set[str]()
        for graph in described.graphs:
            component = _component(manifest, graph.name, dtype, directory)
            request = replace(
                request_for(graph, model, directory, strategy),
                file=inside(directory, component.file),
                cast_outputs=casts,
                export=export,
                results=results,
                model_names=component.model_names,
            )
            tolerance = tolerance_of(graph, options.validation)
            proof = partial(prove, request, options.validate, tolerance, progress)
            proved = proved_or_skipped(proof, options.validation, tolerance)
            statuses.add(proved.status)
            yield with_note(of_precision(proved, named), note)
        if export is not None and is_used and "skipped" not in statuses:
            used = compare_use(export, described, model, subject.preprocessor, options, progress or (lambda *_: None))
            yield of_precision(used, named)
        if processing is not None:
            yield compare_image_processing(subject, processing, described.graphs[0].opset, proved)


@dataclass(frozen=True)
class _Recorded:
    """Hold the options of an export that its graphs depend on, as its manifest has them; see `ExportOptions`."""

    dtype: str
    last_logits: bool | None = None
    split_encoders: bool | None = None
    inputs_embeds: bool | None = None
    image_processing: bool | None = None
    outputs: tuple[str, ...] | None = None
    fix: dict[str, int] | None = None
    route: str | None = None


def _requested(directory: Path, manifest: Manifest, options: ExportOptions) -> ExportOptions:
    """Return options with those of the export that its graphs depend on.

    Raises:
        CorruptCheckpointError: one of the manifest's has another type.
        OptionError: one has an invalid value.
    """
    names = [field.name for field in fields(_Recorded)]
    values = {name: manifest.options[name] for name in names if name in manifest.options}
    values.setdefault("split_encoders", manifest.options.get("towers"))  # its name in manifests of format 1
    try:
        recorded = typed(values, _Recorded, "options")
    except ValueError as error:
        raise CorruptCheckpointError(f"{directory}: onnxport.json is damaged: {error}; export again") from error
    return replace(
        options,
        task=manifest.task,
        dtype=recorded.dtype,
        last_logits=bool(recorded.last_logits),
        split_encoders=bool(recorded.split_encoders),
        inputs_embeds=bool(recorded.inputs_embeds),
        image_processing=bool(recorded.image_processing),
        outputs=recorded.outputs,
        fix=recorded.fix,
        route=recorded.route,
    )


def _quantization(manifest: Manifest, dtype: Dtype, directory: Path) -> dict[str, QuantizedMatrix]:
    """Return how the parameters of a precision are quantized; empty for a floating-point one.

    Raises:
        CorruptCheckpointError: the manifest is damaged.
    """
    try:
        groups = manifest.quantization.get(dtype, ())
        plan = from_values(groups, read_importance(directory, float_dtype_of(dtype)))
        return _with_stored(plan, manifest, dtype, directory)
    except ValueError as error:
        raise CorruptCheckpointError(f"{directory}: onnxport.json is damaged: {error}; export again") from error


def _with_stored(
    plan: Mapping[str, QuantizedMatrix], manifest: Manifest, dtype: str, directory: Path
) -> dict[str, QuantizedMatrix]:
    """Return a plan with the matrices that graphs store, whose integers don't follow from the original's weights.

    Raises:
        CorruptCheckpointError: a graph is damaged, or lacks a matrix that the manifest names.
        ValidationError: the directory lacks a graph that the manifest names.
    """
    import onnx_ir as ir

    from onnxport.bundles.inspection import check_graph

    named = {name: matrix for name, matrix in plan.items() if matrix.stored is not None}
    graphs = {}
    for component in {matrix.stored.component for matrix in named.values() if matrix.stored is not None}:
        file = inside(directory, _component(manifest, component, dtype, directory).file)
        check_graph(file)
        graphs[component] = {name: value.const_value for name, value in ir.load(file).graph.initializers.items()}
    return {**plan, **{name: _read_stored(matrix, graphs, directory) for name, matrix in named.items()}}


def _read_stored(matrix: QuantizedMatrix, graphs: Mapping[str, Mapping[str, Any]], directory: Path) -> QuantizedMatrix:
    place, scheme = matrix.stored, matrix.scheme
    if place is None or not isinstance(scheme, BlockScheme):
        raise ValueError("only matrices in blocks are stored")
    parts = {}
    for part in scheme.parts:
        tensor = graphs[place.component].get(f"{place.tensor}_{part}")
        stored = None if tensor is None else np.atleast_1d(tensor.numpy())[place.first : place.first + place.rows]
        if stored is None or stored.shape != scheme.shape_of(part, place.rows, place.columns):
            raise CorruptCheckpointError(
                f"{directory} has no matrix {place.tensor} as onnxport.json says; export again"
            )
        parts[part] = stored
    return replace(matrix, rounded=quantized_already(parts, scheme, place.columns))


def _component(manifest: Manifest, component: str, dtype: str, directory: Path) -> ComponentDescription:
    """Return the description of a component.

    Raises:
        ValidationError: the directory has no such component.
    """
    for described in manifest.components:
        if described.name == component and described.dtype in (dtype, ""):
            return described
    raise ValidationError(
        f"{directory} has no component {component}, which the reference model has; export it again, or name the "
        "exported checkpoint with --reference"
    )
