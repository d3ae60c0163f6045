"""In-place operators become functional ones without running the program again, where no other tensor is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.onnx._internal.exporter._registration import ONNXRegistry

from onnxport.tracing._decompose import decompose

Function = Callable[[torch.Tensor], Any]


class Module(torch.nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.forward = function


def fill_slices(x: torch.Tensor) -> torch.Tensor:
    whole = x.new_empty(x.shape[0], 8)
    whole[:, :4] = x
    whole[:, 4:] = x * 2
    return whole


def fill_elements(x: torch.Tensor) -> Any:
    whole = torch.zeros_like(x)
    first = whole[:, :1] + 1
    whole[:, 0] = x[:, 1]
    whole[:, 2:].copy_(x[:, 2:])
    return whole, first


def fill_a_slice_of_a_slice(x: torch.Tensor) -> Any:
    whole = torch.zeros_like(x)
    whole[:, 1:][:, :2] = x[:, 2:]
    return whole + 1


def clamp_integers(x: torch.Tensor) -> torch.Tensor:
    return (x / 0.3).to(torch.int64).clamp_(0, 5)


def scatter_ones(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(x).scatter_(1, x.argmax(-1, keepdim=True), 1)


def change_a_view_alone(x: torch.Tensor) -> torch.Tensor:
    return x.clone().reshape(-1, 2).mul_(3)


def change_a_tensor_with_a_view(x: torch.Tensor) -> Any:
    whole = x * 2
    view = whole[:, 1:]
    whole[:, :2] = 0
    return whole, view


def change_a_part(x: torch.Tensor) -> Any:
    whole = x * 2
    left, _ = whole.chunk(2, dim=1)
    left.mul_(3)
    return whole


def change_a_slice_twice(x: torch.Tensor) -> torch.Tensor:
    whole = x * 2
    whole[:, 2:].mul_(3).add_(x[:, 2:])
    return whole


def change_a_slice_of_a_slice_twice(x: torch.Tensor) -> torch.Tensor:
    whole = x * 2
    part = whole[:, 1:]
    part[:, :1] = 0
    part[:, 1:] = 1
    return whole


def change_the_input(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, 2)[:, :1].mul_(3)


def program_of(function: Function) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch")
    return torch.export.export(Module(function), (torch.randn(3, 4),), dynamic_shapes=({0: batch},), strict=False)


def run(program: torch.export.ExportedProgram, x: torch.Tensor) -> Any:
    return program.module()(x.clone())


@pytest.mark.parametrize(
    "function",
    [fill_slices, fill_elements, fill_a_slice_of_a_slice, clamp_integers, scatter_ones, change_a_view_alone],
    ids=lambda f: f.__name__,
)
def test_tensors_that_nothing_else_reads_are_changed_in_their_nodes(function: Function) -> None:
    def original(*_: Any) -> Any:
        raise AssertionError("the whole program is run again")

    decomposed = decompose(original)(program_of(function), ONNXRegistry.from_torchlib())
    assert not any(
        getattr(node.target, "_schema", None) and node.target._schema.is_mutable for node in decomposed.graph.nodes
    )  # type: ignore[union-attr]
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run(decomposed, x), function(x.clone()))


@pytest.mark.parametrize(
    "function",
    [
        change_a_tensor_with_a_view,
        change_a_part,
        change_a_slice_twice,
        change_a_slice_of_a_slice_twice,
        change_the_input,
    ],
    ids=lambda f: f.__name__,
)
def test_the_program_is_run_again_where_another_tensor_changes(function: Function) -> None:
    calls = []

    def original(program: Any, registry: Any) -> Any:
        calls.append(registry)
        return program

    decompose(original)(program_of(function), ONNXRegistry.from_torchlib())
    assert len(calls) == 1
