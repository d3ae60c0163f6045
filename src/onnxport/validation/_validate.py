"""Repeat the proof of an exported directory against the checkpoint that it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.containment import inside
from onnxport.errors import ValidationError
from onnxport.options import ExportOptions, Progress
from onnxport.patching.scope import exclusive
from onnxport.validation.reference import choose_reference
from onnxport.validation.report import ValidationReport, merged, with_note

if TYPE_CHECKING:
    from onnxport.description.components import Component
    from onnxport.validation.memory import Way


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
        directory: what `onnxport.export` wrote.
        reference: checkpoint to compare with. Without it, the one that the manifest names, where that is on this
            machine: a path, or a snapshot in the hub's cache.
        options: tolerances, level, and how the checkpoint is read; task and dtype are the manifest's. Neither the
            manifest's description nor its `trust_remote_code` is followed.
        progress: called with the stage and the share that is done.

    Returns:
        The report; nothing in the directory changes.

    Raises:
        CheckpointNotFoundError: the directory has no manifest, or lacks a graph; or what the manifest names isn't on
            this machine.
        CheckpointError: the reference can't be read.
        UntrustedCodeError: the comparison would run code that the caller didn't name.
        ValidationError: a graph can't be loaded or run.
    """
    from onnxport.architectures.describe import describe
    from onnxport.blueprints.make import subject_of
    from onnxport.checkpoint.checkpoint import open_checkpoint
    from onnxport.validation.memory import way_for
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
    original = choose_reference(directory, manifest, reference, chosen)
    chosen = original.options
    checkpoint = open_checkpoint(original.model, chosen)
    subject = subject_of(checkpoint, chosen)
    way = way_for(checkpoint, chosen, reducible=False)
    reports = []
    with original_model(checkpoint, subject.model_class, chosen, way) as (model, note):
        for component in describe(model, subject.task, subject.preprocessor, chosen):
            reports.append(_prove(directory, component, (manifest, chosen, way, progress)))
    return with_note(merged(reports), note)


def _prove(
    directory: Path, component: Component, context: tuple[Manifest, ExportOptions, Way, Progress | None]
) -> ValidationReport:
    from onnxport.description.examples import Examples
    from onnxport.description.signature import signature_of
    from onnxport.tracing.originals import trace_examples
    from onnxport.validation.prove import Subject, prove
    from onnxport.validation.tolerances import tolerance_of

    manifest, options, way, progress = context
    described = next((item for item in manifest.components if item.name == component.name), None)
    if described is None:
        raise ValidationError(f"{directory} has no component {component.name}, the reference model needs it")
    signature = signature_of(component.config).today()
    examples = Examples(component.config, signature, component.preprocessor)
    _, sizes = trace_examples(component.model, examples)
    tolerance = tolerance_of(component.config.atol_for_validation, options)
    mapped = way.kind != "whole"
    subject = Subject(component.name, inside(directory, described.file), component.model, examples, sizes, mapped)
    return prove(subject, options.validate, tolerance, progress)
