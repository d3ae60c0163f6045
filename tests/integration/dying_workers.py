"""Work for a Ray cluster whose process is killed once; workers import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from onnxport.ray import Predictor


class DyingPredictor(Predictor):
    """A predictor whose process is killed once, in a later batch than the first."""

    def __call__(self, batch: Any) -> Any:
        if 0 not in batch["id"]:
            _die_once(Path(os.environ["KILLED_ONCE"]))
        return super().__call__(batch)


def killed_once(file: str, number: int) -> int:
    """Return the number; the process of number 1 is killed once."""
    if number == 1:
        _die_once(Path(file))
    return number


def _die_once(file: Path) -> None:
    if not file.exists():
        file.touch()
        os.kill(os.getpid(), signal.SIGKILL)
