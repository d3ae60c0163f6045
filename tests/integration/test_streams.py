"""Standard streams may be closed, full or without a reader; Ctrl-C at any time leaves one line, not a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from onnxport._process import run_process

def command():
    from onnxport.cli._outcome import exit_code
    from onnxport.cli._progress import progress_bar
    from onnxport.cli._rendering import print_line

    def verb():
        with progress_bar(quiet=False) as report:
            for stage in "abc":
                report(stage, None)
        open(sys.argv[1], "w").write("complete")
        for _ in range(int(sys.argv[2])):
            print_line("a line of the result")
        return 0

    return exit_code(verb, debug=False)

sys.exit(run_process(lambda: command))
"""
LINES = (1, 20_000)
"""Less and more than the buffer of standard output."""


def run(shell: str, tmp_path: Path, lines: int) -> tuple[int, str, str]:
    """Run the command with redirections; return its exit code, what it wrote to its file, and the shell's output."""
    script, file = tmp_path / "command.py", tmp_path / "out"
    script.write_text(COMMAND)
    line = f'set -o pipefail; "{sys.executable}" "{script}" "{file}" {lines} {shell}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    return done.returncode, file.read_text() if file.exists() else "", done.stdout + done.stderr


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full", "2> >(true)", "2>&- <&-", "2>/dev/null"])
def test_standard_error_does_not_matter(tmp_path: Path, shell: str, lines: int) -> None:
    code, file, output = run(shell, tmp_path, lines)
    assert (code, file) == (0, "complete")
    assert output == "a line of the result\n" * lines


@pytest.mark.parametrize("lines", LINES)
def test_closed_standard_output_is_the_null_device(tmp_path: Path, lines: int) -> None:
    """No file of the command gets its descriptor."""
    for shell in (">&-", ">&- <&-", ">&- 2>&- <&-"):
        code, file, _ = run(shell, tmp_path, lines)
        assert (code, file) == (0, "complete"), shell


@pytest.mark.parametrize("lines", LINES)
def test_full_standard_output_is_an_error(tmp_path: Path, lines: int) -> None:
    code, file, output = run(">/dev/full", tmp_path, lines)
    assert (code, file) == (1, "complete")
    assert output.splitlines()[3:] == [
        "onnxport: error: standard output can't be written: No space left on device; redirect it to a file on a disk "
        "with free space"
    ]


def test_standard_output_without_a_reader(tmp_path: Path) -> None:
    code, file, output = run("| head -n 1", tmp_path, 20_000)
    assert (code, file) == (1, "complete")
    assert output.splitlines()[0] == "a line of the result"
    assert "rror" not in output


INTERRUPTED = """
import os, signal, sys
left = int(sys.argv[1])
def hook(event, _):
    global left
    if event == "import":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)
from onnxport._command import process
sys.addaudithook(hook)
sys.argv = ["onnxport", "list", "--json"]
sys.exit(process())
"""


@pytest.mark.parametrize("count", [1, 2, 7, 30, 60, 90])
def test_an_interrupt_while_the_command_is_imported(count: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(count)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run in the background
    )
    assert done.returncode == 130
    assert done.stderr == "onnxport: interrupted\n"


def test_an_ignored_interrupt_stays_ignored() -> None:
    """A shell starts commands in the background with Ctrl-C ignored."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "30"],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_descriptors_of_closed_streams_are_not_reused(tmp_path: Path) -> None:
    code = "from onnxport._process import open_closed_streams; open_closed_streams(); import os; print(os.dup(0))"
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" <&- 2>&-'], capture_output=True, text=True)
    assert int(done.stdout) > 2
    assert os.path.exists(os.devnull)
