"""Run code in a new interpreter that has already imported third-party packages.

Importing PyTorch and Transformers takes seconds of CPU time. A server process imports them once and is forked for each
call; it has imported no module of onnxport. Tests of the effects of imports start a separate interpreter.
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
    """Exit code and output of a process."""

    returncode: int
    stdout: str
    stderr: str


def run_code(code: str, *arguments: str, check: bool = True, directory: Path | None = None) -> Finished:
    """Run Python code like `python -c CODE ARGUMENTS`.

    Args:
        code: code that is executed as `__main__`.
        arguments: items of `sys.argv` after the first.
        check: whether an exit code other than 0 is an error.
        directory: working directory; by default that of the tests.

    Raises:
        AssertionError: the code failed, or ran longer than the time limit.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # without effect once the server runs
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
