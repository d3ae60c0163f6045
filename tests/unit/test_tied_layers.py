"""Layers that are tied to those of another stack have their names in the stack that is computed."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from onnxport.passes.scopes import SCOPES
from onnxport.tracing._capture import _name_parameters


def model_with_tied_stacks() -> torch.nn.Module:
    model = torch.nn.Module()
    model.first = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False) for _ in range(2)])
    model.second = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False) for _ in range(2)])
    for one, other in zip(model.first, model.second, strict=True):
        other.weight = one.weight
    return model


@pytest.mark.parametrize(
    ("captured", "scope", "expected"),
    [
        ("second.1.weight", "first.1", "first.1.weight"),
        ("second.1.weight", "second.1", "second.1.weight"),
        ("second.1.weight", "elsewhere", "second.1.weight"),
    ],
)
def test_a_tied_parameter_is_named_for_the_layer_that_uses_it(captured: str, scope: str, expected: str) -> None:
    weight = ir.Value(name=captured, const_value=ir.tensor([[1.0, 0.0], [0.0, 1.0]]))
    graph_input = ir.Value(name="x")
    node = ir.node("MatMul", [graph_input, weight], metadata_props={SCOPES: str(["", scope, "matmul"])})
    graph = ir.Graph([graph_input], node.outputs, nodes=[node], initializers=[weight])
    _name_parameters(ir.Model(graph, ir_version=10), model_with_tied_stacks())  # type: ignore[arg-type]  # any module
    assert list(graph.initializers) == [expected]
    assert node.inputs[1] is graph.initializers[expected]
