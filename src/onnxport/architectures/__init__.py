"""Model types that have a description of their own."""
from __future__ import annotations
from typing import Any
MODEL_TYPES: dict[str, Any] = {}
def load_config_class(name: str) -> Any:
    raise KeyError(name)
