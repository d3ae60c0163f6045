"""Weights that stay on disk: the same results, with few of them in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from onnxport.binding.bind import Binding
from onnxport.checkpoint.reading import Reader, list_tensors
from onnxport.errors import WeightsMismatchError
from onnxport.validation import on_demand
from onnxport.validation.on_demand import OnDemand, Source, as_tensor, read_on_demand
from onnxport.weights import building
from onnxport.weights.expressions import ByteRange, Expression, InMemory
from tests.forked import run_code


class CountingReader:
    """A reader that counts reads."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.read_bytes = 0

    def read(self, where: ByteRange, /) -> Any:
        self.read_bytes += where.nbytes
        return self._reader.read(where)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(32, 16)
        self.inner = torch.nn.Linear(16, 24)
        self.norm = torch.nn.BatchNorm1d(24)
        self.lstm = torch.nn.LSTM(24, 16, batch_first=True)
        self.experts = torch.nn.Parameter(torch.randn(4, 16, 16))
        self.head = torch.nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(16.0), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.linear(self.embed(ids), self.inner.weight, self.inner.bias)  # not by its module
        hidden, _ = self.lstm(self.norm(hidden.transpose(1, 2)).transpose(1, 2))
        for expert in range(len(self.experts)):
            hidden = hidden + hidden @ self.experts[expert].T * self.experts[-1, 0]
        return self.head(hidden + self.table)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def binding(model: Model, tmp_path: Path) -> Binding:
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    save_file(state, tmp_path / "model.safetensors")
    inventory = list_tensors(tmp_path, [tmp_path / "model.safetensors"])
    return Binding(dict(inventory.tensors), {"head.weight": "embed.weight"}, files=inventory.files)


@pytest.mark.parametrize("keep", [0, 2000, 1 << 20])
def test_the_same_results(
    model: Model, binding: Binding, tmp_path: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "SMALL", 0)
    ids = torch.arange(12).reshape(3, 4)
    with torch.no_grad(), Reader(tmp_path, binding.files) as reader:
        expected = model(ids)
        on_disk = read_on_demand(Model().to("meta").eval(), binding, reader, keep)
        on_disk.table = model.table
        assert on_disk.head.weight is on_disk.embed.weight
        assert all(isinstance(tensor, OnDemand) for tensor in on_disk.state_dict(keep_vars=True).values())
        assert next(on_disk.parameters()).device == torch.device("cpu")
        for _ in range(2):
            torch.testing.assert_close(on_disk(ids), expected)


def test_small_tensors_stay_in_memory(model: Model, binding: Binding, tmp_path: Path) -> None:
    with Reader(tmp_path, binding.files) as reader:
        read_on_demand(model, binding, reader)
    assert not any(isinstance(tensor, OnDemand) for tensor in model.state_dict(keep_vars=True).values())
    model(torch.zeros(2, 3, dtype=torch.int64))  # the reader is closed


def test_an_unbound_parameter_is_an_error(model: Model, binding: Binding, tmp_path: Path) -> None:
    short = Binding({name: made for name, made in binding.expressions.items() if name != "inner.bias"}, binding.tied)
    with Reader(tmp_path, binding.files) as reader, pytest.raises(WeightsMismatchError, match=r"inner\.bias"):
        read_on_demand(model, short, reader)


def test_only_the_expert_that_is_used_is_read(binding: Binding, tmp_path: Path) -> None:
    with Reader(tmp_path, binding.files) as reader:
        counting = CountingReader(reader)
        experts = OnDemand(binding["experts"], Source(counting, 0))
        assert isinstance(experts[2], OnDemand)
        assert counting.read_bytes == 0
        torch.testing.assert_close(experts[2] + 0, as_tensor(binding["experts"], reader)[2])
        assert counting.read_bytes == 16 * 16 * 4


def test_the_cache_of_tensors_is_bounded(binding: Binding, tmp_path: Path) -> None:
    with Reader(tmp_path, binding.files) as reader:
        counting = CountingReader(reader)
        first, second = binding["experts"], binding["inner.weight"]  # 4096 and 1536 bytes
        source = Source(counting, 5000)
        for _ in range(3):
            source.read(first)
        assert counting.read_bytes == first.nbytes
        source.read(second)  # the other is evicted
        source.read(second)
        assert counting.read_bytes == first.nbytes + second.nbytes
        source.read(first)
        assert counting.read_bytes == 2 * first.nbytes + second.nbytes
        source = Source(counting, 100)
        source.read(first)
        assert source._bytes == 0


def test_in_place_changes_are_an_error(binding: Binding, tmp_path: Path) -> None:
    with Reader(tmp_path, binding.files) as reader, torch.no_grad():
        weight = OnDemand(binding["inner.weight"], Source(reader, 0))
        with pytest.raises(TypeError, match="--memory"):
            weight.add_(1)
        with pytest.raises(TypeError, match="--memory"):
            torch.add(weight, 1, out=weight)


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.int64, np.bool_, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 3)])
def test_every_type(dtype: Any, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    array.flags.writeable = False
    tensor = as_tensor(InMemory(array), _Nothing())
    assert tensor.shape == shape
    assert ir.tensor_adapters.from_torch_dtype(tensor.dtype) == ir.DataType.from_numpy(array.dtype)
    assert bool((tensor.float() == 1).all())


class _Nothing:
    def read(self, where: ByteRange, /) -> Any:
        raise AssertionError(where)


def test_expressions_are_evaluated(binding: Binding, tmp_path: Path) -> None:
    made: Expression = building.cast(building.transpose(binding["inner.weight"], (1, 0)), ir.DataType.BFLOAT16)
    with Reader(tmp_path, binding.files) as reader:
        tensor = OnDemand(made, Source(reader, 0))
        assert (tensor.dtype, tensor.shape) == (torch.bfloat16, (16, 24))
        expected = as_tensor(binding["inner.weight"], reader).T.to(torch.bfloat16)
        assert torch.equal(tensor + 0, expected)


MEASURED = """
import json, sys
from pathlib import Path
import torch
from onnxport.validation.on_demand import read_on_demand
from onnxport.binding.bind import Binding
from onnxport.checkpoint.reading import Reader, list_tensors

directory, side, count = Path(sys.argv[1]), 4096, 8
size = side * side * 2
header = {
    f"{i}.weight": {"dtype": "BF16", "shape": [side, side], "data_offsets": [i * size, (i + 1) * size]}
    for i in range(count)
}
text = json.dumps(header).encode()
with (directory / "m.safetensors").open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    file.truncate(8 + len(text) + count * size)

def anonymous():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) // 1024

peak = 0
def look(*_):
    global peak
    peak = max(peak, anonymous())

inventory = list_tensors(directory, [directory / "m.safetensors"])
with torch.device("meta"):
    model = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False, dtype=torch.bfloat16) for _ in range(count)))
for module in model:
    module.register_forward_hook(look)
with torch.no_grad(), Reader(directory, inventory.files) as reader:
    read_on_demand(model, Binding(dict(inventory.tensors)), reader, cache_bytes=int(sys.argv[2]))
    before = anonymous()
    model(torch.zeros(1, side, dtype=torch.bfloat16))
print(peak - before)
"""


def test_memory_stays_bounded(tmp_path: Path) -> None:
    def growth(keep: int) -> int:
        return int(run_code(MEASURED, str(tmp_path), str(keep)).stdout)

    assert growth(1 << 30) > 200  # eight matrices of 32 MiB
    assert growth(0) < 120
