"""What transformers.js passes the encoders of images and audio, and what their graphs do without the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription
from onnxport.layouts._graph_files import keep_all
from onnxport.layouts._layout import Exported
from onnxport.layouts.transformers_js import LAYOUT


def component(name: str, *inputs: str) -> ComponentDescription:
    values = tuple(TensorDescription(value, "float32", ()) for value in inputs)
    return ComponentDescription(name, f"{name}.onnx", (), 20, 1, 1, values, ())


@pytest.mark.parametrize(
    ("model_type", "encoder", "expected"),
    [
        ("llava_onevision", component("vision_encoder", "pixel_values", "image_sizes"), "doesn't pass image_sizes to"),
        ("idefics3", component("vision_encoder", "pixel_values", "pixel_attention_mask"), ""),
        ("granite_speech", component("audio_encoder", "input_features", "input_features_mask"), ""),
    ],
)
def test_inputs_that_transformers_js_does_not_pass(
    model_type: str, encoder: ComponentDescription, expected: str, tmp_path: Path
) -> None:
    names = {"llava_onevision": "LlavaOnevision", "idefics3": "Idefics3", "granite_speech": "GraniteSpeech"}
    source = {"model_type": model_type, "architecture": f"{names[model_type]}ForConditionalGeneration"}
    decoder = component("decoder_model_merged", "inputs_embeds", "past_key_values.0.key")
    components = (encoder, component("embed_tokens", "input_ids"), decoder)
    manifest = Manifest("image-to-text-with-past", source, {}, {}, components, {})
    warnings = " ".join(LAYOUT.check(Exported(tmp_path, manifest)))
    assert expected in warnings
    assert bool(expected) == bool(warnings)


def test_all_features_are_kept_without_a_mask(tmp_path: Path) -> None:
    file = tmp_path / "audio_encoder.onnx"
    values = [
        helper.make_tensor_value_info("frames", TensorProto.FLOAT, ["b", "n", 4]),
        helper.make_tensor_value_info("mask", TensorProto.BOOL, ["b", "n"]),
    ]
    nodes = [
        helper.make_node("Neg", ["frames"], ["features"]),
        helper.make_node("NonZero", ["mask"], ["found"]),
        helper.make_node("Transpose", ["found"], ["positions"]),
        helper.make_node("GatherND", ["features", "positions"], ["audio_features"]),
    ]
    outputs = [helper.make_tensor_value_info("audio_features", TensorProto.FLOAT, ["kept", 4])]
    graph = helper.make_graph(nodes, "g", values, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    file.write_bytes(model.SerializeToString())
    keep_all(file, "mask")
    session = onnxruntime.InferenceSession(file)
    assert [value.name for value in session.get_inputs()] == ["frames"]
    frames = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(session.run(["audio_features"], {"frames": frames})[0], -frames[0])
