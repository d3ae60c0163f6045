"""Modalities: derived from the configuration and the names in the graphs, stored in the manifest, merged with NumPy."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import transformers

from onnxport.architectures._recorded import describe_modalities
from onnxport.bundles.manifest import ComponentDescription, Manifest, TensorDescription
from onnxport.description.encoder_outputs import MAIN_INPUTS, Interface, Modality, completed_modalities
from onnxport.errors import OptionError
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import TensorSpec
from onnxport.runtime.modalities import EncoderFeatures, encoder_feed, merge_embeddings, repeat_features

IMAGE = Modality("image", "vision_encoder", "pixel_values", "image_features", placeholder_token_id=9)
ENCODER = Interface(["pixel_values"], ["image_features"])
AUDIO = Interface(
    ["audio_embed_sizes", "audio_input_features", "audio_attention_mask"],
    ["audio_features", "audio_features_beside_pictures"],
)


def test_modalities_are_derived_from_the_configuration_and_the_graphs() -> None:
    config: Any = SimpleNamespace(model_type="any", image_token_index=9)
    assert describe_modalities(config, {"vision_encoder": ENCODER, "embed_tokens": ENCODER}) == (IMAGE,)
    deepstack = Interface(ENCODER.inputs, [*ENCODER.outputs, "deepstack_features"])
    (found,) = describe_modalities(config, {"vision_encoder": deepstack})
    assert found.deepstack_output == "deepstack_features"
    (left_out,) = describe_modalities(SimpleNamespace(model_type="any"), {"vision_encoder": ENCODER})  # type: ignore[arg-type]
    assert completed_modalities((left_out,), config) == (IMAGE,)


def test_a_record_changes_a_modality() -> None:
    (git,) = describe_modalities(transformers.GitConfig(), {"vision_encoder": ENCODER})
    assert git == replace(IMAGE, merge="prefix", placeholder_token_id=None)
    config = transformers.Phi4MultimodalConfig()
    (audio,) = describe_modalities(config, {"audio_encoder": AUDIO})
    assert (audio.max_length, audio.output_with_images) == (4000, "audio_features_beside_pictures")
    assert audio.placeholder_token_id == config.audio_config.audio_token_id


def written(directory: Path, manifest: dict[str, Any], config: dict[str, Any]) -> Directory:
    """Write a directory without graphs."""
    for component in manifest["components"]:
        (directory / component["file"]).touch()
    (directory / "onnxport.json").write_text(json.dumps(manifest))
    (directory / "config.json").write_text(json.dumps(config))
    return Directory(directory)


def test_modalities_of_manifests_of_both_formats_are_equal(tmp_path: Path) -> None:
    named = {name: tuple(TensorDescription(x, "float32", ()) for x in getattr(AUDIO, name)) for name in vars(AUDIO)}
    component = ComponentDescription("audio_encoder", "audio_encoder.onnx", (), 20, 0, 0, **named)
    config = {"audio_config": {"time_reduction": 8, "audio_token_id": 7}}
    modality = Modality(
        "audio", "audio_encoder", "audio_input_features", "audio_features", "replace", 7, "", AUDIO.outputs[1], 4000
    )
    manifest = Manifest("audio-text-to-text-with-past", {}, {}, {}, (component,), {}, (), (modality,))
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert written(tmp_path, json.loads(manifest.to_json()), config).modalities == (modality,)
    first = json.loads(manifest.to_json()) | {"format_version": 1}
    del first["modalities"]
    assert written(tmp_path, first, config).modalities == (modality,)


def test_embeddings_replace_placeholder_tokens_in_order() -> None:
    input_ids = np.array([[9, 1, 9], [2, 9, 3]])
    rows = np.arange(1, 4, dtype=np.float32)[:, None]
    merged = merge_embeddings(np.zeros((2, 3, 1), np.float32), rows, input_ids == 9)
    assert merged[..., 0].tolist() == [[1, 0, 2], [0, 3, 0]]
    with pytest.raises(OptionError, match="2 placeholder tokens but the encoder returned 3"):
        merge_embeddings(merged, rows, input_ids == 1 + (input_ids == 2))


def test_repeated_prompts_have_their_own_embeddings() -> None:
    rows = np.arange(4.0)[:, None]
    placed = EncoderFeatures(IMAGE, rows[:3])
    (found,) = repeat_features([placed], np.array([[9, 1, 9], [2, 9, 3]]), 2)
    assert found.embeddings[:, 0].tolist() == [0, 1, 0, 1, 2, 2]
    prefix = EncoderFeatures(replace(IMAGE, merge="prefix"), rows)
    (found,) = repeat_features([prefix], np.array([[1, 2], [3, 4]]), 2)
    assert found.embeddings[:, 0].tolist() == [0, 1, 0, 1, 2, 3, 2, 3]


@pytest.mark.parametrize("name", MAIN_INPUTS)
def test_an_encoder_is_fed_its_main_input_and_a_mask_without_padding(name: str) -> None:
    samples = TensorSpec(name, "float32", ("batch_size", "audio_sequence"))
    mask = TensorSpec("samples_mask", "int64", ("batch_size", "audio_sequence"))
    graph: Any = SimpleNamespace(inputs={name: samples, "samples_mask": mask})
    feed = encoder_feed(graph, {name: np.zeros((2, 5)), "input_ids": np.ones((2, 3))})
    assert feed is not None
    assert feed.keys() == {name, "samples_mask"}
    assert feed["samples_mask"].tolist() == [[1] * 5] * 2
    assert encoder_feed(graph, {"input_ids": np.ones((2, 3))}) is None


def test_images_without_crops_are_fed_none() -> None:
    specs = {
        "pixel_values": TensorSpec("pixel_values", "float32", ("batch_size", 3, 8, 8)),
        "pixel_values_local": TensorSpec("pixel_values_local", "float32", ("num_crops", 3, 6, 6)),
        "num_local_patches": TensorSpec("num_local_patches", "int64", ("batch_size",)),
    }
    graph: Any = SimpleNamespace(inputs=specs)
    feed = encoder_feed(graph, {"pixel_values": np.zeros((2, 3, 8, 8))})
    assert feed is not None
    assert feed["pixel_values_local"].shape == (0, 3, 6, 6)
    assert feed["num_local_patches"].tolist() == [0, 0]


class RecordingGraph:
    """A substitute for a decoder's graph that records its inputs."""

    shares_cache = False

    def __init__(self) -> None:
        axes = ("batch_size", "sequence_length")
        names = ("inputs_embeds", "attention_mask", "position_ids")
        self.inputs = {name: TensorSpec(name, "int64", axes) for name in names}
        self.outputs = {"logits": None}

    def run(self, feed: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        self.feed = feed
        return {"logits": SimpleNamespace(numpy=lambda: np.zeros((1, 1, 1)))}


@pytest.mark.parametrize("given", [True, False])
def test_mask_and_position_ids_with_a_prefix(given: bool) -> None:
    graph: Any = RecordingGraph()
    decoder = Decoder(graph)
    states = decoder.empty_cache(2)
    mask = np.array([[0, 1, 1], [1, 1, 1]])
    feed: dict[str, Any] = {"inputs_embeds": np.zeros((2, 5, 4)), "attention_mask": mask}
    if given:
        feed["position_ids"] = np.array([[0, 0, 1], [0, 1, 2]])
    decoder.step(feed, states, prefix=2)
    assert graph.feed["attention_mask"].tolist() == [[1, 1, 0, 1, 1], [1] * 5]
    assert graph.feed["position_ids"].tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 2]]
    later = {"inputs_embeds": np.zeros((2, 1, 4)), "attention_mask": np.pad(mask, ((0, 0), (0, 1)), constant_values=1)}
    decoder.step(later, states)
    assert graph.feed["attention_mask"].tolist() == [[1, 1, 0, 1, 1, 1], [1] * 6]
    assert graph.feed["position_ids"].tolist() == [[2], [3]]
