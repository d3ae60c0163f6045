"""Run a graph in ONNX Runtime with its weights memory-mapped, never copied into memory.

By default ONNX Runtime copies weights when it pre-packs them, folds constants, casts fp16 weights long before their
use, or parses them out of the graph's file. The options here avoid all four.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._onnxruntime import load_error, runtime_errors
from onnxport.runtime.exact import comparable_form

if TYPE_CHECKING:
    import onnxruntime


def open_mapped(file: Path) -> onnxruntime.InferenceSession:
    """Create a session without copying the graph's weights.

    Raises:
        ValidationError: ONNX Runtime can't load the graph; `NoKernelError` if it lacks a kernel.
    """
    import onnxruntime
    from google.protobuf.message import DecodeError

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # The default order runs all casts of weights first; this one runs each just before its use.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(comparable_form(file, options), options, providers=["CPUExecutionProvider"])
    except (*runtime_errors(), LookupError, DecodeError) as error:
        raise load_error(file.name, error) from error
