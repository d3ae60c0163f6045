"""Export many checkpoints, each in a process of its own.

A process that is killed, or needs too much memory, fails its checkpoint alone; its memory and its files are returned to
the system. Checkpoints of one configuration (fine-tuned ones) share a blueprint through the cache of graphs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from onnxport._process import python_command
from onnxport.bundles.components import recorded
from onnxport.bundles.manifest import Manifest, read_manifest
from onnxport.checkpoint.typed_values import typed
from onnxport.errors import CorruptCheckpointError, OptionError, message_of, one_line
from onnxport.layouts._table import completed
from onnxport.options import ExportOptions

Status = Literal["exported", "kept", "failed"]


@dataclass(frozen=True)
class ExportRecord:
    """Tell what became of one of several checkpoints.

    Attributes:
        model: the checkpoint, as it was named.
        output: its directory.
        status: `exported`; `kept` if the directory has an export with the same options; `failed`.
        seconds: duration, with the start of its process.
        task: the exported task; empty if it failed.
        validation: status of its validation; empty if it failed.
        error: what failed, in one line; empty otherwise.
        warnings: warnings of the export, one line each.
    """

    model: str
    output: str
    status: Status
    seconds: float = 0.0
    task: str = ""
    validation: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()


def export_all(
    models: Sequence[str],
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    jobs: int = 1,
    ray: str | None = None,
) -> Iterator[ExportRecord]:
    """Export checkpoints to directories that are named after them, several at a time.

    Args:
        models: local directories, GGUF files, or repositories on the hub.
        output: directory of the exports; each gets the last part of its checkpoint's name, without `.gguf`.
        options: options of every export.
        jobs: number of processes at a time.
        ray: address of a Ray cluster that exports them instead, as `ray.init` takes it: each checkpoint is a task of
            one CPU. All machines find the checkpoints and the output under the same paths. An export whose machine is
            lost is repeated.

    Yields:
        One record for each checkpoint, in the order in which they end. A checkpoint that can't be exported is a record
        with an error, not an exception.

    Raises:
        OptionError: two checkpoints would get the same directory, `jobs` isn't positive, or the cluster can't be
            reached.
        MissingDependencyError: Ray isn't installed.
    """
    if jobs < 1:
        raise OptionError(f"--jobs {jobs}: it is a number of processes, from 1")
    options = options or ExportOptions()
    directories = _directories(models, Path(output))
    if ray is not None:
        from onnxport.ray import run_tasks

        calls: list[tuple[Any, ...]] = [
            (_absolute(model), path.absolute(), options, []) for path, model in directories.items()
        ]
        yield from run_tasks(_export_one, calls, ray)
        return
    running: list[subprocess.Popen[bytes]] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        tasks = [pool.submit(_export_one, model, path, options, running) for path, model in directories.items()]
        for task in as_completed(tasks):
            yield task.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # it removes what it has written
        pool.shutdown()


def _directories(models: Sequence[str], output: Path) -> dict[Path, str]:
    """Return the checkpoint of each directory."""
    directories: dict[Path, str] = {}
    for model in models:
        name = Path(model).resolve().name if Path(model).exists() else model.rstrip("/").split("/")[-1]
        directory = output / name.removesuffix(".gguf")
        if (other := directories.setdefault(directory, model)) != model:
            raise OptionError(f"{other} and {model} would both be exported to {directory}: leave one out")
    return directories


def _absolute(model: str) -> str:
    return str(Path(model).absolute()) if Path(model).exists() else model


def _export_one(
    model: str, directory: Path, options: ExportOptions, running: list[subprocess.Popen[bytes]]
) -> ExportRecord:
    start = time.monotonic()
    try:
        kept = _earlier_export(directory, options)
    except (CorruptCheckpointError, OSError) as error:
        return ExportRecord(model, str(directory), "failed", error=message_of(error))
    if kept is not None:
        return ExportRecord(model, str(directory), "kept", task=kept.task, validation=kept.validation.get("status", ""))
    request = {"model": model, "output": str(directory), "options": asdict(options)}
    command = python_command("-c", "from onnxport._export_all import serve; serve()")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        running.append(process)
        answer, _ = process.communicate(json.dumps(request).encode())
    values: dict[str, Any] = json.loads(answer) if answer else {"error": _end_of(process.returncode)}
    values["warnings"] = tuple(values.get("warnings", ()))
    status: Status = "failed" if values.get("error") else "exported"
    seconds = round(time.monotonic() - start, 1)
    return ExportRecord(model, str(directory), status, seconds=seconds, **values)


def _earlier_export(directory: Path, options: ExportOptions) -> Manifest | None:
    """Return the manifest of a directory that was exported with the same options; None otherwise, or to replace it."""
    manifest = read_manifest(directory) if directory.is_dir() and not options.force else None
    if manifest is None:
        return None
    source = manifest.source
    wanted = recorded(completed(options, str(source.get("model_type")), (str(source.get("architecture")),)))
    return manifest if all(manifest.options.get(name, value) == value for name, value in wanted.items()) else None


def _end_of(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}: by the system if memory was short; run it again, with fewer --jobs"
    return f"its process ended with exit code {code}; export this checkpoint alone for the reason"


def serve() -> None:
    """Export one checkpoint: the request comes from standard input, the record goes to standard output, as JSON."""
    output = os.dup(1)
    os.dup2(2, 1)  # what other packages print
    warnings = _Warnings(logging.WARNING)

    def answer(**values: str) -> None:
        os.write(output, json.dumps({**values, "warnings": warnings.lines}).encode())

    def answer_error(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
        if isinstance(error, Exception):
            answer(error=message_of(error))

    sys.excepthook = answer_error
    request: dict[str, Any] = json.load(sys.stdin)
    logging.getLogger("onnxport").addHandler(warnings)
    from onnxport._export import export

    options = typed(request["options"], ExportOptions, "options")
    manifest = export(request["model"], request["output"], options).manifest
    answer(task=manifest.task, validation=manifest.validation["status"])


class _Warnings(logging.Handler):
    """Collect the lines of warnings."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(one_line(record.getMessage()))
