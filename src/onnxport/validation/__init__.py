"""Prove a graph against its original, at shapes that it was never traced at."""

from onnxport.validation._validate import validate
from onnxport.validation.report import ValidationReport

__all__ = ["ValidationReport", "validate"]
