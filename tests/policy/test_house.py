"""Rules that aren't about imports or sizes: who may print, and what no committed file may name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.policy.source import FILES, REPOSITORY, committed_texts, label

PRINTERS = ("cli/", "onnx/__main__.py")
FORBIDDEN = {
    "a package registry's host": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org",
    "where packages come from": r"--(extra-)?index-url|--find-links",
    "a path of one machine": r"(?<![\w.~}])/(work|root|home|Users|opt|scratch)/\w",
}
SUFFIXES_OF_DATA = (".h5", ".npz", ".gguf", ".bin", ".safetensors")


@pytest.mark.parametrize("path", FILES, ids=label)
def test_only_the_command_prints(path: Path) -> None:
    if label(path).startswith(PRINTERS):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print")


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    own = str(Path(__file__).resolve().relative_to(REPOSITORY))
    found = [
        f"{name}: {match[0]}"
        for name, text in committed_texts()
        if name != own and not name.endswith(SUFFIXES_OF_DATA)
        for match in re.finditer(FORBIDDEN[what], text)
    ]
    assert not found


def test_the_constraints_pin_plain_versions() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\d.]+", line)]


def test_dependencies_are_explained() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [name for group in project["optional-dependencies"].values() for name in group]
    names = {re.split(r"[<>=\[ ]", text)[0] for text in [*project["dependencies"], *optional]} - {"onnxport"}
    page = (REPOSITORY / "docs" / "dependencies.md").read_text(encoding="utf-8")
    assert not {name for name in names if name not in page}


def test_links_of_the_documentation_resolve() -> None:
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", page.read_text())]
    assert links
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
