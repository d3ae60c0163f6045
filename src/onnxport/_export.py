"""The pipeline: describe, trace, write, prove, bundle. Read this first.

checkpoint → describe → trace → plan → (stage: write → prove → bundle) → rename into place
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.bundles.directory import check_output, staged
from onnxport.bundles.inspection import describe_value
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest
from onnxport.errors import NoKernelError, ValidationError
from onnxport.options import ExportOptions
from onnxport.validation.report import ValidationReport

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxport.architectures.describe import Component
    from onnxport.configs.examples import Examples
    from onnxport.configs.tasks import Task
    from onnxport.validation.tolerances import Tolerance
    from onnxport.weights.checkpoint import Checkpoint

Progress = Callable[[str, float | None], None]
PACKAGES = ("onnxport", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


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


@dataclass(frozen=True)
class _Traced:
    component: Component
    graph: ir.Model
    examples: Examples
    sizes: dict[str, int]

    @property
    def file(self) -> str:
        return f"{self.component.name}.onnx"


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
    checkpoint, task, components = _open(model, options, report)
    traced = []
    for index, component in enumerate(components):
        report(f"trace {component.name}", index / len(components))
        traced.append(_trace(component, options))
    plan = _plan(checkpoint, traced, components[0].preprocessor, options)
    if options.dry_run:
        skipped = ValidationReport("skipped", options.validate, 0.0, 0.0, note="dry run")
        return ExportResult(None, _manifest(checkpoint, task, traced, (options, skipped, plan)), plan)
    with staged(output) as stage:
        _write(stage, checkpoint, traced, (components, options, report))
        validation = _prove(stage, traced, options, report)
        _check(validation, options)
        report("write the manifest", None)
        files = _listing(stage)
        manifest = _manifest(checkpoint, task, traced, (options, validation, files))
        (stage / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return ExportResult(output, manifest, _listing(output))


def _no_progress(stage: str, done: float | None) -> None:
    return None


def _open(
    model: str | Path, options: ExportOptions, report: Progress
) -> tuple[Checkpoint, Task, tuple[Component, ...]]:
    """Read a checkpoint into memory and describe its graphs."""
    from onnxport.architectures.describe import describe, infer_task, model_class
    from onnxport.configs.tasks import canonical_task
    from onnxport.weights.checkpoint import open_checkpoint
    from onnxport.weights.loading import load_config, load_model, load_preprocessor

    wanted = canonical_task(options.task) if options.task is not None else None
    checkpoint = open_checkpoint(model, options)
    config = load_config(checkpoint, options)
    if not config.architectures and checkpoint.format == "gguf":
        wanted = wanted or canonical_task("text-generation-with-past")
    code = checkpoint.directory if options.trust_remote_code else None
    task = wanted or infer_task(config, code=code)
    auto_class = model_class(config, task, code=code)
    preprocessor = load_preprocessor(checkpoint, options)
    report("load the weights", None)
    loaded = load_model(checkpoint, auto_class, options)
    report("describe the model", None)
    return checkpoint, task, describe(loaded, task, preprocessor)


def _trace(component: Component, options: ExportOptions) -> _Traced:
    from onnxport.configs.examples import Examples
    from onnxport.configs.signature import signature_of
    from onnxport.tracing import trace
    from onnxport.validation.prove import trace_examples

    signature = signature_of(component.config).today()
    examples = Examples(component.config, signature, component.preprocessor)
    layout, sizes = trace_examples(component.model, examples)
    layout.flat = {name: tensor.to(component.model.device) for name, tensor in layout.flat.items()}
    graph = trace(component.model, component.config, layout, signature, opset=options.opset)
    return _Traced(component, graph, examples, sizes)


def _plan(
    checkpoint: Checkpoint, traced: list[_Traced], preprocessor: Any, options: ExportOptions
) -> tuple[PlannedFile, ...]:
    """List the files that will be written; sizes of weights are exact, those of graphs are known after writing."""
    from onnxport.bundles.side_files import side_files
    from onnxport.weights.planning import plan_graph

    files = []
    for item in traced:
        files += [PlannedFile(name, size) for name, size in plan_graph(item.graph, item.file, options).files]
    files += [PlannedFile(path.name, path.stat().st_size) for path in side_files(checkpoint.directory)]
    return tuple([*files, PlannedFile(FILE_NAME, None)])


def _write(
    stage: Path,
    checkpoint: Checkpoint,
    traced: list[_Traced],
    context: tuple[tuple[Component, ...], ExportOptions, Progress],
) -> None:
    from onnxport.bundles.side_files import write_side_files
    from onnxport.weights.planning import plan_graph
    from onnxport.weights.writing import write_graph

    components, options, report = context
    for index, item in enumerate(traced):
        report(f"write {item.file}", index / len(traced))
        write_graph(plan_graph(item.graph, item.file, options), item.graph, stage)
    write_side_files(stage, checkpoint.directory, components[0].model.config, components[0].preprocessor)


def _prove(stage: Path, traced: list[_Traced], options: ExportOptions, report: Progress) -> ValidationReport:
    from onnxport.validation.prove import Subject, prove
    from onnxport.validation.tolerances import tolerance_of

    reports = []
    for item in traced:
        tolerance: Tolerance = tolerance_of(item.component.config.atol_for_validation, options)
        if options.validate == "none":
            reports.append(ValidationReport("skipped", "none", tolerance.atol, tolerance.rtol, note="--validate none"))
            continue
        subject = Subject(item.component.name, stage / item.file, item.component.model, item.examples, item.sizes)
        try:
            reports.append(prove(subject, options.validate, tolerance, report))
        except NoKernelError as error:
            if options.dtype != "bf16":
                raise
            note = f"ONNX Runtime's CPU provider has no bfloat16 kernels, nothing was compared: {error}"
            reports.append(ValidationReport("skipped", options.validate, tolerance.atol, tolerance.rtol, note=note))
    return _merged(reports)


def _merged(reports: list[ValidationReport]) -> ValidationReport:
    """Join the reports of several graphs; the worst status and the widest tolerance stand for all."""
    status = next((name for name in ("failed", "skipped") if any(r.status == name for r in reports)), "passed")
    return ValidationReport(
        status,
        reports[0].level,
        max(report.atol for report in reports),
        max(report.rtol for report in reports),
        tuple(case for report in reports for case in report.cases),
        reports[0].note,
    )


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


def _manifest(
    checkpoint: Checkpoint,
    task: Task,
    traced: list[_Traced],
    context: tuple[ExportOptions, ValidationReport, tuple[PlannedFile, ...]],
) -> Manifest:
    from onnxport.weights.digest import sha256_of_files

    options, validation, files = context
    sizes = {file.name: file.bytes or 0 for file in files}
    components = tuple(_describe_graph(item, sizes) for item in traced)
    own = {FILE_NAME} | {name for c in components for name in (c.file, *c.external_data)}
    chosen = {name: value for name, value in asdict(options).items() if name not in ("token", "cache_dir")}
    model_config = traced[0].component.model.config
    source = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "model_type": checkpoint.model_type or model_config.model_type,
        "architecture": type(traced[0].component.model).__name__,
        "weights_format": checkpoint.format,
        "weights_sha256": sha256_of_files(checkpoint.weight_files, root=checkpoint.directory),
    }
    return Manifest(
        task=task.full_name,
        source=source,
        options=chosen,
        versions={name: metadata.version(name) for name in PACKAGES},
        components=components,
        validation=validation.to_dict(),
        files=tuple(name for name in sizes if name not in own),
    )


def _describe_graph(item: _Traced, sizes: dict[str, int]) -> ComponentDescription:
    from onnxport.configs.axes import today_label

    graph = item.graph.graph
    data = tuple(name for name in sizes if name.startswith(f"{item.file}_data"))
    tensors = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    inputs = tuple(describe_value(value) for value in graph.inputs)
    wanted = item.component.config.inputs
    fixed = tuple(
        f"{tensor.name}: {today_label(label)} = {tensor.axes[axis]}"
        for tensor in inputs
        for axis, label in wanted[tensor.name].items()
        if isinstance(tensor.axes[axis], int)
    )
    return ComponentDescription(
        name=item.component.name,
        file=item.file,
        external_data=data,
        opset=item.graph.opset_imports[""],
        parameters=sum(tensor.size for tensor in tensors),
        bytes=sum(sizes[name] for name in (item.file, *data)),
        inputs=inputs,
        outputs=tuple(describe_value(value) for value in graph.outputs),
        fixed_axes=fixed,
    )
