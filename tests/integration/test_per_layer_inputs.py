"""Decoders whose layers take embeddings of the tokens of their own (Gemma 3n, Gemma 4) get them from token ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.matrix.tiny import checkpoint_of
from onnxport.errors import OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel

TASK = "image-to-text-with-past"


def test_images_and_audio_with_per_layer_embeddings(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("gemma4", TASK, tmp_path)
    manifest = onnxport.export(checkpoint, tmp_path / "out", onnxport.ExportOptions(task=TASK)).manifest
    embedding, decoder = manifest.components[-2:]
    assert [value.name for value in embedding.outputs] == ["inputs_embeds", "per_layer_inputs"]
    assert "per_layer_inputs" in [value.name for value in decoder.inputs]
    assert "text" in [case["name"] for case in manifest.validation["cases"] if case["outputs"]]

    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    size, side = model.config.vision_config.patch_size, 2 * model.config.vision_config.pooling_kernel_size
    patches = torch.randn(1, side**2, 3 * size**2, generator=torch.Generator().manual_seed(0))
    positions = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), dim=-1).reshape(
        1, -1, 2
    )
    with torch.no_grad():
        count = sum(map(len, model.get_image_features(patches, positions, return_dict=True).pooler_output))
    tokens = torch.tensor([[5, *[model.config.image_token_id] * count, 6, 7]])
    image = {"pixel_values": patches, "image_position_ids": positions}
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), **image}
    ours = onnxport.load(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **settings)
    assert torch.equal(ours.generate(**inputs, **settings), expected)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    light = LightModel(Directory(tmp_path / "out")).generate(arrays, **settings)
    assert np.array_equal(light, expected.numpy())
    with pytest.raises(OptionError, match="computed from token ids: pass input_ids"):
        ours(inputs_embeds=torch.zeros(1, 3, model.config.get_text_config().hidden_size))
