"""The command line: every option sets its field of `ExportOptions`, misuse exits with 2, `--help` is fast."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

import onnxport
from onnxport import ExportOptions
from onnxport.cli import VERBS, _parser, main
from onnxport.cli._options import bytes_from, options_from
from onnxport.options import QuantizeOptions

CHOSEN: dict[str, tuple[list[str], Any]] = {
    "task": (["--task", "fill-mask"], "fill-mask"),
    "past": (["--no-past"], False),
    "last_logits": (["--last-logits"], True),
    "split_encoders": (["--split-encoders"], True),
    "route": (["--route", "query"], "query"),
    "description": (["--description", "mine.py"], "mine.py"),
    "inputs_embeds": (["--inputs-embeds"], True),
    "image_processing": (["--image-processing"], True),
    "outputs": (["--outputs", "hidden_states, attentions"], ("hidden_states", "attentions")),
    "fix": (["--fix", "batch_size=1,past_sequence_length=0"], {"batch_size": 1, "past_sequence_length": 0}),
    "token_dtype": (["--token-dtype", "int32"], "int32"),
    "io_dtype": (["--io-dtype", "fp32"], "fp32"),
    "opset": (["--opset", "21"], 21),
    "optimize": (["--optimize", "cpu"], "cpu"),
    "atol": (["--atol", "1e-4"], 1e-4),
    "rtol": (["--rtol", "0.5"], 0.5),
    "dtype": (["--dtype", "bf16"], "bf16"),
    "device": (["--device", "cuda:1"], "cuda:1"),
    "framework": (["--framework", "tf"], "tf"),
    "adapter": (["--adapter", "lora"], "lora"),
    "adapter_inputs": (["--adapter-inputs"], True),
    "revision": (["--revision", "v1"], "v1"),
    "cache_dir": (["--cache-dir", "/c"], "/c"),
    "quantize_options": (
        ["--quantize-options", "block_size=64,symmetric=false,lm_head=8,weight_only"],
        QuantizeOptions(block_size=64, symmetric=False, lm_head=8, weight_only=True),
    ),
    "calibration": (["--calibration", "text.txt"], "text.txt"),
    "token": (["--token", "secret"], "secret"),
    "trust_remote_code": (["--trust-remote-code"], True),
    "validate": (["--validate", "quick"], "quick"),
    "memory": (["--memory", "8GiB"], 8 << 30),
    "layout": (["--layout", "genai"], "genai"),
    "external_data": (["--external-data", "always"], "always"),
    "weights": (["--weights", "link"], "link"),
    "cache": (["--no-cache"], False),
    "stamping": (["--no-stamping"], False),
    "dry_run": (["--dry-run"], True),
    "force": (["--force"], True),
    "keep_invalid": (["--keep-invalid"], True),
}


@pytest.mark.parametrize("arguments", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_needs_no_docstrings(arguments: list[str]) -> None:
    command = [sys.executable, "-OO", "-m", "onnxport", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: onnxport")


def test_every_option_has_a_help_text() -> None:
    assert all(field.metadata["help"] for field in fields(ExportOptions))


def test_the_table_is_complete() -> None:
    assert set(CHOSEN) == {field.name for field in fields(ExportOptions)}


@pytest.mark.parametrize("name", CHOSEN)
def test_each_option_reaches_its_field(name: str) -> None:
    words, value = CHOSEN[name]
    options = options_from(_parser().parse_args(["export", "m", "out", *words]))
    assert options == ExportOptions(**{name: value})


def test_no_options_are_the_defaults() -> None:
    assert options_from(_parser().parse_args(["export", "m", "out"])) == ExportOptions()


def test_help_uses_the_names_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for words, _ in CHOSEN.values():
        assert f"{words[0]} " in text
    assert "None" not in text
    assert "_OPSET" not in text
    assert "(default: cpu)" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["export", "m"],
        ["export", "m", "out", "--dtype", "int3"],
        ["export", "m", "out", "--opset", "many"],
        ["export", "m", "out", "--opset", "99"],
        ["export", "m", "out", "--atol=-1"],
        ["export", "m", "out", "--rtol", "nan"],
        ["export", "m", "out", "--atol", "inf"],
        ["export", "m", "out", "--no-such-option"],
        ["validate", "d", "--validate", "none"],
        ["export", "m", "out", "--outputs", "hidden_states,"],
        ["export", "m", "out", "--outputs", "attentions", "--split-encoders"],
        ["export", "m", "out", "--fix", "batch_size"],
        ["export", "m", "out", "--fix", "batch_size=1,batch_size=2"],
        ["export", "m", "out", "--fix", "batch_size=0"],
        ["export", "m", "out", "--fix", "batch_size=-1"],
        ["export", "m", "out", "--memory", "0"],
        ["export", "m", "out", "--memory", "8G"],
        ["validate", "d", "--memory", "plenty"],
        ["cache"],
        ["cache", "empty"],
        ["cache", "clear", "--older-than", "-1"],
        ["cache", "clear", "--older-than", "soon"],
        ["cache", "clear", "--older-than", "nan"],
        ["cache", "list", "--older-than", "3"],
        ["run", "d", "--input-ids", "a,b"],
        ["run", "d", "--max-new-tokens", "0"],
        ["run", "d", "--text", "x", "--input-ids", "1"],
        ["run", "d", "--text", "x", "--text-pair", "y", "--text-pair", "z"],
    ],
)
def test_misuse_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err
    assert "Traceback" not in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"onnxport {onnxport.__version__}"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("500000", 500_000),
        ("1B", 1),
        ("64kB", 64_000),
        ("64KiB", 65_536),
        (" 1.5 gb ", 1_500_000_000),
        ("0.1GB", 100_000_000),
        ("1.5GiB", 3 << 29),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert bytes_from(text) == count


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1,5GB", "8G", "8 gigabytes", "0x10", "1e9", "nan", "٣GB", "1" * 5000]
)
def test_an_invalid_size_is_an_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "m", "out", f"--memory={text}"]) == 2
    assert "such as 8GiB" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--debug", "list"], ["list", "--debug"]])
def test_debug_goes_before_or_after_the_verb(arguments: list[str]) -> None:
    assert _parser().parse_args(arguments).debug
    assert not _parser().parse_args(["list"]).debug


@pytest.mark.parametrize("verb", [[], ["export"], ["validate"], ["inspect"], ["list"], ["run"], ["cache"]])
def test_help_does_not_import_torch(verb: list[str]) -> None:
    heavy = ("torch", "transformers", "onnxruntime", "onnx", "onnx_ir", "numpy", "rich", "huggingface_hub")
    code = (
        "import sys\nfrom onnxport.cli import main\n"
        f"assert main({[*verb, '--help']!r}) == 0\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: onnxport")


def test_export_makes_one_call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[tuple[Any, ...]] = []

    def fake(model: str, output: str, options: ExportOptions, *, progress: Any) -> Any:
        calls.append((model, output, options))
        progress("trace model", None)
        progress("write model", 0.5)
        manifest = SimpleNamespace(to_json=lambda: '{"task": "fill-mask"}\n', validation={"status": status})
        return SimpleNamespace(manifest=manifest, directory="out")

    monkeypatch.setattr("onnxport._export.export", fake)
    status = "passed"
    assert main(["export", "m", "out", "--json", "--task", "fill-mask"]) == 0
    assert calls == [("m", "out", ExportOptions(task="fill-mask"))]
    captured = capsys.readouterr()
    assert captured.out == '{"task": "fill-mask"}\n'
    assert re.fullmatch(r"onnxport: trace model \[\d+\.\d s\]\nonnxport: write model \[\d+\.\d s\]\n", captured.err)
    assert main(["export", "m", "out", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    status = "failed"
    assert main(["export", "m", "out", "--quiet", "--keep-invalid"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("onnxport: error: the graph differs from the original")
