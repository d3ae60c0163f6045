"""Sizes: how many bytes parameters take, and how long an axis of a dummy input becomes."""

from __future__ import annotations

from ctypes import c_float, sizeof
from enum import Enum


class ParameterFormat(Enum):
    """Name the formats in which a parameter can be serialized."""

    Float = c_float

    @property
    def size(self) -> int:
        """Bytes per parameter."""
        return sizeof(self.value)


def compute_effective_axis_dimension(dimension: int, fixed_dimension: int, num_token_to_add: int = 0) -> int:
    """Decide how long an axis of a dummy input is, before a tokenizer adds its own tokens.

    Args:
        dimension: wanted length; zero or less means dynamic.
        fixed_dimension: length that stands in for a dynamic one.
        num_token_to_add: tokens that will be added later, so they are taken off here.

    Returns:
        The length, which can be zero or less when more tokens are added than wanted.
    """
    wanted = dimension if dimension > 0 else fixed_dimension
    return wanted - num_token_to_add


def compute_serialized_parameters_size(num_parameters: int, dtype: ParameterFormat) -> int:
    """Return how many bytes `num_parameters` parameters take in the format `dtype`."""
    return num_parameters * dtype.size
