"""List the model types with custom code: those whose record has more than a tiny configuration."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnxport
from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._table import MODULES, architecture_of

_TRACING = "tracing/"
"""Patches that aren't in a family's file yet: the model types that they name are listed, too."""


def own_code() -> list[str]:
    """Return the names of the model types, sorted."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    described = {name for name in MODULES if _has_code(architecture_of(name))}
    files = (Path(onnxport.__file__).parent / _TRACING).rglob("*.py")
    patched = {name for file in files for name in _names(ast.parse(file.read_text(encoding="utf-8")))}
    known = {spelling for name in CONFIG_MAPPING_NAMES for spelling in (name, _module_name(name))}
    return sorted(described | patched & known)


def _has_code(record: Architecture | None) -> bool:
    return record is not None and replace(record, tiny=Tiny()) != Architecture(record.model_types)


def _module_name(name: str) -> str:
    return name.replace("-", "_")


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (node.value, *re.findall(r"transformers\.models\.(\w+)", node.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers.models."):
            yield str(node.module).split(".")[2]
