"""A small export without torch, and a parent that kills it: run by `test_kill.py` in a process of its own.

usage: kill_writer.py DIRECTORY audited|timed WEIGHTS SEED

DIRECTORY holds the checkpoints `v0` and `v1`. Each child exports one of them over the output, and dies: before the
n-th system call that Python reports (every n), or after a random time. The parent then looks at what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from onnxport.bundles._stages import exchange
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest
from onnxport.bundles.output import check_output, staged
from onnxport.checkpoint.reading import Reader, take_inventory
from onnxport.options import ExportOptions
from onnxport.weights import building
from onnxport.writing.planning import plan_graph
from onnxport.writing.write import write_graph
from tests.unit.weights_files import graph

WATCHED = ("open", "os.", "shutil.", "ctypes.call", "fcntl.", "tempfile.")


def export(directory: Path, version: int, weights: str) -> None:
    """Export a checkpoint as the pipeline does: stage, write, manifest, flush, rename."""
    source, output = directory / f"v{version}", directory / "out"
    options = ExportOptions(external_data="always", weights="link" if weights == "link" else "copy", force=True)
    check_output(output, force=True)
    inventory = take_inventory(source, sorted(source.glob("*.safetensors")))
    with Reader(source, inventory.files) as reader, staged(output, force=True) as stage:
        made = dict(inventory.tensors.items())
        turned = {"turned": building.transpose(made["w0"], [1, 0])}
        model = graph({**made, **turned}, reader)
        plan = plan_graph(model, "model.onnx", options)
        write_graph(plan, model, stage, reader)
        data = tuple(name for name, _ in plan.files[1:])
        component = ComponentDescription("model", "model.onnx", data, 20, 0, 0, (), ())
        manifest = Manifest("none", {"version": version}, {}, {}, (component,), {})
        (stage / FILE_NAME).write_text(manifest.to_json())


def fingerprint(output: Path) -> tuple[int, str] | None:
    """Return the version that an output says it is, and a digest of all it holds; None where there is none."""
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


def killed(work: Callable[[], None], wait: float | None) -> bool:
    """Run work in a child; tell whether it died before its end."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if wait is not None:
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def die_at(count: int) -> None:
    """Kill this process before the n-th system call of those that are watched."""
    left = [count]

    def hook(event: str, _: object) -> None:
        if event.startswith(WATCHED):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def can_exchange(directory: Path) -> bool:
    """Tell whether two names can change places at once; elsewhere a killed process may leave no output."""
    names = [directory / name for name in ("first", "second")]
    for name in names:
        name.mkdir()
    done = exchange(*names)
    for name in names:
        name.rmdir()
    return done


def main() -> None:
    directory, kind, weights, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    output, generator = directory / "out", random.Random(seed)
    wanted, took = {}, 0.0
    for version in (0, 1, 0):
        started = time.perf_counter()
        killed(lambda version=version: export(directory, version, weights), None)
        took = time.perf_counter() - started
        wanted[version] = fingerprint(output)
    seen, deaths, count, exchanges = [0, 0], 0, 0, can_exchange(directory)
    while count < 500 and not (kind == "timed" and deaths == 40):
        before = fingerprint(output)
        version = 0 if before is None else 1 - before[0]

        def work(version: int = version, count: int = count + 1) -> None:
            if kind == "audited":
                die_at(count)
            export(directory, version, weights)

        died = killed(work, generator.uniform(0, 1.2 * took) if kind == "timed" else None)
        after = fingerprint(output)
        assert after is None or after == wanted[after[0]], (count, after)
        assert after is not None or before is None or not exchanges, f"{count}: no output any more"
        assert died or after == wanted[version]
        seen[int(after != before)] += 1
        deaths, count = deaths + died, count + 1
        if kind == "audited" and not died:
            break
    export(directory, 1, weights)
    assert fingerprint(output) == wanted[1]
    left = sorted(path.name for path in directory.iterdir())
    print(json.dumps({"deaths": deaths, "kept": seen[0], "changed": seen[1], "left": left}))


if __name__ == "__main__":
    main()
