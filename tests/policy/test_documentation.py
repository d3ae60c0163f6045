"""The documentation names what there is, and its links lead somewhere."""

from __future__ import annotations

import inspect
import re
import tomllib

import pytest

import onnxport
from conformance.matrix.pairs import GENERATING
from onnxport import errors
from onnxport.cli import VERBS, main
from onnxport.cli._pipelines import PIPELINES
from onnxport.cli._tasks import RESULTS
from onnxport.description.tasks import TASKS
from onnxport.runtime.pipelines import pipelines_for
from tests.policy.source import REPOSITORY

DOCS = REPOSITORY / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_the_command_is_documented(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert not {option for option in options if option not in page("cli.md")}


def test_every_documented_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        main([verb, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert not set(re.findall(r"`(--[a-z][a-z-]+)", page("cli.md"))) - known


def test_every_public_name_is_documented() -> None:
    assert not [name for name in onnxport.__all__ if f"`{name}" not in page("api.md")]


def test_every_error_is_documented() -> None:
    names = [name for name, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]
    assert not [name for name in names if name not in page("api.md")]


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [name for group in project["optional-dependencies"].values() for name in group]
    names = {re.split(r"[<>=\[ ]", text)[0] for text in [*project["dependencies"], *optional]} - {"onnxport"}
    assert not {name for name in names if name not in page("dependencies.md")}


def test_the_table_of_tasks_says_what_run_and_pipelines_do() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page("tasks.md").splitlines() if "|" in line]
    table = {name: cells for name, *cells in rows[2:]}
    assert list(table) == [task.name for task in TASKS]
    assert {task.name: table[task.name][2] for task in TASKS} == {
        task.name: ", ".join(pipelines_for(task)) for task in TASKS
    }
    with_result = {*PIPELINES, *RESULTS, *GENERATING}
    assert {name for name, (_, prints, _) in table.items() if prints != "the outputs"} == with_result


def test_links_resolve() -> None:
    pages = [*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "benchmarks" / "README.md"]
    links = [(file, link) for file in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", file.read_text())]
    assert links
    assert not [f"{file.name}: {link}" for file, link in links if not (file.parent / link).exists()]
