"""The package's modules and the repository's files, for the policy tests."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnxport

SOURCE = Path(onnxport.__file__).parent
REPOSITORY = Path(__file__).resolve().parents[2]
FILES = sorted(SOURCE.rglob("*.py"))


def label(path: Path) -> str:
    """Name a module in test reports."""
    return str(path.relative_to(SOURCE))


@cache
def syntax_tree(path: Path) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a module."""
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def committed_texts() -> Iterator[tuple[str, str]]:
    """Yield path and content of every committed text file."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        path = REPOSITORY / name
        if not path.is_file():
            continue
        try:
            yield name, path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
