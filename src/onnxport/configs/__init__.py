"""The descriptions of `transformers.onnx` 4.37.2: inputs, outputs, dynamic axes, tolerances and dummy inputs.

Importing this package imports neither torch nor transformers.
"""

from onnxport.configs._base import DEFAULT_ONNX_OPSET, EXTERNAL_DATA_FORMAT_SIZE_LIMIT, OnnxConfig
from onnxport.configs._parameters import (
    ParameterFormat,
    compute_effective_axis_dimension,
    compute_serialized_parameters_size,
)
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.configs._patching import PatchingSpec
from onnxport.configs._seq2seq import OnnxSeq2SeqConfigWithPast

__all__ = [
    "DEFAULT_ONNX_OPSET",
    "EXTERNAL_DATA_FORMAT_SIZE_LIMIT",
    "OnnxConfig",
    "OnnxConfigWithPast",
    "OnnxSeq2SeqConfigWithPast",
    "ParameterFormat",
    "PatchingSpec",
    "compute_effective_axis_dimension",
    "compute_serialized_parameters_size",
]
