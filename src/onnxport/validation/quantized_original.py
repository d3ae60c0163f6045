"""Make the original compute what a quantized graph does: with the weights that the quantized ones stand for.

The graph is then right or wrong within the tolerance of its type, however much the quantization loses; see
`runtime.exact` for its activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from onnx_ir.tensor_adapters import TorchTensor

from onnxport.binding.bind import Binding
from onnxport.passes.quantization_plan import QuantizedMatrix
from onnxport.validation.on_demand import as_tensor
from onnxport.weights.expressions import NO_FILES, Expression, InMemory
from onnxport.weights.parameters import Parameter, substituted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def quantized_weights(model: PreTrainedModel, plan: Mapping[str, QuantizedMatrix]) -> Iterator[None]:
    """Replace the weights of a model by those that quantized ones stand for, for a block.

    Args:
        model: the original, with its weights in memory.
        plan: full name of a parameter to how it is quantized.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    originals = {name: parameters[name].data for name in plan}
    try:
        for name, matrix in plan.items():
            parameters[name].data = dequantized(originals[name], matrix)
        yield
    finally:
        for name, data in originals.items():
            parameters[name].data = data


def dequantized(tensor: torch.Tensor, matrix: QuantizedMatrix) -> torch.Tensor:
    """Return the values that a quantized parameter stands for."""
    array = InMemory(TorchTensor(tensor.detach().cpu().contiguous()).numpy())
    parameter = Parameter("", array.dtype, array.shape)
    return as_tensor(substituted(matrix.stands_for(parameter), lambda _: array), NO_FILES).to(tensor.device)


def quantized_binding(binding: Binding, plan: Mapping[str, QuantizedMatrix]) -> Binding:
    """Return a binding with the values that quantized parameters stand for."""

    def stands_for(name: str) -> Expression:
        expression = binding[name]
        parameter = Parameter(name, expression.dtype, expression.shape)
        return substituted(plan[name].stands_for(parameter), lambda _: expression)

    replaced = {binding.tied.get(name, name): stands_for(name) for name in plan}
    return replace(binding, expressions={**binding.expressions, **replaced})
