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


def run_code(code: str, *arguments: str, check: bool = True) -> Finished:
    """Run Python code as `python -c CODE ARGUMENTS` would.

    Args:
        code: what is executed as `__main__`.
        arguments: what follows in `sys.argv`.
        check: whether an exit code other than 0 is an error.

    Raises:
        AssertionError: the code failed, or didn't end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # once the server runs, this changes nothing
    with tempfile.TemporaryDirectory() as directory:
        process = context.Process(target=_execute, args=(code, arguments, directory, dict(os.environ)))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
        texts = [(Path(directory) / name).read_text() for name in ("stdout", "stderr")]
        finished = Finished(process.exitcode or 0, *texts)
    assert not check or finished.returncode == 0, finished.stderr
    return finished


def _execute(code: str, arguments: tuple[str, ...], directory: str, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        opened = os.open(Path(directory) / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
