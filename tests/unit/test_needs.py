"""Missing values and missing layers have named errors; all other errors propagate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from onnxport import _needs
from onnxport._needs import MoreLayersNeededError, WeightsNeededError, translating_missing_values, with_few_layers
from onnxport.errors import TraceError, UnsupportedError


def read_a_value() -> None:
    with FakeTensorMode():
        torch.ones(1).item()


def test_a_missing_value_has_a_named_error() -> None:
    with pytest.raises(WeightsNeededError, match="_local_scalar_dense"), translating_missing_values():
        read_a_value()


@pytest.mark.parametrize("block", [translating_missing_values, with_few_layers])
def test_a_description_that_fails_for_a_missing_value_has_the_same_error(block: Any) -> None:
    with pytest.raises(WeightsNeededError, match="_local_scalar_dense"), block():
        try:
            read_a_value()
        except Exception as error:
            raise UnsupportedError("it can't be run") from error


def test_other_errors_propagate() -> None:
    for error in (KeyError("x"), UnsupportedError("no such task"), TraceError("no operator")):
        with pytest.raises(type(error)), translating_missing_values():
            raise error


def test_a_missing_layer_has_a_named_error() -> None:
    with pytest.raises(MoreLayersNeededError, match="IndexError"), with_few_layers():
        torch.nn.ModuleList([torch.nn.Identity()])[3]
    with pytest.raises(MoreLayersNeededError, match="it can't be run"), with_few_layers():
        raise UnsupportedError("it can't be run") from IndexError(3)


def test_errors_that_more_layers_do_not_solve_propagate(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="no past"), with_few_layers():
        raise UnsupportedError("it has no past")
    monkeypatch.setattr(_needs, "_PACKAGE", str(Path(__file__).parent))
    with pytest.raises(AttributeError), with_few_layers():
        raise AttributeError("a bug in this package")
