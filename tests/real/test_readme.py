"""Every command and every snippet of the README runs, with local checkpoints instead of Hub repositories."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conformance.checkpoints import make_checkpoint
from scripts.fetch_real_models import model_directory
from tests.forked import run_code
from tests.policy.source import REPOSITORY

BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.S)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "sentence-transformers/all-MiniLM-L6-v2": model_directory("minilm"),
        "HuggingFaceTB/SmolLM2-135M-Instruct": make_checkpoint(
            "gpt2", "causal-lm-with-past", tmp_path_factory.mktemp("checkpoints")
        ),
    }


def commands(text: str) -> list[list[str]]:
    """Split a console block into the command of each line."""
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in text.splitlines() if line.startswith("$ ")]


def test_the_readme_runs(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    blocks = BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"console", "python"}
    for kind, text in blocks:
        for repository, directory in checkpoints.items():
            text = text.replace(repository, str(directory))
        if kind == "python":
            run_code(text, directory=tmp_path)
            continue
        for command in commands(text):
            if command[0] == "pip":  # this test already runs with it
                assert command[1:] == ["install", "onnxport[export]"]
            else:
                module, *arguments = command[2:] if command[:2] == ["python", "-m"] else command
                run_code(
                    f"import runpy; runpy.run_module({module!r}, run_name='__main__')", *arguments, directory=tmp_path
                )
