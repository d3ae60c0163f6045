"""Small inputs take little time and memory: what a file asks for is limited by what the checkpoint has."""

from __future__ import annotations

import json
import re
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.numpy import save_file

from onnxport.checkpoint import safetensors
from onnxport.checkpoint.adapters import open_adapter
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.checkpoint.patterns import compile_pattern
from onnxport.errors import CorruptCheckpointError, UnsupportedError, brief
from onnxport.options import ExportOptions
from onnxport.runtime.template_limits import limited_rendering

SECONDS = 10
OPTIONS = ExportOptions()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "model.safetensors")
    return tmp_path


def test_patterns_are_those_of_re() -> None:
    patterns = [
        "a", "a.c", "(a|b)+", "(?:ab)*c?", r"layers\.\d+\.(q|v)_proj", "^model.x$", "[a-c]{2,3}", "a{2}", "a{2,}b",
        "x*?y", r"[^.]+\.w", "(?P<n>a|)b", "[]a]+", r"\w+\.\W", "(a*)*", "(a+)+$", "a||b", "", "$", "(^a|b)c",
        r"[\d-]+",
    ]  # fmt: skip
    texts = ["", "a", "b", "ab", "abc", "abab", "ababc", "aab", "aa", "aaa", "model.x", "modelyx", "layers.11.q_proj",
             "layers..q_proj", "xxy", "y", "x.w", "]a]", "w.-", "cab", "ac", "bc", "1-2", "a\nc"]  # fmt: skip
    for pattern in patterns:
        for text in texts:
            assert compile_pattern(pattern).matches(text) == bool(re.fullmatch(pattern, text)), (pattern, text)


