"""A small export without torch, and a parent process that kills it; `test_kill.py` runs it in a separate process.

usage: kill_writer.py DIRECTORY MODE WEIGHTS SEED

DIRECTORY has the checkpoints `v0` and `v1`. Each child exports one of them to the same output. MODE is a signal that it
gets before the n-th system call that Python audits (for every n), `timed` for SIGKILL after a random time, or an error
(`ENOSPC`, `EMFILE`, `EIO`) that the n-th of these calls, reads, writes and flushes fails with. The parent then checks
the output.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxport.bundles._stages import exchange
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest
from onnxport.bundles.output import check_output, staged
from onnxport.checkpoint.reading import Reader, list_tensors
from onnxport.errors import OnnxportError
from onnxport.options import ExportOptions
from onnxport.weights import building
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph
from tests.unit.weights_files import graph

INTERRUPTED, FAILED = 7, 8
MOST = 500
CALLS = ("fsync", "write", "pwrite", "pwritev", "preadv", "sendfile", "copy_file_range", "fstat", "stat")
"""Functions that aren't audited."""
WATCHED_EVENTS = ("open", "os.", "shutil.", "ctypes.call", "fcntl.", "tempfile.")


def export(directory: Path, version: int, weights: str) -> None:
    """Export a checkpoint as the pipeline does: stage, write, manifest, flush, rename."""
    source, output = directory / f"v{version}", directory / "out"
    options = ExportOptions(external_data="always", weights="link" if weights == "link" else "copy", force=True)
    check_output(output, force=True)
    inventory = list_tensors(source, sorted(source.glob("*.safetensors")))
    with Reader(source, inventory.files) as reader, staged(output, force=True) as stage:
        tensors = dict(inventory.tensors.items())
        transposed = {"transposed": building.transpose(tensors["w0"], [1, 0])}
        model = graph({**tensors, **transposed}, reader)
        plan = plan_graph(model, "model.onnx", options)
        write_graph(plan, model, stage, reader)
        data = tuple(name for name, _ in plan.files[1:])
        component = ComponentDescription("model", "model.onnx", data, 20, 0, 0, (), ())
        manifest = Manifest("none", {"version": version}, {}, {}, (component,), {})
        (stage / FILE_NAME).write_text(manifest.to_json())


def fingerprint(output: Path) -> tuple[int, str] | None:
    """Return the version in an output's manifest and a digest of its files; None if there is no output."""
    if not output.exists():
        return None
    manifest = json.loads((output / FILE_NAME).read_text())
    expected = {FILE_NAME, "model.onnx", *manifest["components"][0]["external_data"]}
    assert {path.name for path in output.iterdir()} == expected
    digest = hashlib.sha256()
    for name in sorted(expected):
        digest.update((output / name).read_bytes())
    for value in ir.load(output / "model.onnx").graph.initializers.values():
        assert value.const_value is not None
    return manifest["source"]["version"], digest.hexdigest()


def run_and_kill(work: Callable[[], None], wait: float | None) -> bool:
    """Run work in a child process; return whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        except (OnnxportError, OSError):
            os._exit(FAILED)
        os._exit(0)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (0, INTERRUPTED, FAILED), status
    return os.WIFSIGNALED(status) or os.WEXITSTATUS(status) != 0


def disturb(count: int, mode: str) -> list[int]:
    """Send this process a signal before its n-th call, or let that call fail; return the number of calls left."""
    left, number = [count], getattr(signal, mode, None)

    def call() -> None:
        left[0] -= 1
        if left[0] == 0 and number is not None:
            os.kill(os.getpid(), number)
        elif left[0] == 0:
            code = getattr(errno, mode)
            raise OSError(code, os.strerror(code))

    def hook(event: str, _: object) -> None:
        if event.startswith(WATCHED_EVENTS):
            call()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            call()
            return function(*arguments, **keywords)

        return wrapper

    for name in filter(os.__dict__.__contains__, CALLS) if number is None else ():
        setattr(os, name, counted(getattr(os, name)))
    sys.addaudithook(hook)
    return left


def can_exchange(directory: Path) -> bool:
    """Return whether paths can be exchanged atomically; otherwise, a killed process may leave no output."""
    names = [directory / name for name in ("first", "second")]
    for name in names:
        name.mkdir()
    done = exchange(*names)
    for name in names:
        name.rmdir()
    return done


def main() -> None:
    directory, mode, weights, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    output, generator = directory / "out", random.Random(seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for commands in the background
    expected, took = {}, 0.0
    for version in (0, 1, 0):
        started = time.perf_counter()
        run_and_kill(lambda version=version: export(directory, version, weights), None)
        took = time.perf_counter() - started
        expected[version] = fingerprint(output)
    seen, deaths, count, exchanges = [0, 0], 0, 0, can_exchange(directory)
    while count < MOST and not (mode == "timed" and deaths == 40):
        before = fingerprint(output)
        version = 0 if before is None else 1 - before[0]

        def work(version: int = version, count: int = count + 1) -> None:
            left = disturb(count, mode) if mode != "timed" else [0]
            export(directory, version, weights)
            if left[0] <= 0 and mode not in ("timed", "SIGINT"):
                os._exit(FAILED)  # the failure of a call that isn't necessary, such as a removal

        died = run_and_kill(work, generator.uniform(0, 1.2 * took) if mode == "timed" else None)
        after = fingerprint(output)
        assert after is None or after == expected[after[0]], (count, after)
        assert after is not None or before is None or not exchanges, f"{count}: the output is missing"
        assert died or after == expected[version], (count, mode)
        seen[int(after != before)] += 1
        took *= 1.05 if after == before else 0.9  # a busy machine is slower than it was when it was measured
        deaths, count = deaths + died, count + 1
        if mode != "timed" and not died:
            break
    export(directory, 1, weights)
    assert fingerprint(output) == expected[1]
    left = sorted(path.name for path in directory.iterdir())
    print(json.dumps({"deaths": deaths, "kept": seen[0], "changed": seen[1], "left": left}))


if __name__ == "__main__":
    main()
