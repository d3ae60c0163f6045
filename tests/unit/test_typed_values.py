"""Values of JSON files are checked where they are read: a wrong type is one clear line that names the value."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

import onnxport
from onnxport.bundles.manifest import FILE_NAME
from onnxport.checkpoint.json_files import parse_json_object
from onnxport.checkpoint.typed_values import typed
from onnxport.errors import MAX_LINE, CorruptCheckpointError, OnnxportError, OptionError, message_of, one_line
from onnxport.runtime.directory import Directory
from onnxport.runtime.sampling import GenerationSettings
from tests.unit.test_containment import write_export


@dataclass(frozen=True)
class Inner:
    """A value."""

    axes: tuple[int | str, ...]
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    """A value with others."""

    name: str
    inner: tuple[Inner, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    scale: float = 1.0
    pair: tuple[int, str] | None = None
    rest: dict[str, Any] = field(default_factory=dict)


def test_values_become_those_of_the_type() -> None:
    values = {
        "name": "n",
        "inner": [{"axes": [1, "x"]}],
        "sizes": {"a": 2.0},
        "scale": 3,
        "pair": [1, "b"],
        "rest": {"c": []},
    }
    found = typed(values, Outer, "")
    assert found == Outer("n", (Inner((1, "x")),), {"a": 2}, 3.0, (1, "b"), {"c": []})
    assert type(found.sizes["a"]) is int and type(found.scale) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "^name is 3, not a string$"),
        ({"name": ...}, "^name is missing$"),
        ({"other": 1}, "^other isn't a known field$"),
        ({"inner": {}}, "^inner is {}, not a list$"),
        ({"inner": [{"axes": [1.5]}]}, r"^inner\[0\]\.axes\[0\] is 1\.5, not an integer$"),
        ({"inner": [{"axes": [None]}]}, r"^inner\[0\]\.axes\[0\] is None, not an integer or a string$"),
        ({"inner": [{"axes": [], "kind": "c"}]}, r"^inner\[0\]\.kind is 'c', not one of 'a', 'b'$"),
        ({"inner": [3]}, r"^inner\[0\] is 3, not an object$"),
        ({"sizes": {"a": True}}, r"^sizes\.a is True, not an integer$"),
        ({"sizes": []}, r"^sizes is \[\], not an object$"),
        ({"pair": [1]}, "^pair has 1 items, not 2$"),
        ({"pair": "x"}, "^pair is 'x', not a list or null$"),
        ({"scale": "1"}, "^scale is '1', not a number$"),
        ({"\x1b[31m" * 99: 1}, r"^'\\x1b.{1,80} isn't a known field$"),
    ],
)
def test_the_message_names_the_innermost_value(changes: dict[str, object], message: str) -> None:
    values = {key: value for key, value in {"name": "n", **changes}.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        typed(values, Outer, "")


WRONG: list[object] = [None, True, -1, 10**40, 1e308, "", "x", "\x1b[2J\n" * 200, "é" * 200, "../../x", "\0"]
WRONG += [[], [None], [[[]]], {}, {"a": {}}]


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: object) -> Any:
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = by
    return changed


READERS: dict[str, Callable[[Path], object]] = {
    "inspect": onnxport.inspect,
    "directory": lambda path: Directory(path).graph("model").inputs,
    "validate": lambda path: onnxport.validate(path, str(path / "nothing")),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_value_of_a_manifest(tmp_path: Path, reader: str) -> None:
    """Whatever is in a manifest, reading it succeeds or is one clear line."""
    file = write_export(tmp_path) / FILE_NAME
    manifest = json.loads(file.read_text())
    for path in list(places(manifest))[1:]:
        for value in WRONG:
            file.write_text(json.dumps(replaced(manifest, path, value)))
            try:
                READERS[reader](tmp_path)
            except OnnxportError as error:
                line = message_of(error)
                assert len(line) <= MAX_LINE and line.isprintable()


@pytest.mark.parametrize("name", ["eos_token_id", "pad_token_id", "decoder_start_token_id"])
@pytest.mark.parametrize("value", ["x", [["x"]], {}, 1.5, True])
def test_token_ids_of_a_configuration(tmp_path: Path, name: str, value: object) -> None:
    write_export(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", name: value}))
    with pytest.raises(CorruptCheckpointError, match=name):
        Directory(tmp_path).setting(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "hot"), ("top_k", [3]), ("do_sample", "yes"), ("bad_words_ids", [3]), ("eos_token_id", "x"),
     ("pad_token_id", {}), ("suppress_tokens", ["a"]), ("max_new_tokens", 1.5)],
)  # fmt: skip
def test_generation_settings(name: str, value: object) -> None:
    with pytest.raises(OptionError, match=rf"{name}.* is .*, not "):
        GenerationSettings.from_defaults({"do_sample": True, name: value}, {})


def test_generation_settings_of_usual_types() -> None:
    defaults = {
        "temperature": 1,
        "eos_token_id": [1, 2],
        "bad_words_ids": [[3, 4]],
        "suppress_tokens": None,
        "top_p": 0.5,
    }
    found = GenerationSettings.from_defaults(defaults, {"max_new_tokens": 4})
    assert (found.temperature, found.eos_token_ids, found.pad_token_id) == (1.0, {1, 2}, 1)
    assert found.bad_words_ids == ((3, 4),)


def test_half_of_a_surrogate_pair() -> None:
    assert parse_json_object(rb'{"a": "\ud83d\ude00"}', Path("x"), purpose="the settings") == {"a": "😀"}
    for raw in (rb'{"a": ["\ud800"]}', rb'{"\udc00": 1}'):
        with pytest.raises(CorruptCheckpointError, match="half of a surrogate pair"):
            parse_json_object(raw, Path("x"), purpose="the settings")


def test_a_line_is_short_and_printable() -> None:
    line = one_line("the file " + "x" * 5000 + "\x1b[31m\ud800\n is damaged; " + "y " * 500 + "export it again")
    assert len(line) <= MAX_LINE and line.isprintable()
    assert line.startswith("the file xxx") and line.endswith("export it again")
    assert one_line("a\x07b\n\n  c é") == "a\\x07b c é"
