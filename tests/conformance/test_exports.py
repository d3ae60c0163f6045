"""Export a fixed sample of the pairs with the façade and the command; `make conformance` runs all 265."""

from pathlib import Path

import pytest

from conformance.exports import run_pair
from conformance.pairs import SAMPLE, pairs, parse
from conformance.runner import messages, read, run
from tests.breadth import sampled


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


EVERY_TIME = ("bert:multiple-choice", "beit:image-classification")
"""A model of texts and one of images."""


@pytest.mark.parametrize("pair", sampled([":".join(pair) for pair in SAMPLE], EVERY_TIME))
def test_pair_exports_and_validates(pair: str, directory: Path) -> None:
    record = run_pair(*pair.split(":"), directory)
    assert record["status"] == "passed", "\n".join(
        [*messages(record), *(record[export].get("trace", "") for export in ("facade", "public"))]
    )


def test_the_table_has_every_pair() -> None:
    assert len(pairs()) == len(set(pairs())) == 265
    assert set(SAMPLE) <= set(pairs())


def test_a_hanging_pair_is_killed_and_results_are_resumed(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    chosen = parse("bert:masked-lm")
    records = run(chosen, directory=tmp_path, results=results, jobs=1, seconds=0.01)
    assert [record["status"] for record in records] == ["timeout"]
    with results.open("a") as file:
        file.write('{"model_type": "cut sho')
    assert list(read(results)) == chosen
    assert run(chosen, directory=tmp_path, results=results, jobs=1) == records


def test_an_unknown_pair_is_an_error() -> None:
    with pytest.raises(ValueError, match="bert:maskedlm"):
        parse("bert:maskedlm")
