"""Other rules: which modules may print, and what no committed file may contain."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.policy.source import FILES, REPOSITORY, committed_texts, label, syntax_tree

PRINTERS = ("cli/", "onnx/__main__.py")
FORBIDDEN = {
    "a package registry's host": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org",
    "an index of packages": r"--(extra-)?index-url|--find-links",
    "a path of one machine": r"(?<![\w.~}])/(work|root|home|Users|opt|scratch)/\w",
}
SUFFIXES_OF_DATA = (".h5", ".npz", ".gguf", ".bin", ".safetensors")


def test_only_the_command_prints() -> None:
    assert not [
        f"{label(path)}:{node.lineno}"
        for path in FILES
        if not label(path).startswith(PRINTERS)
        for node in ast.walk(syntax_tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    this_file = str(Path(__file__).resolve().relative_to(REPOSITORY))
    found = [
        f"{name}: {match[0]}"
        for name, text in committed_texts()
        if name != this_file and not name.endswith(SUFFIXES_OF_DATA)
        for match in re.finditer(FORBIDDEN[what], text)
    ]
    assert not found


def test_the_constraints_pin_plain_versions() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert lines
    assert not [line for line in lines if not re.fullmatch(r"[\w.-]+==[\d.]+", line)]


def test_the_lock_has_digests_of_all_pinned_packages() -> None:
    """Of torch there is a build for each device, whose digest depends on the index."""
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split()
    entries = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").replace(" \\\n", "").splitlines()
    found = {name: digests for name, *digests in (entry.split() for entry in entries)}
    normalized = [line.lower().replace("_", "-") for line in pinned]
    assert sorted(found) == sorted(line for line in normalized if not line.startswith("torch=="))
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", digest) for digests in found.values() for digest in digests)
    assert all(found.values())
