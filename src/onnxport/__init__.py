"""Export Hugging Face Transformers checkpoints to validated ONNX directories."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport._export import ExportResult, export
    from onnxport._export_all import export_all
    from onnxport.bundles.inspection import inspect
    from onnxport.bundles.manifest import Manifest
    from onnxport.errors import OnnxportError
    from onnxport.options import ExportOptions
    from onnxport.runtime.load import load, pipeline
    from onnxport.runtime.signature import Signer
    from onnxport.runtime.verify import verify
    from onnxport.validation import ValidationReport, validate

__version__ = "0.1.0"
__all__ = [
    "ExportOptions",
    "ExportResult",
    "Manifest",
    "OnnxportError",
    "Signer",
    "ValidationReport",
    "__version__",
    "export",
    "export_all",
    "inspect",
    "load",
    "pipeline",
    "validate",
    "verify",
]

_LAZY = {
    "ExportOptions": "onnxport.options",
    "ExportResult": "onnxport._export",
    "Manifest": "onnxport.bundles.manifest",
    "OnnxportError": "onnxport.errors",
    "Signer": "onnxport.runtime.signature",
    "ValidationReport": "onnxport.validation",
    "export": "onnxport._export",
    "export_all": "onnxport._export_all",
    "inspect": "onnxport.bundles.inspection",
    "load": "onnxport.runtime.load",
    "pipeline": "onnxport.runtime.load",
    "validate": "onnxport.validation",
    "verify": "onnxport.runtime.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'onnxport' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
