"""A model is reduced by the fields with its number of layers, and branches on a layer index are detected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from onnxport.tracing.fake import build_fake, is_fake
from onnxport.tracing.layer_indices import LayerIndexError, watched_layer_indices
from onnxport.tracing.layers import find_stacks
from onnxport.tracing.reduction import TracedStack, reduce


class Config(PreTrainedConfig):
    num_hidden_layers: int = 5
    max_depth: int = 5
    widths: Any = None
    chosen_indexes: Any = ()
    special: Any = ()


class Layer(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer_idx = number
        self.product = nn.Linear(4, 4)


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.tags = nn.Linear(config.max_depth, 4)
        self.layers = nn.ModuleList(Layer(number) for number in range(config.num_hidden_layers))

    def decide(self, rule: Any) -> None:
        for number, layer in enumerate(self.layers):
            rule(self.config, number, layer)


def test_only_the_number_of_layers_is_changed() -> None:
    config = Config(widths=[1, 2, 3, 4, 5])
    found = reduce(Model(config), Model)  # type: ignore[arg-type]
    assert found.stacks == (TracedStack("layers", (0, 0), (0,) * 5),)
    assert found.model.config.max_depth == 5
    assert found.model.config.widths == [1, 2]
    assert not found.notes


def test_a_list_of_layer_indices_is_unchanged() -> None:
    config = Config(chosen_indexes=[1, 2, 3, 4, 0])
    found = reduce(Model(config), Model)  # type: ignore[arg-type]
    assert found.model.config.num_hidden_layers == 2
    assert found.model.config.chosen_indexes == [1, 2, 3, 4, 0]


def test_layers_are_grouped_by_layer_types() -> None:
    kinds = ["window", "window", "full", "window", "full"]
    (stack,) = reduce(Model(Config(num_hidden_layers=5, special=kinds)), Model).stacks  # type: ignore[arg-type]
    assert stack == TracedStack("layers", (0, 0, 1, 1), (0, 0, 1, 0, 1))


def test_a_stack_that_must_be_complete_is_unchanged() -> None:
    assert not reduce(Model(Config()), Model, frozenset({"layers"})).stacks  # type: ignore[arg-type]


def test_layers_that_change_the_sequence_length_are_no_stack() -> None:
    layers = [nn.Sequential(nn.Conv1d(4, 4, 3, stride=stride)) for stride in (2, 2, 2)]
    assert not find_stacks(nn.ModuleDict({"layers": nn.ModuleList(layers)}))


def test_a_traced_layer_represents_its_copies() -> None:
    stack = TracedStack("layers", (0, 0, 1, 1), (0, 1, 0, 0, 1, 1))
    assert [stack.represented_layers(position) for position in range(4)] == [(0,), (2, 3), (1,), (1, 4, 5)]
    assert TracedStack("layers", (0, 1, 1), (0, 1, 1, 1)).represented_layers(0) == (0,)


def _first(config: Any, number: int, layer: Any) -> None:
    assert (number == 0) is (layer.layer_idx < 1)


def _passed_on(config: Any, number: int, layer: Any) -> None:
    assert {0: "a", 1: "b"}[layer.layer_idx] and torch.zeros(5)[number] == 0


@pytest.mark.parametrize("rule", [_first, _passed_on])
def test_a_branch_that_is_the_same_for_all_layers_is_allowed(rule: Any) -> None:
    model = Model(Config(num_hidden_layers=2))
    with watched_layer_indices(model, (TracedStack("layers", (0, 0), (0,) * 5),)) as seen:
        model.decide(rule)
    assert not seen.locations
    assert type(model.layers[1].layer_idx) is int


def _special(config: Any, number: int, layer: Any) -> bool:
    return number in config.special


def _every_third(config: Any, number: int, layer: Any) -> bool:
    return (layer.layer_idx + 1) % 3 == 0


def _last(config: Any, number: int, layer: Any) -> bool:
    return number == config.num_hidden_layers - 1


def _all_widths(config: Any, number: int, layer: Any) -> int:
    return sum(width for width in config.widths)


@pytest.mark.parametrize("rule", [_special, _every_third, _last, _all_widths])
def test_a_branch_on_the_layer_index_stops_the_trace(rule: Any) -> None:
    model = Model(Config(num_hidden_layers=2, special=[3], widths=[1, 2]))
    stacks = (TracedStack("layers", (0, 0), (0,) * 5),)
    with watched_layer_indices(model, stacks) as seen, pytest.raises(Exception, match=rule.__name__):
        model.decide(rule)
    assert seen.stacks == {"layers"}
    assert model.config.widths == [1, 2]


@pytest.mark.parametrize(
    ("bounds", "is_whole"),
    [
        ((None,), True),
        ((0, 2), True),
        ((0, 5), True),
        ((0, 1), False),
        ((1, None), False),
        ((-1, None), False),
        ((3,), False),
    ],
)
def test_a_slice_of_some_layers_stops_the_trace(bounds: tuple[int | None, ...], is_whole: bool) -> None:
    model = Model(Config(num_hidden_layers=2))
    with watched_layer_indices(model, (TracedStack("layers", (0, 0), (0,) * 5),)) as seen:
        try:
            assert len(model.layers[slice(*bounds)]) == 2
        except LayerIndexError:
            assert not is_whole
    assert bool(seen.locations) is not is_whole
    assert len(model.layers[:1]) == 1


class Converting(PreTrainedModel):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.product = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to(torch.float32)
        self.post_init()


def test_a_constructor_that_converts_a_module_makes_fake_parameters() -> None:
    model = build_fake(Converting, Config(), torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(map(is_fake, model.parameters()))
    assert {name for name, _ in model.named_parameters()} == {
        f"product.{index}.{name}" for index in range(2) for name in ("weight", "bias")
    }


class WithHead(Model):
    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.head = nn.Linear(4 * config.num_hidden_layers, 1)


def test_a_head_with_weights_for_every_layer_shrinks_with_them() -> None:
    found = reduce(WithHead(Config(max_depth=6)), WithHead)  # type: ignore[arg-type]
    assert found.stacks == (TracedStack("layers", (0, 0), (0,) * 5),)
    assert found.model.head.in_features == 8
