"""A 16-bit output may differ from the original's by twice what the original differs from itself in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxport.description.tolerances import Tolerance
from onnxport.validation.compare import compare
from onnxport.validation.own_rounding import allowed_in_any_case

DEFAULT, SET_BY_USER = Tolerance(1e-3, 2e-2, own_rounding=2.0), Tolerance(1e-3, 2e-2)


class Choice(torch.nn.Module):
    """Return 1 or -1: whichever of two products is larger, as a router chooses an expert."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0001], [1.0, 0.0]], dtype=dtype))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        first, second = (states @ self.weight.T).unbind(-1)
        return torch.where(first > second, 1.0, -1.0).to(states.dtype)


def allowed(dtype: torch.dtype, tolerance: Tolerance, states: torch.Tensor) -> dict[str, float]:
    model = Choice(dtype)
    before = model.weight.detach().clone()
    found = allowed_in_any_case(
        model,  # type: ignore[arg-type]  # a module without a configuration
        {"states": states},
        lambda inputs: {"choice": model(inputs["states"])},
        {"choice": model(states.to(dtype))},
        tolerance,
    )
    assert model.weight.dtype == dtype
    assert torch.equal(model.weight, before)
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_choice_near_a_tie_may_differ(dtype: torch.dtype) -> None:
    states = torch.ones(1, 2)  # 1.0001 rounds to 1: a tie
    least = allowed(dtype, DEFAULT, states)
    assert least == {"choice": 4.0}
    original, graph = np.array([-1], np.float16), np.array([1], np.float16)
    assert not compare("choice", original, graph, DEFAULT).passed
    assert compare("choice", original, graph, DEFAULT, least["choice"]).passed


def test_a_clear_choice_may_not() -> None:
    assert allowed(torch.float16, DEFAULT, torch.tensor([[1.0, 1000.0]])) == {"choice": 0.0}


def test_nothing_is_added_to_a_tolerance_that_is_set_and_to_that_of_float32() -> None:
    assert allowed(torch.float16, SET_BY_USER, torch.ones(1, 2)) == {}
    assert allowed(torch.float32, DEFAULT, torch.ones(1, 2)) == {}
