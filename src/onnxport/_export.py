"""The pipeline, from a checkpoint to a validated directory. Read this first.

checkpoint → description → trace → blueprint (these three cached, or created) → bound graphs → plan → written →
validated → renamed to the output directory
"""

from __future__ import annotations

import logging
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport import samples
from onnxport._transformers_api import TESTED_VERSIONS, untested_version
from onnxport.blueprints.blueprint import Blueprint, Trace
from onnxport.blueprints.find import BlueprintSource
from onnxport.blueprints.original import Original
from onnxport.bundles.components import Outcome, make_manifest
from onnxport.bundles.manifest import FILE_NAME, Manifest
from onnxport.bundles.output import check_output, staged
from onnxport.bundles.written import (
    BoundGraphs,
    Plan,
    PlannedFile,
    Written,
    bind_graphs,
    list_files,
    plan_export,
    unlinked_files,
    write_export,
)
from onnxport.checkpoint.adapters import Adapter
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.checkpoint.digest import digesting
from onnxport.checkpoint.reading import Reader
from onnxport.description.description import Description
from onnxport.description.tolerances import tolerance_of
from onnxport.errors import OptionError, ValidationError
from onnxport.layouts._arrange import arrange, check
from onnxport.layouts._layout import Exported
from onnxport.layouts._table import completed, layout_of
from onnxport.options import DEFAULT_LAYOUT, ExportOptions, OutputOptions, Progress
from onnxport.patching.scope import exclusive
from onnxport.validation.calibrate import calibrate
from onnxport.validation.report import ValidationReport, merged, of_precision
from onnxport.weights.precision import precisions_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportResult:
    """Hold the result of an export.

    Attributes:
        directory: the output directory; None for a dry run.
        manifest: the content of `onnxport.json`; for a dry run, without validation results.
        plan: the files that were written; for a dry run, the files that would be.
    """

    directory: Path | None
    manifest: Manifest
    plan: tuple[PlannedFile, ...]


