"""The engine: `transformers.exporters` captures and lowers. The one file that imports it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.tracing.patches import patched

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
        The graph, inputs and outputs in the order given, weights still shared with the model.
    """
    from torch.export import Dim
    from transformers.exporters.exporter_onnx import OnnxConfig as EngineConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    shapes = {name: dict.fromkeys(dynamic[name], Dim.AUTO) for name in inputs}
    config = EngineConfig(dynamic_shapes=shapes, opset_version=opset)
    with _quiet(), patched():
        exported: onnx_ir.Model = OnnxExporter().export(model, dict(inputs), config).program
    return exported


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the engine's progress lines and version notes off the user's terminal."""
    names = ("torch.onnx", "torch.onnx._internal.exporter._registration", "transformers", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
