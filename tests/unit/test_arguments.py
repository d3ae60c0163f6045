"""An argument that no graph takes is an error, unless it wouldn't change the outputs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxport.description.forward import OPTION, OTHER_MASK, UNUSED
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.arguments import check_arguments

LEFT_OUT = {
    "labels": "for training",
    "langs": UNUSED,
    "lengths": OTHER_MASK,
    "multimask_output": f"{OPTION}True",
    "output_attentions": f"{OPTION}None",
}


def directory(inputs: tuple[str, ...], outputs: tuple[str, ...] = ("logits",)) -> Any:
    def specs(names: tuple[str, ...]) -> list[Any]:
        return [SimpleNamespace(name=name) for name in names]

    component = SimpleNamespace(inputs=specs(inputs), outputs=specs(outputs))
    manifest = SimpleNamespace(components=[component], left_out=LEFT_OUT)
    return SimpleNamespace(path=Path("exported"), manifest=manifest, input_names=frozenset(inputs))


@pytest.mark.parametrize(
    "arguments",
    [
        {"attention_mask": np.ones((2, 3))},
        {"token_type_ids": np.zeros((2, 3), "int64")},
        {"position_ids": np.arange(3)[None]},
        {"langs": np.full((2, 3), 5)},
        {"labels": None},
        {"multimask_output": True},
        {"output_attentions": False},
        {"return_dict": True},
        {"original_sizes": np.array([[30, 40]])},
        {"output_hidden_states": True},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_that_change_nothing_are_ignored(arguments: dict[str, Any]) -> None:
    check_arguments(directory(("input_ids",), ("logits", "hidden_states.0")), arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_boxes": np.ones((1, 1, 4))},
        {"attention_mask": np.array([[0, 1, 1]])},
        {"token_type_ids": np.array([[0, 1, 1]])},
        {"position_ids": np.array([[0, 0, 1]])},
        {"labels": np.array([1])},
        {"lengths": np.array([2])},
        {"multimask_output": False},
        {"bogus": [1.0]},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_other_arguments_are_errors_that_name_them(arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"{next(iter(arguments))}: no graph of exported takes it.*take input_ids"):
        check_arguments(directory(("input_ids", "past_key_values.0.key")), arguments)


def test_outputs_that_no_graph_returns_are_an_error_with_the_option_that_adds_them() -> None:
    with pytest.raises(UnsupportedError, match="export with --outputs attentions"):
        check_arguments(directory(("input_ids",)), {"output_attentions": True})


def test_lengths_are_ignored_beside_the_mask_that_has_them() -> None:
    arguments = {"attention_mask": np.ones((2, 3)), "lengths": np.array([3, 3])}
    check_arguments(directory(("input_ids", "attention_mask")), arguments)
