"""An export describes a model once, whatever is traced and validated afterwards; failures have named errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from transformers import BartConfig, BartModel, GPT2Config, GPT2LMHeadModel, SamHQVisionConfig, SamHQVisionModel

import onnxport
from conformance.checkpoints import make_checkpoint
from conformance.stamped import ARCHITECTURES, save
from onnxport._needs import MoreLayersNeededError
from onnxport.blueprints import describing, draft, tracing
from onnxport.blueprints.describing import Described, describe_model
from onnxport.blueprints.draft import make_draft
from onnxport.blueprints.find import BlueprintSource
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.description.depth import NotExtendableError
from onnxport.description.description import Description, GraphDescription
from onnxport.errors import UnsupportedError
from onnxport.options import ExportOptions
from onnxport.tracing.fake import is_fake
from onnxport.tracing.scope import without_values


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the classes of the described models, in order."""
    found: list[str] = []
    original = describing.describe

    def counting(model: Any, *arguments: Any, **named: Any) -> Any:
        found.append(type(model).__name__)
        return original(model, *arguments, **named)

    monkeypatch.setattr(describing, "describe", counting)
    return found


@pytest.fixture
def six_layers(tmp_path: Path) -> Path:
    """A GPT-2 with six layers, of which two are traced."""
    source = make_checkpoint("gpt2", "causal-lm-with-past", tmp_path)
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config.from_pretrained(source, n_layer=6)).save_pretrained(source)
    return source


