"""The pipeline, from a checkpoint to a proved directory. Read this first.

checkpoint → blueprint (cached, or: bind, describe, trace) → stamp → bind → plan → (write → prove → bundle) → rename
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.binding.bound_graphs import bind_graph
from onnxport.blueprints.blueprint import Blueprint
from onnxport.blueprints.find import Found, find_blueprint
from onnxport.blueprints.keys import PACKAGES
from onnxport.bundles.components import describe_graph
from onnxport.bundles.manifest import FILE_NAME, Manifest
from onnxport.bundles.output import check_output, staged
from onnxport.bundles.side_files import module_files, side_files, write_module_files, write_side_files
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.checkpoint.digest import digesting, sha256_of_files
from onnxport.checkpoint.reading import Reader
from onnxport.description.tasks import LABELLED
from onnxport.errors import ValidationError
from onnxport.options import ExportOptions, Progress
from onnxport.passes.finish import finish
from onnxport.patching.scope import exclusive
from onnxport.validation.report import ValidationReport
from onnxport.validation.tolerances import tolerance_of
from onnxport.writing.planning import GraphPlan, plan_graph
from onnxport.writing.write import write_graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.blueprints.make import Subject

VERSIONS = (*PACKAGES, "onnxruntime")


@dataclass(frozen=True)
class PlannedFile:
    """Name one file that an export writes.

    Attributes:
        name: path inside the output directory.
        bytes: its size; None where only writing tells.
    """

    name: str
    bytes: int | None


@dataclass(frozen=True)
class ExportResult:
    """Tell what an export did.

    Attributes:
        directory: the output; None for a dry run.
        manifest: what `onnxport.json` says; for a dry run, what it would say, without validation.
        plan: the files that were, or would be, written.
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
    """Export a checkpoint to a directory with its ONNX graphs, proved against the original.

    Args:
        model: local directory, GGUF file, or repository on the hub.
        output: directory to create; it appears whole, or not at all.
        options: see `ExportOptions`.
        progress: called with the stage and the share of it that is done (None where that isn't known).

    Returns:
        The directory, its manifest and its files.

    Raises:
        CheckpointError: the checkpoint can't be read.
        UnsupportedError: its model type or the task isn't supported.
        TraceError: the model can't be captured.
        ValidationError: the graph differs from the original.
        OutputError: the output can't be written.
    """
    options = options or ExportOptions()
    report = progress or _no_progress
    output = Path(output)
    if not options.dry_run:
        check_output(output, force=options.force)
    report("read the checkpoint", None)
    checkpoint = open_checkpoint(model, options)
    found = find_blueprint(checkpoint, options, report)
    with Reader(checkpoint.directory, found.blueprint.binding.files) as reader:
        graphs = _bind(found, reader, options)
        plans = [plan_graph(graph, name, options) for name, graph in graphs.items()]
        if options.dry_run:
            plan = _planned(checkpoint, plans)
            skipped = ValidationReport("skipped", options.validate, 0.0, 0.0, note="dry run")
            return ExportResult(
                None, _describe(checkpoint, found.blueprint, graphs, (options, skipped, {}, plan)), plan
            )
        with staged(output, force=options.force) as stage:
            digests = _write(stage, (checkpoint, graphs, plans), (reader, options, report))
            original = _Original(checkpoint, found, options)
            labelled = found.blueprint.task.name in LABELLED
            write_side_files(stage, _side_files(checkpoint), original, labelled=labelled)
            write_module_files(stage, checkpoint)
            validation = _prove(stage, (checkpoint, found, graphs, plans), (original, options), report)
            _check(validation, options)
            report("write the manifest", None)
            files = _listing(stage)
            manifest = _describe(checkpoint, found.blueprint, graphs, (options, validation, digests, files))
            (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return ExportResult(output, manifest, _listing(output))


def _no_progress(stage: str, done: float | None) -> None:
    return None


class _Original:
    """The original, for what needs it: loaded when it is first asked for, and then kept."""

    def __init__(self, checkpoint: Checkpoint, found: Found, options: ExportOptions) -> None:
        self._checkpoint, self._found, self._options = checkpoint, found, options

    @cached_property
    def subject(self) -> Subject:
        if self._found.draft:
            return self._found.draft.subject
        with exclusive():
            from onnxport.blueprints.make import subject_of

            return subject_of(self._checkpoint, self._options)

    @property
    def config(self) -> Any:
        return self.subject.config

    @property
    def preprocessor(self) -> Any:
        return self.subject.preprocessor

    @property
    def generation_config(self) -> Any:
        from onnxport.loading.load import generation_config_for

        return generation_config_for(self.subject.model_class, self.config, self.preprocessor)


def _bind(found: Found, reader: Reader, options: ExportOptions) -> dict[str, ir.Model]:
    """Bind every graph's parameters to the checkpoint; return the graphs by file name."""
    graphs = {}
    for traced, graph in zip(found.blueprint.graphs, found.graphs, strict=True):
        finish(graph, keep_layout=options.weights == "link")
        bind_graph(graph, found.blueprint.binding, reader, prefix=traced.prefix)
        graphs[traced.file] = graph
    return graphs


def _planned(checkpoint: Checkpoint, plans: list[GraphPlan]) -> tuple[PlannedFile, ...]:
    """List the files that will be written; sizes of weights are exact, those of graphs are known after writing."""
    files = [PlannedFile(name, size) for plan in plans for name, size in plan.files]
    files += [PlannedFile(path.name, path.stat().st_size) for path in _side_files(checkpoint)]
    files += [PlannedFile(name, path.stat().st_size) for name, path in module_files(checkpoint).items()]
    return tuple([*dict.fromkeys(files), PlannedFile(FILE_NAME, None)])


def _side_files(checkpoint: Checkpoint) -> list[Path]:
    return side_files(checkpoint.directory, checkpoint.preprocessor_directory)


def _write(
    stage: Path,
    what: tuple[Checkpoint, dict[str, ir.Model], list[GraphPlan]],
    context: tuple[Reader, ExportOptions, Progress],
) -> dict[str, str]:
    """Write the graphs and their weights; return the digests of the checkpoint's files, unless they are linked."""
    checkpoint, graphs, plans = what
    reader, options, report = context
    paths = () if options.weights == "link" else (*checkpoint.weight_files, *checkpoint.module_weights.values())
    total = sum(tensor.nbytes for plan in plans for tensor in plan.tensors) or 1
    done = 0
    with digesting(paths, root=checkpoint.root or checkpoint.directory) as digests:
        for plan, (name, graph) in zip(plans, graphs.items(), strict=True):

            def written(count: int, name: str = name) -> None:
                nonlocal done
                done += count
                report(f"write {name}", done / total)

            write_graph(plan, graph, stage, reader, written)
        adapter = checkpoint.adapter
        return digests() | (sha256_of_files([adapter.file], root=adapter.directory) if adapter else {})


def _prove(
    stage: Path,
    what: tuple[Checkpoint, Found, dict[str, ir.Model], list[GraphPlan]],
    context: tuple[_Original, ExportOptions],
    report: Progress,
) -> ValidationReport:
    checkpoint, found, graphs, plans = what
    original, options = context
    if options.validate == "none":
        tolerance = tolerance_of(max(graph.atol for graph in found.blueprint.graphs), options)
        return ValidationReport("skipped", "none", tolerance.atol, tolerance.rtol, note="--validate none")
    with exclusive():
        from onnxport.validation.exported import Written, prove_export

        written = Written(stage, checkpoint, original.subject, found.blueprint, found.draft, graphs, plans)
        return prove_export(written, options, report)


def _check(validation: ValidationReport, options: ExportOptions) -> None:
    if validation.status == "failed" and not options.keep_invalid:
        failures = "; ".join(validation.failures[:3])
        more = f" (and {len(validation.failures) - 3} more)" if len(validation.failures) > 3 else ""
        raise ValidationError(
            f"the graph differs from the original: {failures}{more}. Nothing was written; --keep-invalid keeps the "
            "output, --atol and --rtol set what is accepted"
        )


def _listing(directory: Path) -> tuple[PlannedFile, ...]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return tuple(PlannedFile(str(path.relative_to(directory)), path.stat().st_size) for path in paths)


def _describe(
    checkpoint: Checkpoint,
    blueprint: Blueprint,
    graphs: dict[str, ir.Model],
    context: tuple[ExportOptions, ValidationReport, dict[str, str], tuple[PlannedFile, ...]],
) -> Manifest:
    options, validation, digests, files = context
    sizes = {file.name: file.bytes or 0 for file in files}
    components = tuple(
        describe_graph(traced, depth, graphs[traced.file], (blueprint.binding.note, sizes))
        for traced, depth in zip(blueprint.graphs, blueprint.depths, strict=True)
    )
    own = {FILE_NAME} | {name for c in components for name in (c.file, *c.external_data)}
    chosen = {name: value for name, value in asdict(options).items() if name not in ("token", "cache_dir")}
    source: dict[str, Any] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "model_type": blueprint.model_type,
        "architecture": blueprint.architecture,
        "weights_format": checkpoint.format,
        "weights_sha256": digests,
    }
    if checkpoint.quantization is not None:
        source["quantization"] = checkpoint.quantization
    if adapter := checkpoint.adapter:
        source["adapter"] = {"model": adapter.name, "revision": adapter.revision, "base": adapter.base}
    return Manifest(
        task=blueprint.task.full_name,
        source=source,
        options=chosen,
        versions={name: metadata.version(name) for name in VERSIONS},
        components=components,
        validation=validation.to_dict(),
        files=tuple(name for name in sizes if name not in own),
        modalities=blueprint.modalities,
    )
