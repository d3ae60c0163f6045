"""Replacements of branches and loops on images' sizes and values return the same as the models' code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.dpt.modeling_dpt import DPTFeatureFusionLayer
from transformers.models.mobilenet_v2 import modeling_mobilenet_v2
from transformers.models.slanet.modeling_slanet import SLANetSLAHead
from transformers.models.swin.modeling_swin import SwinPatchEmbeddings
from transformers.models.udop import modeling_udop
from transformers.models.vilt.modeling_vilt import ViltEmbeddings
from transformers.models.visual_bert.modeling_visual_bert import VisualBertEmbeddings

from onnxport.architectures._patches import patches_in
from onnxport.patching.patch import Patch
from onnxport.patching.scope import patching


def patches(file: str, part: str) -> tuple[Patch, ...]:
    return tuple(patch for patch in patches_in(file) if part in patch.target)


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (11, 5)], ids=str)
def test_images_are_padded_to_whole_patches(size: tuple[int, int]) -> None:
    embeddings = SwinPatchEmbeddings(transformers.SwinConfig(patch_size=4, embed_dim=8))
    images = torch.randn(2, 3, *size)
    expected = embeddings(images)
    with patching(*patches("swin", ".swin.")):
        found = embeddings(images)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1] == expected[1]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 2, 1), (3, 1, 2), (1, 1, 1)])
@pytest.mark.parametrize("size", [(8, 9), (7, 12)], ids=str)
def test_feature_maps_are_padded_as_in_tensorflow(
    size: tuple[int, int], kernel: int, stride: int, dilation: int
) -> None:
    layer = torch.nn.Conv2d(2, 2, kernel, stride, dilation=dilation)
    features = torch.randn(1, 2, *size)
    expected = modeling_mobilenet_v2.apply_tf_padding(features, layer)
    with patching(*patches("mobilenet", "_v2.")):
        torch.testing.assert_close(modeling_mobilenet_v2.apply_tf_padding(features, layer), expected)


@pytest.mark.parametrize("size", [(4, 6), (3, 6), (4, 5)], ids=str)
def test_a_residual_is_resized_to_the_hidden_states(size: tuple[int, int]) -> None:
    layer = DPTFeatureFusionLayer(transformers.DPTConfig(fusion_hidden_size=4)).eval()
    states, residual = torch.randn(1, 4, 4, 6), torch.randn(1, 4, *size)
    with torch.no_grad():
        expected = layer(states, residual)
        with patching(*patches("dpt", ".dpt.")):
            torch.testing.assert_close(layer(states, residual), expected)


def by_position(index: torch.Tensor, embeddings: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the embeddings of the patches that aren't masked, by row and column, in their order."""
    rows = (f"{row} {column}" for row, column in index.tolist())
    found = {row: value for row, value, one in zip(rows, embeddings, mask.tolist(), strict=True) if one}
    return dict(sorted(found.items()))


def test_patches_of_padded_images_are_embedded_without_a_loop() -> None:
    torch.manual_seed(0)
    config = transformers.ViltConfig(hidden_size=8, image_size=24, patch_size=8, num_attention_heads=2)
    embeddings = ViltEmbeddings(config).eval()
    torch.nn.init.normal_(embeddings.position_embeddings)
    images, mask = torch.randn(2, 3, 32, 40), torch.ones(2, 32, 40, dtype=torch.int64)
    mask[0, 16:], mask[1, :, 24:] = 0, 0
    with torch.no_grad():
        expected, expected_mask, (expected_index, _) = embeddings.visual_embed(images, mask, -1)
        with patching(*patches_in("vilt")):
            found, found_mask, (index, _) = embeddings.visual_embed(images, mask, -1)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, 0], expected[:, 0])
    for sample in range(2):  # Transformers shuffles the patches
        wanted = by_position(expected_index[sample], expected[sample, 1:], expected_mask[sample, 1:])
        actual = by_position(index[sample], found[sample, 1:], found_mask[sample, 1:])
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_patches_and_tokens_are_combined_without_a_loop(masked: bool) -> None:
    torch.manual_seed(0)
    images, tokens = torch.randn(2, 16, 8), torch.randn(2, 5, 8)
    boxes = torch.rand(2, 5, 4).sort(-1).values
    boxes[0, 0], boxes[1, 4] = 0.0, 1.0
    mask = torch.ones(2, 5, dtype=torch.int64) if masked else None
    arguments = {"num_patches": 4, "image_size": 64, "patch_size": 16}
    expected = modeling_udop.combine_image_text_embeddings(images, tokens.clone(), boxes, None, mask, **arguments)
    with patching(*patches_in("udop")):
        found = modeling_udop.combine_image_text_embeddings(images, tokens, boxes, None, mask, **arguments)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("aligned", [False, True])
def test_regions_without_words_need_no_branch(aligned: bool) -> None:
    torch.manual_seed(0)
    config = transformers.VisualBertConfig(hidden_size=8, visual_embedding_dim=6, vocab_size=20, num_attention_heads=2)
    embeddings = VisualBertEmbeddings(config).eval()
    alignment = torch.tensor([[[0, 2], [1, -1], [-1, -1], [0, 0]]])
    inputs: dict[str, Any] = {"input_ids": torch.tensor([[3, 4, 5]]), "visual_embeds": torch.randn(1, 3, 6)}
    inputs |= {"image_text_alignment": alignment} if aligned else {}
    expected = embeddings(**inputs)
    with patching(*patches_in("visual_bert")):
        torch.testing.assert_close(embeddings(**inputs), expected)


@pytest.mark.parametrize("ends", [False, True])
def test_the_structure_of_a_table_ends_where_all_sequences_have(ends: bool) -> None:
    torch.manual_seed(0)
    config = transformers.SLANetConfig(post_conv_out_channels=6, hidden_size=8, out_channels=5, max_text_length=7)
    head: Any = SLANetSLAHead(config).eval()
    torch.nn.init.normal_(head.structure_generator.fc2.bias)
    if ends:
        head.structure_generator.fc2.bias.data[-1] = 9.0
    states = torch.randn(2, 4, 6)
    with torch.no_grad():
        expected = head(states).last_hidden_state
        with patching(*patches("slanet", ".slanet.")):
            found = head(states).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert found.shape[1] == (1 if ends else 8)
