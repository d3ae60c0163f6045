"""A graph returns the same values as forward, also for in-place operations."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch

from onnxport.tracing._capture import capture


class Module(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.config = None
        self.function = function

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.function(x)}


def in_place(x: torch.Tensor) -> torch.Tensor:
    doubled = x * 2
    doubled += x
    doubled.mul_(doubled)
    return doubled + 1


def in_place_with_another_dtype(x: torch.Tensor) -> torch.Tensor:
    number = (x > 0).int()
    number += (x > 1).long()
    return number


def under_a_view(x: torch.Tensor) -> torch.Tensor:
    doubled = x * 2
    flat = doubled.view(-1)
    doubled += 1
    return flat


def through_a_view(x: torch.Tensor) -> torch.Tensor:
    doubled = x * 2
    doubled[:, 0] = 7
    return doubled


def under_a_reshape(x: torch.Tensor) -> torch.Tensor:
    doubled = x * 2
    same = doubled.reshape(x.shape[0], -1)
    doubled += 1
    return same


def argument(x: torch.Tensor) -> torch.Tensor:
    again = x.clone()
    same = again.to(torch.float32)
    again.neg_()
    return same + x


def several_outputs(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    third, fourth = torch.stack((first, second)).unbind(0)
    return torch.cat((fourth, third), dim=-1).reshape(x.shape[1], x.shape[0])


def logic(x: torch.Tensor) -> torch.Tensor:
    return ((x > 0) & (x < 1)) | torch.isclose(x, x.flatten().reshape(x.shape))


FUNCTIONS = (
    in_place,
    in_place_with_another_dtype,
    under_a_view,
    through_a_view,
    under_a_reshape,
    argument,
    several_outputs,
    logic,
)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_the_graph_returns_what_forward_returns(
    function: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    example = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    graph = capture(Module(function).eval(), {"x": example}, {"x": (0,)}, None).graph
    onnx_ir.save(graph, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "graph.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 3, 5):
        x = torch.randn(batch, 4, generator=torch.Generator().manual_seed(batch))
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        expected = function(x.clone()).numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def squeezed_rows(x: torch.Tensor) -> torch.Tensor:
    """Keep every fifth of up to 5 rows, and drop their axis."""
    return x[::5].squeeze(0).sum()


def no_more_than_a_table_has(x: torch.Tensor) -> torch.Tensor:
    return x + torch.arange(12.0)[: x.shape[0], None] if x.shape[0] // 4 <= 2 else x


@pytest.mark.parametrize(
    ("function", "limits"),
    [(squeezed_rows, {("x", 0): 5}), (no_more_than_a_table_has, {("x", 0): 11}), (in_place, {})],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_size_up_to_which_a_graph_is_valid_is_known(
    function: Callable[[torch.Tensor], torch.Tensor], limits: dict[tuple[str, int], int]
) -> None:
    captured = capture(Module(function).eval(), {"x": torch.zeros(3, 4)}, {"x": (0,)}, None)
    assert captured.max_sizes == limits


def test_the_size_from_which_a_graph_is_valid_is_known() -> None:
    def beyond_the_first_block(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.shape[0] // 4 >= 2 else x

    captured = capture(Module(beyond_the_first_block).eval(), {"x": torch.zeros(12, 4)}, {"x": (0,)}, None)
    assert (captured.min_sizes, captured.max_sizes) == ({("x", 0): 8}, {})


def test_a_size_of_another_branch_is_known() -> None:
    """The graph of an incomplete block may be wrong for complete ones; sizes that differ in no branch aren't listed."""

    def in_blocks(x: torch.Tensor) -> torch.Tensor:
        missing = 8 - x.shape[0] % 8 if x.shape[0] % 8 > 0 else 0
        return torch.nn.functional.pad(x, (0, 0, 0, missing)).reshape(-1, 8, 4).sum(dim=1)

    def in_padded_blocks(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[0] % 8)).reshape(-1, 8, 4).sum(dim=1)

    for function, branches in ((in_blocks, {("x", 0): 16}), (in_padded_blocks, {})):
        captured = capture(Module(function).eval(), {"x": torch.zeros(11, 4)}, {"x": (0,)}, None)
        assert captured.branch_sizes == branches
        assert captured.max_sizes == {}
