"""The benchmarks: the table, interleaved rounds, a streamed checkpoint, the page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from benchmarks import large
from benchmarks.checkpoints import LARGE, SHAPES, largest_tensor
from benchmarks.environments import REQUIREMENTS
from benchmarks.measure import run
from benchmarks.page import section
from benchmarks.rows import ROWS, groups
from benchmarks.sides import PREPARATIONS, SIDES

NARROW = {**SHAPES[LARGE].config, "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}


def test_the_table_names_existing_checkpoints_and_sides() -> None:
    for row in ROWS.values():
        for model, side in row.cells:
            assert model in SHAPES
            assert SIDES[side].prepare in ("", *PREPARATIONS)
            assert SIDES[side].environment in ("", *REQUIREMENTS)


def test_a_side_in_several_rows_is_measured_once() -> None:
    plan = groups(["b", "d", "e"], lambda cell: cell[0] in ("gpt2", "llama-16", "llama-80"))
    assert [keys for keys, _ in plan] == [("b", "d"), ("e",)]
    assert [side for _, side in plan[0][1]] == ["cold", "optimum", "exporters", "mobius", "validated"]
    assert plan[1][1] == [("llama-16", "linked"), ("llama-80", "linked")]


def test_a_checkpoint_of_any_size_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "SHARD", 40_000)
    large.write(NARROW, tmp_path, gigabytes=80e-6)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert largest_tensor(tmp_path) == 64 * 32 * 2
    with safe_open(files[0], framework="pt") as opened:
        embeddings = opened.get_tensor("model.embed_tokens.weight").float()
    assert embeddings.shape == (64, 32)
    assert 2**-10 <= embeddings.abs().min() <= embeddings.abs().max() < 2**-6
    assert embeddings.min() < 0 < embeddings.max()


def test_a_process_is_measured_and_a_failure_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cost = run([sys.executable, "-c", "x = bytearray(10**8)"], tmp_path / "none", log)
    assert cost.peak > 10**8
    with pytest.raises(RuntimeError, match="exit code 1: ValueError: why"):
        run([sys.executable, "-c", "raise ValueError('why')"], tmp_path / "none", log)
    with pytest.raises(RuntimeError, match=r"took more than 0\.2 s"):
        run([sys.executable, "-c", "import time; time.sleep(9)"], tmp_path / "none", log, limit=0.2)


def test_the_page_shows_failures_and_missed_targets() -> None:
    def cell(side: str, seconds: float, failure: str = "") -> dict[str, object]:
        costs = [] if failure else [{"seconds": seconds, "peak": 10**9, "written": 0}]
        return {"model": "gpt2", "side": side, "costs": costs, "failure": failure, "said": ""}

    machine = {"cores": 2, "processor": "x", "memory": 2**34, "system": "y", "load before": 0.0, "python": "3"}
    machine |= {"versions": {"onnxport": {"torch": "2"}}}
    row = {
        "models": {"gpt2": {"date": "2026-01-01", "commit": "abc", "runs": 1, "machine": machine}},
        "cells": [cell("cold", 6.0), cell("optimum", 9.0), cell("exporters", 60.0), cell("mobius", 0, "exit code 1")],
    }
    text = section("b", row)
    assert "6.00 s / 9.00 s = 0.667 | ≤ 0.6 x | **no** |" in text
    assert "6.00 s / 60.00 s = 0.1 | ≤ 0.35 x | yes |" in text
    assert "failed: exit code 1" in text
    assert "nothing to compare with" in text
    assert "gpt2: 2026-01-01, commit abc, rounds: 1. 2 cores (x), 16 GiB of memory" in text
