"""Store results: one JSON file for each row, with the machine, the date and all figures."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import largest_tensor, weight_files
from benchmarks.environments import REQUIREMENTS, versions
from benchmarks.measure import Cost, median
from benchmarks.rounds import Bench, Measured
from benchmarks.rows import ROWS, Cell
from benchmarks.sides import REPOSITORY

_PACKAGES = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors")
Row = dict[str, Any]


def machine(bench: Bench) -> dict[str, Any]:
    """Return the facts about the machine and the package versions."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory": pages,
        "disk free": shutil.disk_usage(bench.work).free,
        "system": f"{platform.system()} {platform.release()}",
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {
            "onnxport": {name: metadata.version(name) for name in _PACKAGES},
            **{name: versions(name, bench.work / "environments") for name in REQUIREMENTS},
        },
    }


def described_run(runs: int) -> dict[str, Any]:
    """Return the date, the commit and the number of rounds."""
    return {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": _commit(), "runs": runs}


def new_record(runs: int) -> dict[str, Any]:
    """Return a run's description with the load of the machine before it, for the figures of its sides."""
    return {**described_run(runs), "load": os.getloadavg()[0], "sides": {}}


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write the figures of a run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def measured_at(record: dict[str, Any]) -> str:
    """Return when and at which commit a record was measured, as a sentence."""
    when = f"{record['date']}, commit {record['commit']}, rounds: {record['runs']}"
    return f"{when}, load {record['load']:.1f} before."


def save(key: str, cells: dict[Cell, Measured], context: tuple[Bench, int, dict[str, Any]]) -> None:
    """Write the results file of a row so far; results of checkpoints that were measured earlier are kept."""
    bench, runs, environment = context
    run = described_run(runs)
    models = {model: {**run, "machine": environment, **_sizes(bench, model)} for model, _ in cells}
    old = {} if ROWS[key].together else load(bench.work).get(key, {})
    kept = {(cell["model"], cell["side"]): cell for cell in old.get("cells", []) if cell["model"] not in models}
    now = {cell: {"model": cell[0], "side": cell[1], **asdict(measured)} for cell, measured in cells.items()}
    every = {**kept, **now}
    row = {
        "models": {**old.get("models", {}), **models},
        "cells": [every[cell] for cell in ROWS[key].cells if cell in every],
    }
    file = bench.work / "results" / f"{key}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    stage = file.with_suffix(".partial")
    stage.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    stage.replace(file)


def _sizes(bench: Bench, model: str) -> dict[str, int]:
    """Return the sizes of a checkpoint and of its largest tensor in bytes; empty if it couldn't be written."""
    try:
        directory = bench.checkpoint(model)
    except RuntimeError:
        return {}
    return {"largest": largest_tensor(directory), "bytes": sum(f.stat().st_size for f in weight_files(directory))}


def load(work: Path) -> dict[str, Row]:
    """Return the latest results of each row that has any."""
    files = {key: work / "results" / f"{key}.json" for key in ROWS}
    return {key: json.loads(file.read_text(encoding="utf-8")) for key, file in files.items() if file.is_file()}


def medians(row: Row) -> dict[Cell, Cost]:
    """Return the medians of a row's cells, without those that failed."""
    found = {}
    for cell in row["cells"]:
        if cell["costs"] and not cell["failure"]:
            found[cell["model"], cell["side"]] = median([Cost(**cost) for cost in cell["costs"]])
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
