"""Repeat the validation of an exported directory against the checkpoint that it came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.containment import inside
from onnxport.errors import ValidationError
from onnxport.options import ExportOptions, Progress
from onnxport.patching.scope import exclusive
from onnxport.validation.reference import choose_reference
from onnxport.validation.report import ValidationReport, merged, with_note


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
    from onnxport.blueprints.describing import describe_model
    from onnxport.blueprints.subject import subject_of
    from onnxport.checkpoint.checkpoint import open_checkpoint
    from onnxport.description.tolerances import tolerance_of
    from onnxport.validation.exported import request_for
    from onnxport.validation.memory import choose_strategy
    from onnxport.validation.original import original_model
    from onnxport.validation.prove import prove

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
    checkpoint = open_checkpoint(original.model, chosen.checkpoint)
    subject = subject_of(checkpoint, chosen)
    strategy = choose_strategy(checkpoint, chosen.validation, reducible=False)
    reports = []
    with original_model(checkpoint, subject.model_class, chosen.checkpoint, strategy) as (model, note):
        for graph in describe_model(model, subject, chosen.graph).graphs:
            file = inside(directory, _file_of(manifest, graph.name, directory))
            request = replace(request_for(graph, model, directory, strategy), file=file)
            reports.append(prove(request, chosen.validate, tolerance_of(graph, chosen.validation), progress))
    return with_note(merged(reports), note)


def _file_of(manifest: Manifest, component: str, directory: Path) -> str:
    """Return the file of a component.

    Raises:
        ValidationError: the directory has no such component.
    """
    for described in manifest.components:
        if described.name == component:
            return described.file
    raise ValidationError(f"{directory} has no component {component}, the reference model needs it")
