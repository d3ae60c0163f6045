"""Compare a graph's outputs with the original model's, also at sizes that it wasn't traced at."""

from onnxport.validation._validate import validate
from onnxport.validation.report import ValidationReport

__all__ = ["ValidationReport", "validate"]
