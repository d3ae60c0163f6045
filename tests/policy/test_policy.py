"""Rules of the source tree: layers, public surface, import cost, sizes."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import onnxport

SOURCE = Path(onnxport.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LAYERS = (
    ("errors",),
    ("options",),
    ("configs",),
    ("architectures",),
    ("passes", "weights"),
    ("tracing",),
    ("bundles",),
    ("validation",),
    ("_export",),
    ("onnx", "cli", "compat", "__init__"),
    ("__main__",),
)
"""Lowest first; a module imports from its own layer's item and from lower layers."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("onnxport."):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    if own == "__init__":
        return
    wrong = {name for name in imports(path) - {own} if HEIGHT[name] >= HEIGHT[own]}
    assert not wrong


def test_public_surface() -> None:
    assert set(onnxport.__all__) == {
        "ExportOptions",
        "ExportResult",
        "Manifest",
        "OnnxportError",
        "ValidationReport",
        "__version__",
        "export",
        "inspect",
        "validate",
    }
    for name in onnxport.__all__:
        assert getattr(onnxport, name) is not None


@pytest.mark.parametrize("statement", ["import onnxport", "import onnxport.onnx", "from onnxport.cli import main"])
def test_import_is_light(statement: str) -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx")
    code = f"{statement}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 75, node.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_every_module_imports(path: Path) -> None:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    if parts[-1] == "__main__" or parts[-1] == "compat":
        return
    importlib.import_module(".".join(parts))
