"""The whole export command of a model, with an error or a signal at its n-th system call.

usage: model_faults.py DIRECTORY MODE [FIRST LAST STEP]

DIRECTORY gets two tiny checkpoints, `v0` and `v1`, and the exports of them in turn, `out`. MODE is as for
`kill_writer`. A forked child, which has imported all packages, runs the command for each n in the range; afterwards,
the output must be a whole one, and a failure must have ended with one line of error that isn't called a bug.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from pathlib import Path

from conformance.checkpoints import make_checkpoint
from tests.integration.kill_writer import FAILED, INTERRUPTED, disturb, run_and_kill

NOT_CLEAR = 9
_BUGS = re.compile(r"Traceback|this is a bug|report it")


def checkpoints(directory: Path) -> None:
    """Write the two checkpoints."""
    for version in (0, 1):
        made = make_checkpoint("bert", "default", directory / f"made{version}")
        made.rename(directory / f"v{version}")
        if version:  # the same model with another name of its labels: another export
            path = directory / "v1" / "config.json"
            config = json.loads(path.read_text())
            path.write_text(json.dumps({**config, "layer_norm_eps": 1e-6}))
        (directory / f"made{version}").rmdir()


def export(directory: Path, version: int) -> int:
    """Run the command in this process; return its exit code."""
    from onnxport.cli import main

    arguments = ["export", str(directory / f"v{version}"), str(directory / "out"), "--force", "--validate", "none"]
    return main([*arguments, "--quiet", "--no-cache"])


def fingerprint(output: Path) -> str | None:
    """Return a digest of an output's files, None if there is none."""
    if not output.exists():
        return None
    digest = hashlib.sha256()
    for path in sorted(output.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def disturbed(directory: Path, version: int, count: int, mode: str) -> None:
    """Run the command in a child process, with a fault at its n-th call; its exit code tells how it ended."""
    log = directory / "log"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    left = disturb(count, mode)
    code = export(directory, version)
    reached = left[0] <= 0
    left[0] = sys.maxsize
    if _BUGS.search(log.read_text(errors="replace")):
        os._exit(NOT_CLEAR)
    os._exit((INTERRUPTED if mode == "SIGINT" else FAILED) if code else FAILED if reached else 0)


def main() -> None:
    directory, mode = Path(sys.argv[1]), sys.argv[2]
    first, last, step = (int(value) for value in sys.argv[3:6]) if len(sys.argv) > 3 else (1, 500, 1)
    checkpoints(directory)
    expected = []
    for version in (0, 1):
        assert export(directory, version) == 0
        expected.append(fingerprint(directory / "out"))
    assert expected[0] != expected[1]
    ended, changed, version, unclear = 0, 0, 0, []
    for count in range(first, last + 1, step):
        before = fingerprint(directory / "out")
        version = 1 - expected.index(before)
        try:
            died = run_and_kill(lambda version=version, count=count: disturbed(directory, version, count, mode), None)
        except AssertionError:
            unclear.append((count, (directory / "log").read_text(errors="replace")))
            died = True
        after = fingerprint(directory / "out")
        assert after in expected, (count, after)
        ended, changed = ended + died, changed + (after != before)
        if not died:
            assert after != before
            break
    assert export(directory, version) == 0
    left = sorted(path.name for path in directory.iterdir())
    print(json.dumps({"ended": ended, "changed": changed, "left": left, "unclear": unclear}))


if __name__ == "__main__":
    main()
