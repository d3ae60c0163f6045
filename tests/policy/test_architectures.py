"""One file for each architecture: the table lists every record, and no other module names a model type."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from onnxport.architectures._table import MODULES
from tests.policy.source import FILES, SOURCE, label

FAMILIES = [
    path.stem
    for path in sorted((SOURCE / "architectures").glob("*.py"))
    if not path.stem.startswith("_") and path.stem not in ("classes", "describe")
]
"""Files of families in `architectures/`, without those with an underscore, `classes.py` and `describe.py`."""
ALLOWED = ("architectures/", "configs/", "layouts/")
"""Families' files, the tables of `transformers.onnx`, and what a client knows about model types."""
CLIP = "clip"
"""A model type that is also a mode of `numpy.take`."""


def test_the_table_lists_the_records_of_the_files() -> None:
    records = {name: import_module(f"onnxport.architectures.{name}").ARCHITECTURES for name in FAMILIES}
    found = [
        (model_type, name)
        for name, declared in records.items()
        for record in declared
        for model_type in record.model_types
    ]
    assert sorted(found) == sorted(MODULES.items())


def test_model_types_are_named_only_in_the_file_of_their_family() -> None:
    spellings = {name for model_type in CONFIG_MAPPING_NAMES for name in (model_type, model_type.replace("-", "_"))}
    named = [
        f"{label(path)}:{node.lineno}: {node.value}"
        for path in FILES
        if not label(path).startswith(ALLOWED)
        for node in ast.walk(_without_numpy_modes(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in spellings
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


def test_records_are_read_without_torch() -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx")
    modules = ", ".join(f"onnxport.architectures.{name}" for name in FAMILIES)
    code = f"import {modules}, sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
