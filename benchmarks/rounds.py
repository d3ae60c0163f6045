"""Measure cells interleaved (A B A B), so that a temporary load affects all of them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.checkpoints import SHAPES, make, weight_files
from benchmarks.environments import set_up
from benchmarks.measure import Cost, run
from benchmarks.rows import Cell
from benchmarks.sides import PREPARATIONS, SIDES, Side, command, variables


@dataclass
class Measured:
    """Results of one cell: costs in the order of the rounds, the reason of a failure, and the printed output."""

    costs: list[Cost] = field(default_factory=list)
    failure: str = ""
    said: str = ""


class Bench:
    """Measure cells; all files are in one directory."""

    def __init__(self, work: Path, *, gigabytes: float, limit: float) -> None:
        self.work, self._gigabytes, self._limit = work, gigabytes, limit
        self._prepared: set[Cell] = set()
        for name in ("logs", "modules", "prepared"):
            (work / name).mkdir(parents=True, exist_ok=True)
        for name in ("caches", "prepared"):
            shutil.rmtree(work / name, ignore_errors=True)

    def checkpoint(self, model: str) -> Path:
        """Return a checkpoint's directory; the first call writes it."""
        return make(model, self.work / "checkpoints", self._gigabytes)

    def measure(
        self, cells: Sequence[Cell], runs: int, results: dict[Cell, Measured], saved: Callable[[], None]
    ) -> None:
        """Measure cells interleaved.

        Args:
            cells: in the order of a round.
            runs: number of rounds.
            results: results to extend; a failed cell isn't run again.
            saved: called after every round.
        """
        for number in range(runs):
            for cell in cells:
                measured = results.setdefault(cell, Measured())
                if measured.failure or (number and SIDES[cell[1]].once):
                    continue
                try:
                    measured.costs.append(self._run(cell, measured))
                    tell(f"{' '.join(cell)}, round {number + 1}: {measured.costs[-1].seconds:.1f} s")
                except RuntimeError as error:
                    measured.failure = str(error).replace(str(self.work), "")
                    tell(f"{' '.join(cell)}, round {number + 1} failed: {error}")
            saved()

    def _run(self, cell: Cell, measured: Measured) -> Cost:
        model, name = cell
        side = SIDES[name]
        if side.environment:
            set_up(side.environment, self.work / "environments")
        checkpoint = self.checkpoint(model)
        kept = self.work / "prepared" / f"{model}-{name}"
        if side.prepare and cell not in self._prepared:
            kept.parent.mkdir(parents=True, exist_ok=True)
            self._start(PREPARATIONS[side.prepare], cell, kept, kept)
            self._prepared.add(cell)
        _read(checkpoint)
        output = self.work / "output"
        shutil.rmtree(output, ignore_errors=True)
        os.sync()  # flush the output of the previous side before the next one starts
        try:
            cost = self._start(side, cell, output, kept)
        finally:
            shutil.rmtree(output, ignore_errors=True)
            if side.once or side.prepare.startswith(("warming", "recording")):
                shutil.rmtree(kept, ignore_errors=True)
        if side.once:
            measured.said = (self.work / "logs" / f"{model}-{name}.log").read_text(encoding="utf-8").strip()
        return cost

    def _start(self, side: Side, cell: Cell, output: Path, kept: Path) -> Cost:
        model, name = cell
        cache = self.work / "caches" / (model if side.cache == "warm" else "cold")
        if side.cache == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        values = {
            "model": str(self.checkpoint(model)),
            "output": str(output),
            "task": SHAPES[model].task,
            "modules": str(self.work / "modules" / f"{model}-{name}.txt"),
            "prepared": str(kept),
        }
        log = self.work / "logs" / f"{model}-{name}{'' if side is SIDES[name] else '-preparation'}.log"
        line = command(side, self.work / "environments", values)
        return run(line, output, log, variables(side, cache), self._limit)


def _read(checkpoint: Path) -> None:
    """Read a checkpoint into the page cache, for every side, unless it is larger than a quarter of memory."""
    files = weight_files(checkpoint)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sum(file.stat().st_size for file in files) > memory / 4:
        return
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.read(1 << 24):
                pass


def tell(text: str) -> None:
    """Print progress to standard error."""
    print(text, file=sys.stderr, flush=True)
