"""Models that draw random numbers are compared with constants in their place, in the model and in the graph."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from onnxport.architectures.vits import ARCHITECTURES
from onnxport.runtime.exact import comparable_form
from onnxport.tracing.comparable import ComparableFunctions


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (3.0, 0.25)])
def test_a_graph_and_its_model_draw_the_same(mean: float, scale: float, tmp_path: Path) -> None:
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 3])
    drawn = helper.make_tensor_value_info("drawn", TensorProto.FLOAT, ["batch", 3])
    node = helper.make_node("RandomNormalLike", ["values"], ["drawn"], mean=mean, scale=scale)
    graph = helper.make_graph([node], "random", [values], [drawn])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(comparable_form(tmp_path / "model.onnx", options), options)
    array = np.zeros((2, 3), dtype=np.float32)
    with ComparableFunctions():
        expected = mean + scale * torch.randn_like(torch.from_numpy(array))
    np.testing.assert_allclose(session.run(None, {"values": array})[0], expected.numpy())


def test_example_inputs_stay_random() -> None:
    generator = torch.Generator().manual_seed(0)
    with ComparableFunctions():
        assert torch.randn(8, generator=generator).std() > 0


def test_of_categories_the_first_possible_ones_are_drawn() -> None:
    weights = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3]])
    with ComparableFunctions():
        assert torch.multinomial(weights, 2).tolist() == [[1, 3]]


def test_the_spline_of_vits_is_that_of_transformers_on_both_sides_of_its_bounds() -> None:
    from transformers.models.vits.modeling_vits import _unconstrained_rational_quadratic_spline as original

    (patch,) = ARCHITECTURES[0].patches
    torch.manual_seed(0)
    inputs = torch.tensor([-9.0, -5.0, -4.9, -1.0, 0.0, 2.5, 5.0, 5.1]).view(2, 1, 4)
    widths, heights, derivatives = torch.randn(2, 1, 4, 10), torch.randn(2, 1, 4, 10), torch.randn(2, 1, 4, 9)
    for reverse in (False, True):
        found = patch.make(original)(inputs, widths, heights, derivatives, reverse=reverse)
        expected = original(inputs, widths, heights, derivatives, reverse=reverse)
        torch.testing.assert_close(found, expected)
