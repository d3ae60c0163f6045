"""One architecture, one file: the table names every record, and nothing else names a model type."""

from __future__ import annotations

import ast
from importlib import import_module

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from onnxport.architectures._table import MODULES
from tests.policy.source import FILES, SOURCE, label

FAMILIES = [
    path.stem
    for path in sorted((SOURCE / "architectures").glob("*.py"))
    if not path.stem.startswith("_") and path.stem != "describe"
]
"""Files of `architectures/` but its mechanism: names with an underscore, and `describe.py`, where it is used."""
ALLOWED = ("architectures/", "configs/", "tracing/")
"""Families' files, the tables of `transformers.onnx`, and the patches that move to families' files next."""
CLIP = "clip"
"""A mode of `numpy.take`, too."""


def test_the_table_is_what_the_files_hold() -> None:
    records = {name: import_module(f"onnxport.architectures.{name}").ARCHITECTURES for name in FAMILIES}
    found = [(kind, name) for name, held in records.items() for record in held for kind in record.model_types]
    assert sorted(found) == sorted(MODULES.items())


def test_model_types_are_named_in_their_family_s_file_alone() -> None:
    spelled = {name for kind in CONFIG_MAPPING_NAMES for name in (kind, kind.replace("-", "_"))}
    named = [
        f"{label(path)}:{node.lineno}: {node.value}"
        for path in FILES
        if not label(path).startswith(ALLOWED)
        for node in ast.walk(_without_numpy_modes(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in spelled
    ]
    assert not named


def _without_numpy_modes(text: str) -> ast.AST:
    """Parse a module, without `mode="clip"` of its calls."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [
                word
                for word in node.keywords
                if not (word.arg == "mode" and isinstance(word.value, ast.Constant) and word.value.value == CLIP)
            ]
    return tree
