"""Outputs of graphs as Transformers' `ModelOutput`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import make_dataclass
from functools import cache
from typing import Any

from transformers.utils import ModelOutput


def model_output(values: Mapping[str, Any]) -> ModelOutput:
    """Return outputs under Transformers' names.

    The graph's `feature_maps.0`, `feature_maps.1` … are a tuple, and its `vision_outputs.pooler_output` is an output of
    `vision_outputs`.

    Args:
        values: output name of the graph to its value, in the graph's order.
    """
    fields = _fields(values)
    return _model_output_class(tuple(fields))(**fields)


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values by the part of their name before the first dot; those with the same part are nested."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        field, _, rest = name.partition(".")
        if rest:
            nested.setdefault(field, {})[rest] = value
        else:
            nested[field] = value
    return {name: _nested(value) if isinstance(value, dict) else value for name, value in nested.items()}


def _nested(values: Mapping[str, Any]) -> ModelOutput | tuple[Any, ...]:
    """Return a tuple of values with numbers for names, such as those of `present.0.key`; else a `ModelOutput`."""
    fields = _fields(values)
    is_sequence = all(name.isdecimal() for name in fields)
    return tuple(fields.values()) if is_sequence else _model_output_class(tuple(fields))(**fields)


@cache
def _model_output_class(names: tuple[str, ...]) -> type[ModelOutput]:
    """Return a `ModelOutput` class with these fields."""
    fields = [(name, Any, None) for name in names]
    return make_dataclass("OnnxModelOutput", fields, bases=(ModelOutput,), namespace={"__module__": __name__})
