"""Available memory, the estimate for a validation, and the chosen strategy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from onnxport import ExportOptions
from onnxport.checkpoint.checkpoint import Checkpoint, open_checkpoint
from onnxport.errors import OptionError
from onnxport.validation import memory
from onnxport.validation.memory import MARGIN, Strategy, Weights, available_memory, choose, choose_strategy, weights_of

GIB = 2**30
NO_LIMIT = 9223372036854771712


def machine(root: Path, cgroup: str, **files: str) -> list[int]:
    """Return the memory that control groups leave; in file names, `__` is a slash and `_` a dot."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return memory._control_groups(root)


def test_version_2(tmp_path: Path) -> None:
    found = machine(
        tmp_path,
        "0::/user/session\n",
        user__session__memoryDOTmax="max\n",
        user__memoryDOTmax=f"{4 * GIB}\n",
        user__memoryDOTcurrent=f"{3 * GIB}\n",
        user__memoryDOTstat=f"anon 5\ninactive_file {GIB}\nactive_file 7\n",
    )
    assert found == [2 * GIB]


def test_version_1_inside_a_container(tmp_path: Path) -> None:
    found = machine(
        tmp_path,
        "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n",
        memory__memoryDOTlimit_in_bytes=f"{GIB}\n",
        memory__memoryDOTusage_in_bytes=f"{GIB // 2}\n",
        memory__docker__memoryDOTlimit_in_bytes=f"{NO_LIMIT}\n",
    )
    assert found == [GIB // 2]


@pytest.mark.parametrize("cgroup", ["", "nonsense\n", "0::/gone\n", "4:memory:/gone\n0::/gone\n"])
def test_no_limits(tmp_path: Path, cgroup: str) -> None:
    assert machine(tmp_path, cgroup) == []
    assert memory._control_groups(tmp_path / "nothing") == []


def test_the_lowest_limit_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < available_memory() < 1 << 50
    monkeypatch.setattr(memory, "_control_groups", lambda root: [5, 3])
    assert available_memory() == 3
    monkeypatch.setattr(memory, "_control_groups", lambda root: [-1])
    assert available_memory() == 0


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(MARGIN + 25 * GIB, "whole"), (MARGIN + 25 * GIB - 1, "on disk"), (MARGIN + 3 * GIB, "on disk"), (GIB, "reduced")],
)
def test_the_first_strategy_that_fits_is_chosen(budget: int, expected: str) -> None:
    strategy = choose(Weights(10 * GIB, GIB, on_disk=True), budget, ExportOptions())
    assert strategy.name == expected
    assert bool(strategy.note) == (expected != "whole")
    assert strategy.cache_bytes == (budget - MARGIN - 3 * GIB if expected == "on disk" else 0)


def test_half_precision_needs_more_memory_besides_the_original() -> None:
    weights, budget = Weights(10 * GIB, GIB, on_disk=True), MARGIN + 26 * GIB
    assert choose(weights, budget, ExportOptions()).name == "whole"
    assert choose(weights, budget, ExportOptions(dtype="fp16")).name == "on disk"


def test_small_models_are_validated_whole_with_any_limit() -> None:
    small = Weights(MARGIN // 3, MARGIN // 4, on_disk=True)
    assert choose(small, 1, ExportOptions()) == Strategy("whole")


def test_without_a_reducible_model() -> None:
    weights = Weights(10 * GIB, GIB, on_disk=True)
    strategy = choose(weights, GIB, ExportOptions(), reducible=False)
    assert (strategy.name, strategy.cache_bytes) == ("on disk", 0)
    assert "1.0 GiB may be used" in strategy.note
    assert choose(Weights(10 * GIB, GIB, on_disk=False), GIB, ExportOptions()) == Strategy("whole")


def checkpoint(directory: Path, tensors: dict[str, tuple[str, list[int]]]) -> Checkpoint:
    """Write a checkpoint as a sparse file, which takes no space on disk."""
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = {"U8": 1, "BF16": 2, "F32": 4}[dtype]
        for axis in shape:
            size *= axis
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return open_checkpoint(directory, ExportOptions())


def test_weights_count_in_the_dtype_of_the_run(tmp_path: Path) -> None:
    found = checkpoint(tmp_path, {"a": ("BF16", [1000, 1000]), "b": ("F32", [10])})
    assert weights_of(found, ExportOptions()) == Weights(4_000_040, 4_000_000, on_disk=True)
    assert weights_of(found, ExportOptions(dtype="bf16")) == Weights(2_000_020, 4_000_000, on_disk=True)


def test_each_packed_value_counts(tmp_path: Path) -> None:
    checkpoint(tmp_path, {"a_blocks": ("U8", [1000, 500]), "norm": ("F32", [10])})
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}}')
    found = open_checkpoint(tmp_path, ExportOptions())
    assert weights_of(found, ExportOptions()) == Weights(4_000_040, 4_000_000, on_disk=True)


def test_the_factors_of_an_adapter_count(tmp_path: Path) -> None:
    from onnxport.checkpoint.adapters import Adapter

    found = checkpoint(tmp_path, {"a": ("F32", [1000, 1000])})
    shapes = {"a.lora_A.weight": (64, 1000), "a.lora_B.weight": (1000, 64)}
    merged = replace(found, adapter=Adapter("a", tmp_path, None, {}, shapes, {}, {}))
    assert weights_of(merged, ExportOptions()) == Weights(4_000_000, 4_000_000 + 2 * 4 * 64_000, on_disk=True)


def test_a_large_checkpoint_is_validated_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {str(number): ("BF16", [1 << 14, 1 << 12]) for number in range(80)}  # 10 GiB
    found = checkpoint(tmp_path, layers)
    assert choose_strategy(found, ExportOptions(memory=64 * GIB)).name == "whole"
    assert choose_strategy(found, ExportOptions(memory=8 * GIB)).name == "on disk"
    monkeypatch.setattr(memory, "available_memory", lambda: 10 * GIB)
    assert choose_strategy(found, ExportOptions()) == choose_strategy(found, ExportOptions(memory=6 * GIB))


@pytest.mark.parametrize("count", [0, -1])
def test_a_limit_of_zero_is_an_error(count: int) -> None:
    with pytest.raises(OptionError, match="--memory"):
        ExportOptions(memory=count)
