"""The engine: `transformers.exporters` captures and lowers. The one file that imports it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import patched
from onnxport.tracing._economy import economical
from onnxport.tracing.patches import patches
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir
    import torch


def capture(
    model: Any, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, tuple[int, ...]], opset: int | None
) -> onnx_ir.Model:
    """Capture a model's forward.

    Args:
        model: module whose forward takes `inputs` by name and returns a mapping of names to tensors.
        inputs: example inputs; names are Python identifiers.
        dynamic: for each input, the axes that may vary.
        opset: ONNX opset, the engine's default without.

    Returns:
        The graph as it was lowered, inputs and outputs in the order given. Where the model's parameters and persistent
        buffers were, there are `ParameterTensor`s under their full names.
    """
    from torch.export import Dim
    from transformers.exporters.exporter_onnx import OnnxConfig as EngineConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    shapes = {name: dict.fromkeys(dynamic[name], Dim.AUTO) for name in inputs}
    config = EngineConfig(dynamic_shapes=shapes, opset_version=opset, optimize=False)
    with quiet_engine(), economical(), patched(patches()):
        exported: onnx_ir.Model = OnnxExporter().export(model, dict(inputs), config).program
    _name_parameters(exported, model)
    return exported


def default_opset() -> int:
    """Return the opset that the engine produces where none is asked for."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def _name_parameters(exported: onnx_ir.Model, model: Any) -> None:
    """Put a name, a dtype and a shape in the place of every tensor that a checkpoint provides."""
    names = set(model.state_dict(keep_vars=True))
    for graph in exported.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if name in names and tensor is not None:
                value.const_value = ParameterTensor(name, tensor.dtype, tensor.shape.numpy())


_TALKATIVE = (
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental",
    "torch.export",
    "torch.onnx",
    "torch.onnx._internal.exporter._registration",
    "transformers",
    "onnxscript",
    "onnx_ir",
)


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Keep the engine's progress lines and version notes off the user's terminal."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
