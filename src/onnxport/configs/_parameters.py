"""Compute the size of parameters in bytes, and the size of an axis of a dummy input."""

from __future__ import annotations

from ctypes import c_float, sizeof
from enum import Enum


class ParameterFormat(Enum):
    """Formats in which a parameter can be serialized."""

    Float = c_float

    @property
    def size(self) -> int:
        """Bytes per parameter."""
        return sizeof(self.value)


def compute_effective_axis_dimension(dimension: int, fixed_dimension: int, num_token_to_add: int = 0) -> int:
    """Return the size of an axis of a dummy input, before a tokenizer adds special tokens.

    Args:
        dimension: requested size; zero or less for a dynamic axis.
        fixed_dimension: size of a dynamic axis.
        num_token_to_add: number of tokens that are added later, which is subtracted.

    Returns:
        The size, which may be zero or negative if `num_token_to_add` is larger than the requested size.
    """
    size = dimension if dimension > 0 else fixed_dimension
    return size - num_token_to_add


def compute_serialized_parameters_size(num_parameters: int, dtype: ParameterFormat) -> int:
    """Return the size of `num_parameters` parameters in the format `dtype`, in bytes."""
    return num_parameters * dtype.size
