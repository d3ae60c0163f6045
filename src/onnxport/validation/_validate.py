"""Repeat the proof of an exported directory against the checkpoint that it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.errors import ValidationError
from onnxport.options import ExportOptions, Progress
from onnxport.validation.report import ValidationReport, merged, with_note

if TYPE_CHECKING:
    from onnxport.architectures.describe import Component
    from onnxport.validation.memory import Strategy


def validate(
    directory: str | Path,
    reference: str | None = None,
    options: ExportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare an exported directory with its original again.

    Args:
        directory: what `onnxport.export` wrote.
        reference: checkpoint to compare with; the manifest's own without.
        options: tolerances, level, and how the checkpoint is read; task and dtype are the manifest's.
        progress: called with the stage and the share that is done.

    Returns:
        The report; nothing in the directory changes.

    Raises:
        CheckpointNotFoundError: the directory has no manifest, or lacks a graph.
        CheckpointError: the reference can't be read.
        ValidationError: a graph can't be loaded or run.
    """
    from onnxport.architectures.describe import describe
    from onnxport.blueprints.make import subject_of
    from onnxport.checkpoint.checkpoint import open_checkpoint
    from onnxport.validation.memory import strategy_for
    from onnxport.validation.original import original_model

    directory = Path(directory)
    manifest = open_manifest(directory)
    given = options or ExportOptions()
    was = manifest.options
    last_logits = bool(was.get("last_logits"))
    split_encoders = bool(was.get("split_encoders", was.get("towers")))  # its name until the manifest's format 2
    chosen = replace(
        given, task=manifest.task, dtype=was["dtype"], last_logits=last_logits, split_encoders=split_encoders
    )
    chosen = replace(chosen, description=given.description or was.get("description"))
    if reference is None:
        framework = given.framework or manifest.options.get("framework")
        adapter = given.adapter or manifest.options.get("adapter")
        revision = given.revision or manifest.source["revision"]
        chosen = replace(chosen, revision=revision, framework=framework, adapter=adapter)
    checkpoint = open_checkpoint(reference or manifest.source["model"], chosen)
    subject = subject_of(checkpoint, chosen)
    strategy = strategy_for(checkpoint, chosen, reducible=False)
    reports = []
    with original_model(checkpoint, subject.model_class, chosen, strategy) as (model, note):
        for component in describe(model, subject.task, subject.preprocessor, chosen):
            reports.append(_prove(directory, component, (manifest, chosen, strategy, progress)))
    return with_note(merged(reports), note)


def _prove(
    directory: Path, component: Component, context: tuple[Manifest, ExportOptions, Strategy, Progress | None]
) -> ValidationReport:
    from onnxport.description.examples import Examples
    from onnxport.description.signature import signature_of
    from onnxport.tracing.originals import trace_examples
    from onnxport.validation.prove import Subject, prove
    from onnxport.validation.tolerances import tolerance_of

    manifest, options, strategy, progress = context
    described = next((item for item in manifest.components if item.name == component.name), None)
    if described is None:
        raise ValidationError(f"{directory} has no component {component.name}, the reference model needs it")
    signature = signature_of(component.config).today()
    examples = Examples(component.config, signature, component.preprocessor)
    _, sizes = trace_examples(component.model, examples)
    tolerance = tolerance_of(component.config.atol_for_validation, options)
    mapped = strategy.mode != "whole"
    subject = Subject(component.name, directory / described.file, component.model, examples, sizes, mapped)
    return prove(subject, options.validate, tolerance, progress)
