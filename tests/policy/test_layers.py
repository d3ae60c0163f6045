"""Packages import only from lower layers, and `import onnxport` doesn't import torch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.source import FILES, SOURCE, label, syntax_tree

LAYERS = (
    ("errors", "_foreign_errors", "_garbage", "_locking", "_process"),
    ("containment", "samples"),
    ("options", "_needs", "_onnxruntime", "_transformers_api"),
    ("patching",),
    ("configs",),
    ("description",),
    ("architectures",),
    ("weights",),
    ("checkpoint",),
    ("loading",),
    ("binding",),
    ("passes",),
    ("fusions",),
    ("stamping",),
    ("tracing",),
    ("blueprints",),
    ("writing",),
    ("bundles",),
    ("layouts",),
    ("runtime",),
    ("validation",),
    ("reports", "demo"),
    ("_export", "_describe"),
    ("ray",),
    ("_export_all",),
    ("onnx", "cli", "compat"),
    ("_command",),
    ("__init__",),
    ("__main__",),
)
"""Lowest first; a module imports from its own package and from lower layers."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Return the packages below onnxport that a syntax tree imports, also in functions."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "onnxport":
            names += [f"onnxport.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("onnxport.")}


def test_imports_are_of_lower_layers() -> None:
    assert not [
        f"{label(path)} imports {name}"
        for path in FILES
        for name in sorted(imports(syntax_tree(path)) - {package_of(path)})
        if HEIGHT.get(name, -1) >= HEIGHT[package_of(path)]
    ]


def test_every_package_has_a_layer() -> None:
    assert {package_of(path) for path in FILES} <= set(HEIGHT)


@pytest.mark.parametrize("text", ["import onnxport.cli", "from onnxport import cli", "from onnxport.cli import main"])
def test_the_rule_finds_every_form_of_import(text: str) -> None:
    assert imports(ast.parse(f"def f():\n    {text}")) == {"cli"}


@pytest.mark.parametrize(
    "statement",
    ["import onnxport", "import onnxport.onnx", "from onnxport.cli import main", "import onnxport.architectures"],
)
def test_import_is_light(statement: str) -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "onnxscript")
    code = f"{statement}; import sys; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_imports() -> None:
    for path in FILES:
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        if parts[-1] not in ("__main__", "compat"):  # importing these has effects
            importlib.import_module(".".join(parts).removesuffix(".__init__"))
