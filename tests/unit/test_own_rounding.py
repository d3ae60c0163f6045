"""An output may differ from the original's by twice what rounding changes in the original."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxport.description.tolerances import Tolerance
from onnxport.validation.compare import compare
from onnxport.validation.own_rounding import allowed_in_any_case

DEFAULT, SET_BY_USER = Tolerance(1e-3, 2e-2, own_rounding=2.0), Tolerance(1e-3, 2e-2)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Choice(torch.nn.Module):
    """Return 1 or -1: whichever of two products is larger, as a router chooses an expert."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.router = torch.nn.Linear(2, 2, bias=False, dtype=dtype)
        self.router.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=dtype))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        first, second = self.router(states).unbind(-1)
        return torch.where(first > second, 1.0, -1.0).to(states.dtype)


def allowed(dtype: torch.dtype, tolerance: Tolerance, states: torch.Tensor) -> dict[str, float]:
    model = Choice(dtype)
    before = model.router.weight.detach().clone()
    found = allowed_in_any_case(
        model,  # type: ignore[arg-type]  # a module without a configuration
        {"states": states},
        lambda inputs: {"choice": model(inputs["states"])},
        {"choice": model(states.to(dtype))},
        tolerance,
    )
    assert model.router.weight.dtype == dtype
    assert torch.equal(model.router.weight, before)
    assert not model.router._forward_hooks
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_choice_near_a_tie_may_differ(dtype: torch.dtype) -> None:
    states = torch.tensor([[1.0, 1e-9]])  # 1 + 1e-9 rounds to 1: a tie
    least = allowed(dtype, DEFAULT, states)
    assert least == {"choice": 4.0}
    original, graph = np.array([-1], np.float16), np.array([1], np.float16)
    assert not compare("choice", original, graph, DEFAULT).passed
    assert compare("choice", original, graph, DEFAULT, least["choice"]).passed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_clear_choice_may_not(dtype: torch.dtype) -> None:
    assert allowed(dtype, DEFAULT, torch.ones(1, 2)) == {"choice": 0.0}


def test_a_layer_that_enlarges_rounding_errors_may_differ_by_them() -> None:
    class Difference(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = torch.nn.Identity()

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 1e6 * (self.act(states) - states)

    model, inputs = Difference(), {"states": torch.ones(8)}

    def run(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": model(given["states"])}

    found = allowed_in_any_case(model, inputs, run, run(inputs), DEFAULT)  # type: ignore[arg-type]
    assert found["y"] == pytest.approx(2e6 * torch.finfo(torch.float32).eps)


def test_nothing_is_added_to_a_tolerance_that_is_set() -> None:
    for dtype in DTYPES:
        assert allowed(dtype, SET_BY_USER, torch.tensor([[1.0, 1e-9]])) == {}
