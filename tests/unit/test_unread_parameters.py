"""A parameter that no code of the model reads changes nothing."""

from __future__ import annotations

from typing import Any

import torch

from onnxport.description.unread_parameters import is_unread


class Inner(torch.nn.Module):
    def forward(self, x: Any, counts: Any = None, mask: Any = None) -> Any:
        return x if mask is None else x * mask


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def helper(self, x: Any, ids: Any) -> Any:
        return x

    def forward(self, x: Any, counts: Any = None, mask: Any = None, ids: Any = None, size: Any = None) -> Any:
        y = self.inner(self.helper(x, ids=ids), counts=counts, mask=mask)
        return y, size


def unread(name: str) -> bool:
    return is_unread(Model.forward, name, Model())


def test_a_parameter_that_is_only_passed_on() -> None:
    assert unread("counts"), "to a submodule that doesn't read it"
    assert unread("ids"), "to a method that doesn't read it"


def test_a_parameter_that_is_read() -> None:
    assert not unread("mask"), "by the submodule"
    assert not unread("size"), "by forward"


def test_a_function_without_source_reads_all() -> None:
    assert not is_unread(torch.add, "alpha", None)
