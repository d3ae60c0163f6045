"""Provide the API of `transformers.onnx` 4.37.2 on Transformers 5: only the import changes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport.onnx.config import (
        EXTERNAL_DATA_FORMAT_SIZE_LIMIT,
        OnnxConfig,
        OnnxConfigWithPast,
        OnnxSeq2SeqConfigWithPast,
        PatchingSpec,
    )
    from onnxport.onnx.convert import export, validate_model_outputs
    from onnxport.onnx.features import FeaturesManager
    from onnxport.onnx.utils import ParameterFormat, compute_serialized_parameters_size

_MODULES = {
    "EXTERNAL_DATA_FORMAT_SIZE_LIMIT": "config",
    "FeaturesManager": "features",
    "OnnxConfig": "config",
    "OnnxConfigWithPast": "config",
    "OnnxSeq2SeqConfigWithPast": "config",
    "ParameterFormat": "utils",
    "PatchingSpec": "config",
    "compute_serialized_parameters_size": "utils",
    "export": "convert",
    "validate_model_outputs": "convert",
}
__all__ = [
    "EXTERNAL_DATA_FORMAT_SIZE_LIMIT",
    "FeaturesManager",
    "OnnxConfig",
    "OnnxConfigWithPast",
    "OnnxSeq2SeqConfigWithPast",
    "ParameterFormat",
    "PatchingSpec",
    "compute_serialized_parameters_size",
    "export",
    "validate_model_outputs",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES.values():
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
