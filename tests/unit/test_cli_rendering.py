"""Printed reports: complete, and readable without colour."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from onnxport.cli import main
from onnxport.cli._progress import progress_bar
from onnxport.cli._rendering import print_table, print_validation
from onnxport.reports.formats import bytes_text
from onnxport.validation.report import Case, OutputDifference, ValidationReport


def difference(name: str, max_abs: float | None, passed: bool = True) -> OutputDifference:
    problem = "" if passed else "differs by 1, allowed is 0"
    return OutputDifference(name, "float32", (1, 2), max_abs, max_abs, passed, problem)


def report(*cases: Case) -> ValidationReport:
    status = "passed" if all(case.passed for case in cases) else "failed"
    return ValidationReport(status, "full", 1e-5, 1e-4, cases)


def test_the_largest_difference_of_all_cases(capsys: pytest.CaptureFixture[str]) -> None:
    print_validation(
        report(
            Case("model", "traced", {"batch_size": 2}, (difference("logits", 1e-7),)),
            Case("model", "batch 1", {"batch_size": 1}, (difference("logits", 3e-6),)),
            Case("model", "odd", {"batch_size": 3}, (), note="the original refuses these sizes"),
        )
    )
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "validation: passed, 3 cases (traced, batch 1, odd), atol 1e-05, rtol 0.0001" in text
    row = next(line for line in text.splitlines() if "logits" in line)
    assert row.split() == ["model", "logits", "3.00e-06", "3.00e-06", "passed"]
    assert "not validated, odd: the original refuses these sizes" in text


def test_a_failure_in_the_middle_of_a_cache_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [difference(f"present.{i}.key", 1e-9 * i) for i in range(30)]
    outputs[15] = difference("present.15.key", None, passed=False)
    print_validation(report(Case("model", "traced", {"batch_size": 2}, tuple(outputs))))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", "present.15.key", "?", "?", "FAILED"] in rows
    assert ["…", "19", "more", "2.60e-08", "2.60e-08", "passed"] in rows
    assert not any("present.16.key" in row for row in rows)
    failed = next(" ".join(row) for row in rows if "failed:" in row)
    assert failed.startswith("failed: model, traced (batch_size=2), present.15.key:")


def test_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    print_validation(ValidationReport("skipped", "none", 0.0, 0.0, note="--validate none"))
    assert capsys.readouterr().out == "validation: skipped (--validate none)\n"


def test_the_note_of_a_partial_validation_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    case = Case("model", "traced", {"batch_size": 2}, (difference("logits", 1e-7),))
    print_validation(replace(report(case), status="partial", note="validated: 2 of 80 layers"))
    text = capsys.readouterr().out
    assert "validation: partial, 1 case (traced)" in text
    assert "note: validated: 2 of 80 layers" in text


def test_cells_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[title]", ("axes",), [("[batch_size, 3]",), ("[red]",)])
    text = capsys.readouterr().out
    assert all(part in text for part in ("[title]", "[batch_size, 3]", "[red]"))


@pytest.mark.parametrize(
    ("count", "text"), [(None, "?"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_900_000, "90.9 MB")]
)
def test_bytes(count: int | None, text: str) -> None:
    assert bytes_text(count) == text


def test_stages_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(quiet=False) as show:
        for share in (0.1, 0.2):
            show("write model.onnx", share)
        show("validate", None)
    with progress_bar(quiet=True) as show:
        show("nothing", None)
    captured = capsys.readouterr()
    assert captured.out == ""
    seconds = r"\[\d+\.\d s\]\n"
    assert re.fullmatch(f"onnxport: write model.onnx {seconds}onnxport: validate {seconds}", captured.err)


def test_a_long_stage_is_printed_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxport.cli._progress._FIRST_REMINDER", 0.05)
    with progress_bar(quiet=False) as show:
        show("trace model", None)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"onnxport: trace model \[\d+\.\d s\]", line) for line in lines)
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_list_shows_the_results_of_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    records = json.loads(Path("docs/coverage.json").read_text(encoding="utf-8"))["records"]
    assert set(known) == {record["model_type"] for record in records}
    for record in records:
        entry, task = known[record["model_type"]], record["task"]
        assert (task in entry["tasks"], task in entry["failed"]) == (
            record["status"] == "passed",
            record["status"] != "passed",
        )


def test_list_shows_one_model_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--model-type", "big-bird"]) == 0
    text = capsys.readouterr().out
    assert "big_bird" in text
    assert "masked-lm" in text
    assert "xlm" not in text


def test_list_shows_the_model_types_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--task", "masked-lm", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert "bert" in known
    assert "vit" not in known
    assert main(["list", "--task", "fill-the-mask"]) == 1
    assert "fill-mask" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "near"), [("brt", "bert"), ("resnt", "resnet"), ("", "isn't listed")])
def test_list_suggests_the_closest_name(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--model-type", name]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert near in captured.err
    assert captured.err.count("\n") == 1


def test_inspect_prints_axes_and_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch_size", 3])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch_size", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert main(["inspect", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "a.onnx: opset 20, 1 nodes, 0 parameters" in text
    assert "[batch_size, 3]" in text
    assert "operators: Relu 1" in text
    assert main(["inspect", str(tmp_path / "a.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["graphs"][0]["operators"] == {"Relu": 1}
