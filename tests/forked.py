"""Run code in a fresh interpreter that has imported third-party packages already.

Importing PyTorch and Transformers takes seconds of processor time. A server process imports them once, and each call
forks it: nothing of onnxport has been imported there. Tests of what an import loads start an interpreter of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PRELOADED = ["numpy", "torch", "onnx_ir", "onnxruntime", "transformers.modeling_utils", "transformers.cache_utils"]
SECONDS = 300


@dataclass(frozen=True)
class Finished:
    """What a process returned: its exit code, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def run_code(code: str, *arguments: str, check: bool = True, directory: Path | None = None) -> Finished:
    """Run Python code as `python -c CODE ARGUMENTS` would.

    Args:
        code: what is executed as `__main__`.
        arguments: what follows in `sys.argv`.
        check: whether an exit code other than 0 is an error.
        directory: where it runs; by default where the tests do.

    Raises:
        AssertionError: the code failed, or didn't end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # once the server runs, this changes nothing
    with tempfile.TemporaryDirectory() as written:
        process = context.Process(
            target=_execute, args=(code, arguments, written, dict(os.environ)), kwargs={"directory": directory}
        )
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [(Path(written) / name).read_text() for name in ("stdout", "stderr")]
        finished = Finished(process.exitcode or 0, *texts)
    assert not check or finished.returncode == 0, finished.stderr
    return finished


def _execute(
    code: str, arguments: tuple[str, ...], written: str, environment: dict[str, str], directory: Path | None
) -> None:
    if directory is not None:
        os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        opened = os.open(Path(written) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
