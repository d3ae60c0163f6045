"""What a tiny configuration needs that its fields' names don't tell, by model type."""

from __future__ import annotations

from typing import Any

EXCEPTIONS: dict[str, dict[str, Any]] = {}
"""Model type to values of fields; `base` holds what the default configuration needs to be made at all.

A value for a configuration inside is a dictionary with the key `...`.
"""