def test_a_model_is_described_once(
    six_layers: Path, tmp_path: Path, described: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONNXPORT_CACHE", str(tmp_path / "cache"))
    cold = onnxport.export(six_layers, tmp_path / "cold")
    assert cold.manifest.validation["status"] == "passed"
    assert "2 layers traced" in cold.manifest.components[0].notes[0]
    assert described == ["GPT2LMHeadModel"]
    onnxport.export(six_layers, tmp_path / "warm", ExportOptions(validate="none"))
    found = BlueprintSource(open_checkpoint(six_layers, ExportOptions()), ExportOptions(), lambda *_: None).blueprint()
    (graph,) = found.description.graphs
    assert graph.cache is not None and graph.cache.depth == 6
    assert graph.inputs[-1].name == "past_key_values.5.value"
    assert graph.runnable is None
    assert len(described) == 1
    warm = onnxport.export(six_layers, tmp_path / "validated")
    assert warm.manifest.components == cold.manifest.components
    assert warm.manifest.validation == cold.manifest.validation
    assert len(described) == 2
    assert onnxport.validate(tmp_path / "warm").status == "passed"
    assert len(described) == 3


@pytest.mark.wide
def test_a_model_is_described_once_if_more_layers_are_traced(
    six_layers: Path, tmp_path: Path, described: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[int] = []
    original = tracing.trace_graph

    def fail_with_few_layers(graph: GraphDescription, reduction: Any, options: ExportOptions) -> Any:
        traced.append(len(reduction.model.transformer.h))
        if reduction.stacks:
            raise MoreLayersNeededError("code decides by a layer's index", frozenset({"transformer.h"}))
        return original(graph, reduction, options)

    monkeypatch.setattr(tracing, "trace_graph", fail_with_few_layers)
    result = onnxport.export(six_layers, tmp_path / "out", ExportOptions(cache=False))
    assert (traced, described) == ([2, 6], ["GPT2LMHeadModel"])
    assert result.manifest.validation["status"] == "passed"
    assert "code decides by a layer's index" in result.manifest.components[0].notes[0]


def test_all_layers_are_traced_if_stacks_of_different_lengths_do_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 99}
    layers = {"encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    model = BartModel(BartConfig(**sizes, **layers, max_position_embeddings=64))
    model.save_pretrained(tmp_path / "model")
    traced: list[tuple[int, int]] = []
    trace_graph, describe_model = tracing.trace_graph, describing.describe_model

    def need_decoder_layers(graph: GraphDescription, reduction: Any, options: ExportOptions) -> Any:
        traced.append((len(reduction.model.encoder.layers), len(reduction.model.decoder.layers)))
        if reduction.stacks:
            raise MoreLayersNeededError("code decides by a layer's index", frozenset({"decoder.layers"}))
        return trace_graph(graph, reduction, options)

    def refuse_different_lengths(model: Any, *arguments: Any, **named: Any) -> Any:
        if len(model.encoder.layers) != len(model.decoder.layers):
            raise UnsupportedError("list index out of range")
        return describe_model(model, *arguments, **named)

    def at_depth(*_: Any) -> Any:
        raise NotExtendableError("the layers share a cache")

    monkeypatch.setattr(tracing, "trace_graph", need_decoder_layers)
    monkeypatch.setattr(describing, "describe_model", refuse_different_lengths)
    monkeypatch.setattr(Description, "at_depth", at_depth)
    result = onnxport.export(tmp_path / "model", tmp_path / "out", ExportOptions(cache=False, validate="quick"))
    assert traced == [(2, 2), (4, 4)]
    assert result.manifest.validation["status"] == "passed"


@pytest.mark.parametrize("place", [draft, describing])
def test_a_model_that_needs_values_is_loaded_and_described_with_them(
    six_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    name = "build_fake" if place is draft else "describe_model"
    original = getattr(place, name)

    def refuse(model: Any, *arguments: Any, **named: Any) -> Any:
        if place is draft or is_fake(next(model.parameters())):
            raise DataDependentOutputException(torch.ops.aten.item.default)
        return original(model, *arguments, **named)

    monkeypatch.setattr(place, name, refuse)
    result = onnxport.export(six_layers, tmp_path / "out", ExportOptions(cache=False, validate="quick"))
    assert result.manifest.validation["status"] == "passed"
    (note,) = result.manifest.components[0].notes
    assert "with its weights in memory" in note and "aten.item" in note


@pytest.mark.parametrize(("place", "name"), [(draft, "build_fake"), (describing, "describe"), (tracing, "layers_of")])
def test_a_bug_is_not_hidden_by_a_slower_export(
    six_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: Any, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("a bug")

    monkeypatch.setattr(place, name, fail)
    monkeypatch.setattr("onnxport._needs._PACKAGE", str(Path(__file__).parent))
    with pytest.raises(AttributeError, match="a bug"):
        onnxport.export(six_layers, tmp_path / "out", ExportOptions(cache=False, validate="none"))
    assert not (tmp_path / "out").exists()


@pytest.mark.wide
def test_outputs_of_each_layer_are_those_of_all_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SamHQVisionConfig(
        hidden_size=8, output_channels=4, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=16,
        window_size=2, global_attn_indexes=[0, 1, 2, 3], mlp_dim=8,
    )  # fmt: skip
    SamHQVisionModel(config).save_pretrained(tmp_path / "model")
    manifest = onnxport.export(tmp_path / "model", tmp_path / "out").manifest
    (graph,) = manifest.components
    assert manifest.validation["status"] == "passed"
    assert [output.name for output in graph.outputs][1:] == [f"intermediate_embeddings.{n}" for n in range(4)]


def facts(graph: GraphDescription) -> tuple[Any, ...]:
    config = graph.code.config
    return (graph.inputs, graph.cache, dict(config.inputs), dict(config.outputs), config._config.to_dict())


EXTENDED = [name for name, (_, task, _) in ARCHITECTURES.items() if task.endswith("-with-past")]


@pytest.mark.parametrize("name", EXTENDED)
def test_an_extended_description_equals_that_of_the_full_model(name: str, tmp_path: Path) -> None:
    options = ExportOptions(task=ARCHITECTURES[name][1])
    few = make_draft(open_checkpoint(save(name, tmp_path), options), options, lambda *_: None)
    assert few.reduction.stacks
    whole = few.at_full_depth("compared")
    with without_values(few.reduction.model):
        shallow = Described(few, describe_model(few.reduction.model, few.subject, options.graph))
    with without_values(whole.reduction.model):
        full = describe_model(whole.reduction.model, few.subject, options.graph)
    extended = shallow.extended(whole, options.graph).description
    assert [facts(graph) for graph in extended.graphs] == [facts(graph) for graph in full.graphs]
    for graph in extended.graphs:
        assert GraphDescription.from_json(json.loads(json.dumps(graph.to_json()))) == graph
