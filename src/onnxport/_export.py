"""The pipeline, from a checkpoint to a validated directory. Read this first.

checkpoint → description → trace → blueprint (these three cached, or created) → bound graphs → plan → written →
validated → renamed to the output directory
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    write_export,
)
from onnxport.checkpoint.adapters import Adapter
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.checkpoint.reading import Reader
from onnxport.description.description import Description
from onnxport.description.tolerances import tolerance_of
from onnxport.errors import OptionError, ValidationError
from onnxport.options import ExportOptions, OutputOptions, Progress
from onnxport.patching.scope import exclusive
from onnxport.validation.report import ValidationReport

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
    if not options.dry_run:
        check_output(output, force=options.force)
    report("read the checkpoint", None)
    checkpoint: Checkpoint = open_checkpoint(model, options.checkpoint)
    checkpoint, adapter = _without_adapter(checkpoint) if options.adapter_inputs else (checkpoint, None)
    source = BlueprintSource(checkpoint, options, report)
    description: Description = source.describe()
    trace: Trace = source.trace(description)
    blueprint: Blueprint = source.make(description, trace)
    with Reader(checkpoint.directory, blueprint.binding.files) as reader:
        graphs: BoundGraphs = bind_graphs(blueprint, reader, options.output, adapter)
        plan: Plan = plan_export(checkpoint, description.canonical_task, graphs, options.output, adapter)
        if options.dry_run:
            manifest = make_manifest(checkpoint, blueprint, graphs, Outcome(plan.files, _skipped(options)), options)
            return ExportResult(None, manifest, plan.files)
        with staged(output, force=options.force) as stage:
            original = Original(checkpoint, options, source.draft, source.described, adapter)
            written: Written = write_export(stage, plan, graphs, original, options.output, report)
            outcome = Outcome(written.files, _skipped(options), written.digests)
            manifest = make_manifest(checkpoint, blueprint, graphs, outcome, options)
            (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")  # the validation loads the directory
            validation: ValidationReport = _validate(written, blueprint, original, options, report)
            _check(validation, options.output)
            report("write the manifest", None)
            manifest = replace(manifest, validation=validation.to_dict())
            (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return ExportResult(output, manifest, list_files(output))


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


def _validate(
    written: Written, blueprint: Blueprint, original: Original, options: ExportOptions, report: Progress
) -> ValidationReport:
    if options.validate == "none":
        tolerances = [tolerance_of(graph, options.validation) for graph in blueprint.description.graphs]
        atol, rtol = (max(getattr(tolerance, name) for tolerance in tolerances) for name in ("atol", "rtol"))
        return ValidationReport("skipped", "none", atol, rtol, note="--validate none")
    with exclusive():
        from onnxport.validation.exported import validate_export

        return validate_export(written, blueprint, original, options, report)


def _check(validation: ValidationReport, options: OutputOptions) -> None:
    if validation.status == "failed" and not options.keep_invalid:
        failures = "; ".join(validation.failures[:3])
        more = f" (and {len(validation.failures) - 3} more)" if len(validation.failures) > 3 else ""
        raise ValidationError(
            f"the graph differs from the original: {failures}{more}. Nothing was written; --keep-invalid keeps the "
            "output, --atol and --rtol set the tolerances"
        )
