"""The page of an export: it shows the manifest's facts, and nothing in a manifest can add to the page's code."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest, TensorDescription
from onnxport.cli import main
from onnxport.errors import CorruptCheckpointError, OptionError
from onnxport.reports.differences import TOLERANCE, difference_tables
from onnxport.reports.page import write_report
from onnxport.runtime.bench import Measurements
from onnxport.validation.report import Case, Loss, OutputDifference, ValidationReport
from tests.unit.test_inspection import save_graph


def difference(name: str, found: float, allowed: float | None = 1e-4) -> OutputDifference:
    passed = allowed is None or found <= allowed
    return OutputDifference(name, "float32", (2, 8), found, found, passed, "" if passed else "differs", allowed)


def export(directory: Path, *cases: Case, **changes: object) -> Path:
    """Write a directory with a graph in two precisions and its manifest."""
    directory.mkdir()
    tensors = (TensorDescription("input_ids", "int64", ("batch_size", "sequence_length")),)
    components = []
    for file, dtype, size in (("model.onnx", "fp32", 4000), ("model_q4.onnx", "q4", 1000)):
        save_graph(directory / file)
        components.append(ComponentDescription("model", file, (), 21, 20, size, tensors, (), dtype=dtype))
    losses = (Loss("q4", "text", {"perplexity": 16.93}),)
    validation = ValidationReport("passed", "full", 1e-5, 1e-4, cases, losses=losses)
    manifest = Manifest(
        "fill-mask",
        {"model": "acme/model", "model_type": "bert", "architecture": "BertForMaskedLM"},
        {"optimize": "none"},
        {"onnxport": "0.1.0"},
        tuple(components),
        validation.to_dict(),
        left_out={"labels": "for training"},
    )
    (directory / FILE_NAME).write_text(replace(manifest, **changes).to_json())  # type: ignore[arg-type]
    return directory


class Page(HTMLParser):
    """Collect a page's elements and text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_what_the_manifest_says(tmp_path: Path) -> None:
    case = Case("model", "odd lengths", {"batch_size": 3}, (difference("logits", 2e-5),))
    refused = Case("model", "long", {"sequence_length": 999}, (), "the original refuses these sizes")
    write_report(export(tmp_path / "out", case, refused), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    shown = ("acme/model", "BertForMaskedLM", "validated", "odd lengths", "the original refuses these sizes")
    facts = ("perplexity 16.93", "4.0 kB", "[batch_size, sequence_length]", "com.microsoft::FastGelu", "for training")
    assert [text for text in (*shown, *facts) if text not in page.text] == []
    assert page.links == []
    assert "script" not in page.tags


def test_text_of_a_manifest_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    case = Case("model", evil, {evil: 3}, (difference(evil, 1.0),), "")
    changes = {"source": {"model": evil, "architecture": evil}, "left_out": {evil: evil}, "versions": {evil: evil}}
    write_report(export(tmp_path / "out", case, **changes), tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.text.count(evil) > 5


def test_differences_are_placed_relative_to_the_tolerance() -> None:
    outputs = (difference("logits", 1e-4), difference("present.0.key", 1e-5), difference("present.1.key", 1e-3))
    equal = Case("model", "equal", {}, (difference("logits", 0.0), difference("scores", 1.0, None)))
    (table,) = difference_tables(ValidationReport("failed", "full", 0, 0, (Case("model", "a", {}, outputs), equal)))
    rows = {row.name: row for row in table.rows}
    assert {name: row.count for name, row in rows.items()} == {"logits": 1, "present.*.key": 2}
    assert [point.place for point in rows["logits"].points] == [pytest.approx(TOLERANCE), 0]
    (largest,) = rows["present.*.key"].points
    assert (largest.place, largest.passed) == (100, False)
    assert "present.1.key" in largest.title


def test_the_command_shows_speeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, measured = export(tmp_path / "out"), tmp_path / "bench.json"
    fast = Measurements(0.5, 128, 512.0, 30.6, {"p50": 32.7}, 0.9, 300_000_000)
    measured.write_text(json.dumps({"fp32": asdict(replace(fast, decode_tokens_per_second=14.9)), "q4": asdict(fast)}))
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(directory), "--bench", str(measured)]) == 0
    text = Page(tmp_path / "report.html").text
    assert "generation: 14.9 tokens/s" in text
    assert "generation: 30.6 tokens/s" in text


def test_measurements_of_another_directory_are_refused(tmp_path: Path) -> None:
    directory, measured = export(tmp_path / "out"), tmp_path / "bench.json"
    measured.write_text(json.dumps({"q8": asdict(Measurements(0.5, 0, None, None, {"p50": 1.0}, None, 1))}))
    with pytest.raises(OptionError, match=r"measurements of q8, and the directory has fp32, q4: run onnxport bench"):
        write_report(directory, tmp_path / "page.html", measured)
    measured.write_text('{"q4": 3}')
    with pytest.raises(CorruptCheckpointError, match=r"pass what onnxport bench --json printed"):
        write_report(directory, tmp_path / "page.html", measured)
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_validation_is_an_error(tmp_path: Path) -> None:
    directory = export(tmp_path / "out", validation={"status": "passed", "cases": 3})
    with pytest.raises(CorruptCheckpointError, match=r"onnxport\.json is damaged"):
        write_report(directory, tmp_path / "page.html")


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"can't be written: .*name another file"):
        write_report(export(tmp_path / "out"), tmp_path / "absent" / "page.html")
