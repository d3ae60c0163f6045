"""Repeat the validation of an exported directory against its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.containment import inside
from onnxport.errors import CorruptCheckpointError, ValidationError
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
        directory: an exported directory.
        reference: checkpoint to compare with; defaults to the manifest's, if that is on this machine: a path, or a
            snapshot in the hub's cache.
        options: tolerances, level, and how the checkpoint is read; task and dtype are the manifest's. The manifest's
            `description` and `trust_remote_code` are ignored.
        progress: called with the stage and its completed fraction.

    Returns:
        The report; the directory isn't modified.

    Raises:
        CheckpointNotFoundError: the directory has no manifest, or lacks a graph; or the manifest's checkpoint isn't on
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
    recorded = manifest.options
    if "dtype" not in recorded:
        raise CorruptCheckpointError(f"{directory}: onnxport.json is damaged: no dtype among its options; export again")
    last_logits = bool(recorded.get("last_logits"))
    split_encoders = bool(recorded.get("split_encoders", recorded.get("towers")))  # its name in manifests of format 1
    requested = replace(
        options or ExportOptions(),
        task=manifest.task,
        dtype=recorded["dtype"],
        last_logits=last_logits,
        split_encoders=split_encoders,
        inputs_embeds=recorded.get("inputs_embeds", False),
        outputs=recorded.get("outputs") and tuple(recorded["outputs"]),
        fix=recorded.get("fix"),
        route=recorded.get("route"),
    )
    original = choose_reference(directory, manifest, reference, requested)
    options = original.options
    checkpoint = open_checkpoint(original.model, options.checkpoint)
    subject = subject_of(checkpoint, options)
    strategy = choose_strategy(checkpoint, options.validation, reducible=False)
    reports = []
    with original_model(checkpoint, subject.model_class, options.checkpoint, strategy) as (model, note):
        for graph in describe_model(model, subject, options.graph).graphs:
            file = inside(directory, _file_of(manifest, graph.name, directory))
            casts = recorded.get("io_dtype") is not None
            request = replace(request_for(graph, model, directory, strategy), file=file, cast_outputs=casts)
            reports.append(prove(request, options.validate, tolerance_of(graph, options.validation), progress))
    return with_note(merged(reports), note)


def _file_of(manifest: Manifest, component: str, directory: Path) -> str:
    """Return the file of a component.

    Raises:
        ValidationError: the directory has no such component.
    """
    for described in manifest.components:
        if described.name == component:
            return described.file
    raise ValidationError(
        f"{directory} has no component {component}, which the reference model has; export it again, or name the "
        "exported checkpoint with --reference"
    )
