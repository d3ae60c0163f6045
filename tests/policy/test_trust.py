"""Contents of a checkpoint or an export never lead to other files or run code: rules on the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.policy.source import FILES, label

CONTAINMENT = "containment.py"
LISTING = frozenset({"glob", "rglob", "iterdir", "scandir", "listdir", "walk"})
OWN_DIRECTORIES = {
    "list_files": "the directory that an export wrote",
    "_flush": "the same",
    "staged_files": "the same",
    "_replace_whole": "the same",
    "_foreign_files": "names in an output that is to be replaced",
    "_stages_of": "names beside the output",
    "_files": "the cache of blueprints",
    "remove_abandoned": "the same",
    "_code_digest": "this package",
}
"""Functions that list directories that onnxport wrote, or their parent directories."""


def ancestry(path_tree: ast.AST) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Yield every node of a tree with its ancestors, the innermost last."""
    waiting: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(path_tree, ())]
    while waiting:
        node, around = waiting.pop()
        yield node, around
        waiting += [(child, (*around, node)) for child in ast.iter_child_nodes(node)]


def name_of(node: ast.AST) -> str:
    """Return the name of the function or method that a call calls."""
    called = node.func if isinstance(node, ast.Call) else None
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def is_only_checked(around: tuple[ast.AST, ...]) -> bool:
    """Return whether a listing is only used to check that there are files, or for their names."""
    if name_of(around[-1]) == "any":
        return True
    return any(
        isinstance(node, ast.GeneratorExp) and isinstance(node.elt, ast.Attribute) and node.elt.attr == "name"
        for node in around[-2:]
    )


def listings(tree: ast.AST) -> Iterator[str]:
    """Yield the functions that list a directory and use the paths."""
    for node, around in ancestry(tree):
        if name_of(node) in LISTING and name_of(node) != "walk" and not is_only_checked(around):
            functions = [item.name for item in around if isinstance(item, ast.FunctionDef)]
            yield functions[-1] if functions else "the module"
        elif isinstance(node, ast.Attribute) and node.attr == "walk" and ast.unparse(node.value) in ("os", "Path"):
            yield "os.walk"


def test_only_containment_lists_other_directories() -> None:
    """`files_inside` lists them, and raises an error for links to files outside."""
    found = {
        f"{label(path)}: {name}"
        for path in FILES
        if label(path) != CONTAINMENT
        for name in listings(ast.parse(path.read_text(encoding="utf-8")))
        if name not in OWN_DIRECTORIES
    }
    assert not found


def test_only_containment_checks_what_is_inside() -> None:
    found = {
        label(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if name_of(node) in ("is_relative_to", "commonpath")
    }
    assert found == {CONTAINMENT}


def test_the_rules_find_every_form() -> None:
    seen = list(listings(ast.parse("def f(d):\n    return [p for p in d.glob('*') if p.is_file()]\n")))
    assert seen == ["f"]
    assert not list(listings(ast.parse("any(d.glob('*')), sorted(p.name for p in d.glob('*'))")))


LOADERS = ("from_pretrained", "from_config", "pipeline")
"""Functions that prompt on standard input whether to run code of a directory, without `trust_remote_code`."""
WITHOUT_CODE = ("GenerationConfig",)
"""Classes that never run code of a directory, and treat every argument as a setting."""


def unspecified(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that use a Transformers loader without `trust_remote_code`.

    A loader that isn't called directly must be passed to `partial` with that argument.
    """
    for node, around in ancestry(tree):
        if not (isinstance(node, ast.Attribute) and node.attr in LOADERS):
            continue
        owner = ast.unparse(node.value)
        if owner in WITHOUT_CODE or (node.attr == "pipeline" and owner != "transformers"):
            continue
        call = next((item for item in reversed(around) if isinstance(item, ast.Call)), None)
        if call is None or not any(keyword.arg == "trust_remote_code" for keyword in call.keywords):
            yield node.lineno


def test_every_loader_gets_trust_remote_code() -> None:
    found = [
        f"{label(path)}:{line}" for path in FILES for line in unspecified(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found


def test_the_rule_about_loaders_finds_every_form() -> None:
    specified = "partial(A.from_pretrained, trust_remote_code=False), A.from_config(c, trust_remote_code=t)"
    assert not list(unspecified(ast.parse(specified)))
    for text in ("A.from_pretrained(d)", "f(A.from_pretrained)", "load = A.from_config", "transformers.pipeline(t)"):
        assert list(unspecified(ast.parse(text))) == [1]


PARSERS = {
    "_export_all.py": "requests and answers of its own processes",
    "checkpoint/json_files.py": "the parser; values are checked by checkpoint/typed_values.py",
    "checkpoint/sentence_transformers.py": "a list, whose entries are checked there",
    "checkpoint/keras_file.py": "names of shards, which are checked there",
    "bundles/client_settings.py": "a copy of a file that was parsed before",
    "bundles/side_files.py": "the same",
    "binding/bind.py": "the cache of blueprints",
    "blueprints/_entry.py": "the same",
    "blueprints/entries.py": "the same",
    "cli/bench.py": "the output of a process of its own",
    "description/coverage.py": "a file of the package",
    "runtime/directory.py": "values that were parsed before",
    "validation/report.py": "the same",
}
"""Modules that parse JSON, and what."""


def test_json_is_parsed_where_it_is_checked() -> None:
    found = {
        label(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.load", "json.loads", "loads")
    }
    assert found == set(PARSERS)


def test_processes_import_nothing_from_the_current_directory() -> None:
    found = {label(path) for path in FILES if "sys.executable" in path.read_text(encoding="utf-8")}
    assert found == {"_process.py"}, "python_command passes -P"
