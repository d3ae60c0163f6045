"""Run the engine, `transformers.exporters`, which captures and lowers a model. Only this module calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxport.tracing.scope import capturing
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from transformers import PreTrainedModel


def capture(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    dynamic: Mapping[str, tuple[int, ...]],
    opset: int | None,
) -> onnx_ir.Model:
    """Capture a model's forward.

    Args:
        model: module whose forward takes `inputs` by name and returns a mapping of names to tensors.
        inputs: example inputs; names are Python identifiers.
        dynamic: the dynamic axes of each input.
        opset: ONNX opset version; None for the engine's default.

    Returns:
        The lowered graph, with inputs and outputs in their original order. The model's parameters and persistent
        buffers are replaced by `ParameterTensor`s with their fully qualified names.
    """
    from torch.export import Dim
    from transformers.exporters.exporter_onnx import OnnxConfig as EngineConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    shapes = {name: dict.fromkeys(dynamic[name], Dim.AUTO) for name in inputs}
    config = EngineConfig(dynamic_shapes=shapes, opset_version=opset, optimize=False)
    with capturing(model):
        exported: onnx_ir.Model = OnnxExporter().export(model, dict(inputs), config).program
    _name_parameters(exported, model)
    return exported


def default_opset() -> int:
    """Return the opset version that the engine produces by default."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def _name_parameters(exported: onnx_ir.Model, model: PreTrainedModel) -> None:
    """Replace each initializer that a checkpoint provides with its name, dtype and shape."""
    names = set(model.state_dict(keep_vars=True))
    for graph in exported.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if name in names and tensor is not None:
                value.const_value = ParameterTensor(name, tensor.dtype, tensor.shape.numpy())
