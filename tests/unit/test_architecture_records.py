"""Records of architectures: another package can add them, and its version is part of a blueprint's key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxport.architectures import _table
from onnxport.architectures._table import added_versions, architecture_of
from onnxport.errors import UnsupportedError

METADATA = "Metadata-Version: 2.1\nName: onnxport-mine\nVersion: 1.2\n"
MODULE = """
from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig

class MineOnnxConfig(DerivedOnnxConfig):
    attn_implementation = "eager"

RECORDS = (
    Architecture(("mine",), model=always(MineOnnxConfig)),
    Architecture(("rwkv",), packages=("mine",)),
)
NOT_RECORDS = ["mine"]
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a package with an entry point on the path; clear cached lookups afterwards."""
    info = tmp_path / "onnxport_mine-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (tmp_path / "onnxport_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield info / "entry_points.txt"
    _forget()


def _forget() -> None:
    architecture_of.cache_clear()
    _table._added.cache_clear()


def test_another_package_adds_records(install: Path) -> None:
    install.write_text("[onnxport.architectures]\nmine = onnxport_mine:RECORDS\n")
    record = architecture_of("mine")
    assert record is not None and record.model is not None
    assert added_versions() == {"onnxport-mine": "1.2"}


def test_an_added_record_takes_precedence_over_the_table(install: Path) -> None:
    install.write_text("[onnxport.architectures]\nmine = onnxport_mine:RECORDS\n")
    record = architecture_of("rwkv")
    assert record is not None and record.packages == ("mine",)


def test_an_entry_point_without_records_is_an_error(install: Path) -> None:
    install.write_text("[onnxport.architectures]\nmine = onnxport_mine:NOT_RECORDS\n")
    with pytest.raises(UnsupportedError, match=r"onnxport_mine:NOT_RECORDS .* is a list"):
        architecture_of("mine")


def test_a_model_type_without_a_record_has_none() -> None:
    assert architecture_of("llama") is None
    assert added_versions() == {}
