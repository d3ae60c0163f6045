"""Layers tell the shape of an input for which there is neither a preprocessor nor documentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional

from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.layer_probing import probed_dummies

IMAGE = (3, 32, 48)


def found(layers: Callable[[torch.Tensor], object], given: torch.Tensor | None = None) -> DummyInput | None:
    def run(inputs: Mapping[str, torch.Tensor]) -> object:
        return layers(inputs["x"])

    return probed_dummies(run, {} if given is None else {"x": given}, ["x"], IMAGE).get("x")


def shape(dummy: DummyInput | None) -> tuple[int, ...]:
    assert dummy is not None
    return tuple(dummy.make(InputContext(None, 4, {})).shape)  # type: ignore[arg-type]  # the shape is known


def test_hidden_states_have_the_size_of_a_linear_layer() -> None:
    dummy = found(nn.Linear(24, 5))
    assert shape(dummy)[-1] == 24
    assert dummy is not None
    assert dummy.axes == {0: "batch", 1: "sequence"}


def test_an_axis_is_found_after_a_transposition() -> None:
    dummy = found(lambda x: nn.Linear(24, 5)(x.transpose(1, 2)))
    assert shape(dummy)[1] == 24
    assert dummy is not None
    assert dummy.axes == {0: "batch", 2: "sequence"}


def test_images_have_the_size_and_channels_of_the_configuration() -> None:
    assert shape(found(lambda x: nn.Conv2d(3, 4, 8)(x).reshape(len(x), 4, 25, 41))) == (4, *IMAGE)


def test_feature_maps_have_the_channels_of_a_convolution() -> None:
    def backbone(x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 4
        return nn.Conv2d(12, 4, 3, groups=2)(x)

    dummy = found(backbone)
    assert shape(dummy)[1] == 12
    assert dummy is not None
    assert dummy.axes == {0: "batch", 2: "height", 3: "width"}


def test_feature_maps_are_not_square_unless_the_model_needs_it() -> None:
    def maps(convolve: Callable[[torch.Tensor], torch.Tensor]) -> tuple[int, ...]:
        found = probed_dummies(lambda inputs: convolve(inputs["x"]), {}, ["x"], None)
        return shape(found.get("x"))

    layer = nn.Conv2d(12, 4, 3)
    assert maps(lambda x: layer(x[:, :, 8:])) == (4, 12, 64, 96)
    assert maps(lambda x: layer(x).reshape(len(x), 4, 62, 62)) == (4, 12, 64, 64)


def test_hidden_states_are_as_large_as_the_token_before_them() -> None:
    token = nn.Parameter(torch.zeros(1, 1, 20))
    assert shape(found(lambda x: torch.cat([token.expand(len(x), 1, 20), x], dim=1)))[-1] == 20


def test_mel_bins_are_a_factor_of_a_linear_layers_size() -> None:
    def encoder(x: torch.Tensor) -> torch.Tensor:
        maps = nn.Conv2d(1, 4, 3, stride=2, padding=1)(x[:, None])
        return nn.Linear(4 * 16, 5)(maps.transpose(1, 2).flatten(2))

    dummy = found(encoder, torch.zeros(2, 100, 80))
    assert shape(dummy) == (4, 100, 32)


def test_a_mask_has_an_axis_less_than_the_hidden_states_that_it_covers() -> None:
    layer = nn.Linear(24, 5)
    dummies = probed_dummies(lambda inputs: layer(inputs["x"]) * inputs["mask"][..., None], {}, ["x", "mask"], None)
    assert shape(dummies["mask"]) == shape(dummies["x"])[:2]
    assert dummies["mask"].axes == {0: "batch", 1: "sequence"}


def test_samples_that_a_preprocessor_made_keep_their_length() -> None:
    assert shape(found(lambda x: functional.conv1d(x, torch.zeros(4, 1, 320)), torch.zeros(2, 2, 800))) == (4, 1, 800)


@pytest.mark.parametrize("failure", [lambda x: x.no_such_attribute, lambda x: nn.Linear(8, 8)(nn.Linear(9, 9)(x))])
def test_nothing_is_found_where_no_layer_tells(failure: Callable[[torch.Tensor], object]) -> None:
    assert found(failure) is None


def test_a_branch_on_values_needs_the_weights() -> None:
    layer = nn.Linear(24, 5)
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(DataDependentOutputException):
        found(lambda x: x if layer(x).sum() > 0 else -x)