def export(
    model: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ExportResult:
    """Export a checkpoint to a directory with its ONNX graphs, validated against the original.

    Args:
        model: local directory, GGUF file, or repository on the hub.
        output: directory to create; it is created atomically.
        options: see `ExportOptions`.
        progress: called with the stage and its completed fraction (None if unknown).

    Returns:
        The directory, its manifest and its files.

    Raises:
        CheckpointError: the checkpoint can't be read.
        UnsupportedError: its model type or the task isn't supported.
        TraceError: the model can't be captured.
        ValidationError: the graph's outputs differ from the original model's.
        OutputError: the output can't be written.
    """
    options, report, output = options or ExportOptions(), progress or _no_progress, Path(output)
    if (version := untested_version()) is not None:
        tested = " and ".join(TESTED_VERSIONS)
        logger.warning("onnxport is tested with Transformers %s, and %s is installed", tested, version)
    samples.text(options.calibration_file)
    if not options.dry_run:
        check_output(output, force=options.force)
    report("read the checkpoint", None)
    layout = layout_of(options.layout) if options.layout != DEFAULT_LAYOUT else None
    checkpoint: Checkpoint = open_checkpoint(model, options.checkpoint)
    options = _completed(options, checkpoint)
    checkpoint, adapter = _without_adapter(checkpoint) if options.adapter_inputs else (checkpoint, None)
    with ExitStack() as readers:
        parts = [
            _prepare(checkpoint, replace(options, dtype=dtype), options, adapter, readers, report)
            for dtype in options.float_dtypes
        ]
        graphs = tuple(bound for part in parts for bound in part.graphs)
        task = graphs[0].blueprint.description.canonical_task
        plan: Plan = plan_export(checkpoint, task, graphs, options.output, adapter)
        manifest = make_manifest(checkpoint, graphs, Outcome(plan.files, _skipped(options)), options)
        if layout is not None:
            check(Exported(checkpoint.directory, manifest), layout)
        if options.dry_run:
            return ExportResult(None, manifest, plan.files)
        with staged(output, force=options.force) as published:
            stage = published if layout is None else published / _DEFAULT_FILES
            stage.mkdir(exist_ok=True)
            written: Written = write_export(stage, plan, graphs, parts[0].original, options.output, report)
            outcome = Outcome(written.files, _skipped(options), written.digests)
            manifest = make_manifest(checkpoint, graphs, outcome, options)
            (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")  # the validation loads the directory
            with digesting(unlinked_files(stage), root=stage) as digests:
                validation: ValidationReport = merged([_validate(written, part, options, report) for part in parts])
                _check(validation, options.output)
                report("write the manifest", None)
                manifest = replace(manifest, validation=validation.to_dict(), digests=digests())
            (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
            if layout is not None:
                manifest = arrange(Exported(stage, manifest), layout, published)
                shutil.rmtree(stage)
    return ExportResult(output, manifest, list_files(output))


_DEFAULT_FILES = ".default"
"""Directory inside of the staging directory for the files in the default layout, before they are arranged."""


def _completed(options: ExportOptions, checkpoint: Checkpoint) -> ExportOptions:
    """Return the options with the defaults of the layout; log those that change the graphs."""
    chosen = completed(options, checkpoint.model_type, checkpoint.architectures)
    if chosen.split_encoders and not options.split_encoders:
        named = ", ".join(checkpoint.architectures) or checkpoint.model_type
        logger.warning("%s is exported with --split-encoders, as --layout %s needs it", named, options.layout)
    return chosen


@dataclass(frozen=True)
class _Part:
    """Hold the graphs of an export with one floating-point type.

    Attributes:
        graphs: the graphs of each precision.
        original: the original model.
        options: the options, with the floating-point type as dtype.
    """

    graphs: tuple[BoundGraphs, ...]
    original: Original
    options: ExportOptions


def _prepare(
    checkpoint: Checkpoint,
    options: ExportOptions,
    requested: ExportOptions,
    adapter: Adapter | None,
    readers: ExitStack,
    report: Progress,
) -> _Part:
    """Describe, trace and bind the graphs of one floating-point type.

    Args:
        checkpoint: the checkpoint.
        options: the options, with the floating-point type as dtype.
        requested: the options, with all precisions.
        adapter: an adapter that is kept apart; None if there is none.
        readers: closes the checkpoint's files.
        report: called with the stage.
    """
    source = BlueprintSource(checkpoint, options, report)
    description: Description = source.describe()
    trace: Trace = source.trace(description)
    blueprint: Blueprint = source.make(description, trace)
    reader = readers.enter_context(Reader(checkpoint.directory, blueprint.binding.files))
    processing = blueprint.image_processing
    original = Original(checkpoint, options, source.draft, source.described, adapter, processing)
    precisions = precisions_of(requested.dtypes, requested.quantize_options, is_quantized=checkpoint.is_quantized)
    own = [precision for precision in precisions if precision.float_dtype == options.dtype]
    calibrations = calibrate(original, blueprint, own, options, readers, report)
    graphs = tuple(
        bind_graphs(blueprint, reader, options.output, one, adapter, calibration)
        for one, calibration in zip(own, calibrations, strict=True)
    )
    return _Part(graphs, original, options)


def _without_adapter(checkpoint: Checkpoint) -> tuple[Checkpoint, Adapter]:
    """Return the base model of a checkpoint, and its adapter.

    Raises:
        OptionError: it has no adapter.
    """
    adapter = checkpoint.adapter
    if adapter is None:
        raise OptionError("--adapter-inputs needs an adapter: pass one as MODEL, or with --adapter")
    return replace(checkpoint, name=adapter.base, adapter=None), adapter


def _skipped(options: ExportOptions) -> dict[str, Any]:
    """Return the report of a validation that hasn't been done."""
    return ValidationReport("skipped", options.validate, 0.0, 0.0, note="dry run").to_dict()


def _no_progress(stage: str, done: float | None) -> None:
    return None


def _validate(written: Written, part: _Part, options: ExportOptions, report: Progress) -> ValidationReport:
    if options.validate == "none":
        tolerances = [tolerance_of(graph, options.validation) for graph in part.graphs[0].blueprint.description.graphs]
        atol, rtol = (max(getattr(tolerance, name) for tolerance in tolerances) for name in ("atol", "rtol"))
        return ValidationReport("skipped", "none", atol, rtol, note="--validate none")
    with exclusive():
        from onnxport.validation.exported import losses_of, validate_export

        several = len(options.dtypes) > 1
        validation = merged(
            [
                of_precision(
                    validate_export(written, bound, part.original, part.options, report),
                    bound.precision.name if several or bound.quantized else "",
                )
                for bound in part.graphs
            ]
        )
        if options.validate == "full" and validation.status == "passed":
            validation = replace(
                validation, losses=losses_of(written, part.graphs, part.original, part.options, report)
            )
        return validation


def _check(validation: ValidationReport, options: OutputOptions) -> None:
    if validation.status == "failed" and not options.keep_invalid:
        failures = "; ".join(validation.failures[:3])
        more = f" (and {len(validation.failures) - 3} more)" if len(validation.failures) > 3 else ""
        raise ValidationError(
            f"the graph differs from the original: {failures}{more}. Nothing was written; --keep-invalid keeps the "
            "output, --atol and --rtol set the tolerances"
        )