@pytest.mark.parametrize(
    "pattern", ["(", ")", "a)", "*", "a**", "a{3,2}", "[", "[z-a]", r"(a)\1", "(?=a)", "(?i)a", "\\", r"\b",
                "((((a{900}){900}))", "(" * 60 + ")" * 60, "a" * 2000],
)  # fmt: skip
def test_a_pattern_that_is_not_supported(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        compile_pattern(pattern)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*", "(.*)*(.*)*b", "(a?){50}a{50}", "((a{0,20}){0,20})"])
def test_patterns_take_no_exponential_time(tmp_path: Path, pattern: str) -> None:
    name = "base_model.model." + "a" * 60 + "!"
    factors = {f"{name}.lora_A.weight": np.ones((2, 4), "f4"), f"{name}.lora_B.weight": np.ones((4, 2), "f4")}
    save_file(factors, tmp_path / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {pattern: 7}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    start = time.monotonic()
    assert open_adapter("adapter", tmp_path).rank_of("a" * 60 + "!") == 2
    assert time.monotonic() - start < SECONDS


def deflated(directory: Path, content: bytes, times: int, name: str = "data.pkl") -> Path:
    """Write a zip file with a member of many repetitions of a content."""
    path = directory / "pytorch_model.bin"
    (directory / "model.safetensors").unlink()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"archive/{name}", "w", force_zip64=True) as file:
            for _ in range(times):
                file.write(content)
        if name != "data.pkl":
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    return path


@pytest.mark.parametrize(
    ("content", "times", "name", "message"),
    [
        (b"N" * (1 << 20), 100, "data.pkl", "more than 67108864"),
        (b"N" * (1 << 20), 60, "data.pkl", "would become"),
        (bytes(1 << 20), 100, "data/0", "would become"),
    ],
)
def test_a_zip_file_that_expands(directory: Path, content: bytes, times: int, name: str, message: str) -> None:
    deflated(directory, content, times, name)
    with pytest.raises(CorruptCheckpointError, match=message):
        open_checkpoint(directory, OPTIONS)


def test_a_pickle_of_many_operations(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(b"\x80\x02" + b"N" * 10_000_000 + b".")
    with pytest.raises(CorruptCheckpointError, match="more than 5,000,000 operations"):
        open_checkpoint(directory, OPTIONS)


@pytest.mark.parametrize(
    "name", ["num_hidden_layers", "n_layer", "encoder_layers", "num_experts", "depths", "num_labels"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_numbers_of_modules_that_the_weights_cannot_fill(directory: Path, name: str, nested: bool) -> None:
    for value in (10**5, 10**4200):
        numbers = {name: [2, value] if name == "depths" else value}
        config = {"model_type": "bert", **({"text_config": numbers} if nested else numbers)}
        (directory / "config.json").write_text(json.dumps(config))
        with pytest.raises(CorruptCheckpointError, match=f"config.json: .*{name} is 10*") as caught:
            open_checkpoint(directory, OPTIONS)
        assert len(str(caught.value).replace(str(directory), "")) < 200


def test_a_header_is_parsed_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []
    parse = safetensors.parse_json_object

    def counted(raw: bytes, path: Path, **rest: object) -> object:
        parsed.append(path)
        return parse(raw, path, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(safetensors, "parse_json_object", counted)
    assert open_checkpoint(directory, OPTIONS).inventory().tensors.keys() == {"w"}
    assert len(parsed) == 1
    save_file({"w": np.ones((2, 3), np.float32), "v": np.ones(1, np.float32)}, directory / "model.safetensors")
    assert open_checkpoint(directory, OPTIONS).inventory().tensors.keys() == {"v", "w"}
    assert len(parsed) == 2


ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
HEADERS: dict[str, dict[str, object]] = {
    "shape": {"w": {**ENTRY, "shape": [10**4200, 10**4200]}},
    "axes": {"w": {**ENTRY, "shape": [2**62] * 1000}},
    "offsets": {"w": {**ENTRY, "data_offsets": [0, 10**4000]}},
    "name": {"x" * 10**6: 3},
    "tensor": {"w": ["x" * 10**6] * 10},
    "dtype": {"w": {**ENTRY, "dtype": "F" * 10**6}},
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_with_huge_values(directory: Path, header: str) -> None:
    raw = json.dumps(HEADERS[header]).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(24))
    with pytest.raises(CorruptCheckpointError, match=r"model\.safetensors") as caught:
        open_checkpoint(directory, OPTIONS)
    assert len(str(caught.value).replace(str(directory), "")) < 400


def test_nested_arrays_of_gguf(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    start = struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 9)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + start + struct.pack("<IQ", 9, 1) * 5000)
    with pytest.raises(CorruptCheckpointError, match="nested more than 8 deep"):
        open_checkpoint(tmp_path / "m.gguf", OPTIONS)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(x='aaaaaaaa') %}{% for _ in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (LOOP, "takes more than"),
        (DOUBLED, "takes more than"),
        ("{{ 'a' * 10000000000 }}", r"result of \*"),
        ("{{ [0] * 10000000000 }}", r"result of \*"),
        ("{{ 9 ** 9 ** 9 }}", r"result of \*\*"),
    ],
)
def test_a_chat_template_that_takes_long(template: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.runtime.template_limits.MAX_SECONDS", 0.5)
    start = time.monotonic()
    with pytest.raises(UnsupportedError, match=message), limited_rendering():
        ImmutableSandboxedEnvironment().from_string(template).render()
    assert time.monotonic() - start < SECONDS


def test_an_ordinary_chat_template() -> None:
    template = "{% for m in messages %}{{ '  ' * 2 ~ m['role'] ~ 2 ** 3 ~ 1.5 * 2 }}{% endfor %}"
    with limited_rendering():
        text = ImmutableSandboxedEnvironment().from_string(template).render(messages=[{"role": "user"}])
    assert text == "    user83.0"
    assert ImmutableSandboxedEnvironment().from_string("{{ 3 * 4 }}").render() == "12"


@pytest.mark.parametrize("make", [lambda: "x\n\x1b[31m" * 10**6, lambda: [[[[[1]]]]] * 10**6, lambda: 10**4200])
def test_values_are_shown_briefly(make: Callable[[], object]) -> None:
    text = brief(make())
    assert len(text) <= 80
    assert text.isprintable()
