"""Model types to the files that describe them: a literal table, so that a family is imported when it is needed."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxport.architectures._architecture import Architecture

MODULES: dict[str, str] = {}
"""Model type to the module of `onnxport.architectures` whose `ARCHITECTURES` has its record."""


@cache
def architecture_of(model_type: str) -> Architecture | None:
    """Return the record of a model type, None where its traits tell everything.

    Args:
        model_type: as in `config.json`.
    """
    if model_type not in MODULES:
        return None
    found = import_module(f"onnxport.architectures.{MODULES[model_type]}").ARCHITECTURES
    return next(record for record in found if model_type in record.model_types)
