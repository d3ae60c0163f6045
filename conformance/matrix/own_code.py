"""Count the model types that have code of their own: those that a string or an import of the package names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import onnxport

_CONTRACT = "configs/"
"""The tables of 4.37.2's API, whose descriptions are those of its contract; they aren't counted."""


def own_code() -> list[str]:
    """Return the names of the model types, sorted."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    root = Path(onnxport.__file__).parent
    files = [file for file in root.rglob("*.py") if not file.relative_to(root).as_posix().startswith(_CONTRACT)]
    found = {name for file in files for name in _names(ast.parse(file.read_text(encoding="utf-8")))}
    return sorted(found & {spelled for name in CONFIG_MAPPING_NAMES for spelled in (name, name.replace("-", "_"))})


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (node.value, *re.findall(r"transformers\.models\.(\w+)", node.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers.models."):
            yield str(node.module).split(".")[2]
