"""A random cache may enlarge rounding errors: values that differ little with it must agree with the original's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2LMHeadModel

import onnxport
from onnxport._transformers_api import cache_name
from onnxport.architectures.describe import describe
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tasks import canonical_task
from onnxport.description.tolerances import Tolerance
from onnxport.loading.load import load_preprocessor
from onnxport.options import ExportOptions
from onnxport.validation.prove import ProofRequest, prove
from onnxport.validation.report import ValidationReport

DEFAULT, SET_BY_USER = Tolerance(1e-5, 5e-4, own_rounding=2.0), Tolerance(1e-5, 5e-4)


@pytest.fixture(scope="module")
def graph(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a tiny GPT-2."""
    output = tmp_path_factory.mktemp("output") / "out"
    onnxport.export(gpt2, output, ExportOptions(validate="none"))
    return output / "model.onnx"


def is_random(cache: Any) -> bool:
    """Return whether a cache has keys as large as the model's own never are: 2.2 at most."""
    return cache is not None and cache.get_seq_length() > 0 and float(cache.layers[0].keys.abs().max()) > 2.5


def proof(
    gpt2: Path, graph: Path, factor: float, tolerance: Tolerance = DEFAULT, where: Callable[[Any], bool] = is_random
) -> ValidationReport:
    """Compare the graph with a GPT-2 whose logits are multiplied with a factor, if its cache is of some kind."""

    model = GPT2LMHeadModel.from_pretrained(gpt2).eval()
    preprocessor = load_preprocessor(open_checkpoint(gpt2, ExportOptions()), ExportOptions())
    (component,) = describe(model, canonical_task("text-generation-with-past"), preprocessor)
    examples = Examples(component.config, signature_of(component.config).today(), preprocessor)
    applies = []
    model.register_forward_pre_hook(
        lambda _, args, given: applies.append(where(given.get(cache_name()))), with_kwargs=True
    )

    def multiply(module: Any, args: Any, outputs: Any) -> None:
        outputs["logits"] = outputs["logits"] * (factor if applies.pop() else 1.0)

    model.register_forward_hook(multiply)
    sizes = {"batch_size": 2, "sequence_length": 8, "past_sequence_length": 10}
    return prove(ProofRequest("model", graph, model, examples, sizes), "full", tolerance)


def names(report: ValidationReport) -> set[str]:
    return {case.name for case in report.cases if case.name.endswith(", own cache")}


def test_a_small_difference_with_a_random_cache_alone_passes_and_is_reported(gpt2: Path, graph: Path) -> None:
    report = proof(gpt2, graph, 1.002)
    assert report.status == "passed"
    assert {"traced, own cache", "batch 1, own cache", "padding, own cache"} <= names(report)


def test_a_graph_that_agrees_is_compared_with_a_random_cache_alone(gpt2: Path, graph: Path) -> None:
    report = proof(gpt2, graph, 1.0)
    assert report.status == "passed"
    assert not names(report)


def test_a_large_difference_with_a_random_cache_fails(gpt2: Path, graph: Path) -> None:
    assert proof(gpt2, graph, 1.02).status == "failed"


def test_a_small_difference_with_the_own_cache_fails(gpt2: Path, graph: Path) -> None:
    def is_cached(cache: Any) -> bool:
        return cache is not None and cache.get_seq_length() > 0

    report = proof(gpt2, graph, 1.002, where=is_cached)
    assert report.status == "failed"
    assert {case.name for case in report.cases if not case.passed} == names(report)


def test_a_tolerance_that_is_set_holds_for_a_random_cache(gpt2: Path, graph: Path) -> None:
    report = proof(gpt2, graph, 1.002, SET_BY_USER)
    assert report.status == "failed"
    assert not names(report)
