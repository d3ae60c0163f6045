"""Replacements of loops over sequences and images return the same values, and are restored."""

import builtins
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import CanineConfig
from transformers.models.canine.modeling_canine import CanineAttention
from transformers.models.encodec.configuration_encodec import EncodecConfig
from transformers.models.encodec.modeling_encodec import EncodecConv1d
from transformers.models.fastspeech2_conformer import modeling_fastspeech2_conformer
from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig
from transformers.models.florence2.modeling_florence2 import Florence2VisionChannelAttention
from transformers.models.higgs_audio_v2.configuration_higgs_audio_v2 import HiggsAudioV2Config
from transformers.models.higgs_audio_v2.modeling_higgs_audio_v2 import HiggsAudioV2DecoderLayer
from transformers.models.mimi.configuration_mimi import MimiConfig
from transformers.models.mimi.modeling_mimi import MimiConv1d
from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings
from transformers.models.rt_detr import modeling_rt_detr
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

from onnxport.architectures._patches import patches_in
from onnxport.patching.scope import patching
from onnxport.tracing.engine_patches import ENGINE_PATCHES, FAKE_PATCHES, size_patches


def test_position_embeddings_are_resized_without_a_loop() -> None:
    torch.manual_seed(0)
    table, sizes = torch.randn(4, 4, 6), torch.tensor([[4, 4], [1, 12], [9, 2], [2, 3], [5, 5]])
    expected = Siglip2VisionEmbeddings.resize_positional_embeddings(table, sizes, 30)
    raw = vars(Siglip2VisionEmbeddings)["resize_positional_embeddings"]
    with patching(*patches_in("siglip2")):
        found = Siglip2VisionEmbeddings.resize_positional_embeddings(table, sizes, 30)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert vars(Siglip2VisionEmbeddings)["resize_positional_embeddings"] is raw


def test_2d_position_embeddings_are_looked_up_without_a_loop() -> None:
    torch.manual_seed(0)
    config: Any = SimpleNamespace(
        axial_pos_shape=(3, 4), axial_pos_embds_dim=(2, 6), hidden_size=8, attn_layers=["lsh"],
        local_attn_chunk_length=2,
        lsh_attn_chunk_length=2, hidden_dropout_prob=0.0,
    )  # fmt: skip
    positions = AxialPositionEmbeddings(config).eval()
    for weight in positions.weights:
        torch.nn.init.normal_(weight)
    places = torch.tensor([[0, 1, 2, 3], [9, 4, 4, 7]])
    expected = positions(places)
    with patching(*patches_in("reformer")):
        torch.testing.assert_close(positions(places), expected)


@pytest.mark.parametrize(
    ("durations", "speed"), [([[1, 0, 2], [0, 4, 0]], 1.0), ([[2, 1, 3], [0, 0, 0]], 1.5), ([[0, 0, 0]] * 2, 1.0)]
)
def test_hidden_states_are_repeated_without_a_loop(durations: list[list[int]], speed: float) -> None:
    states = torch.arange(12.0).reshape(2, 3, 2) + 1
    expected = modeling_fastspeech2_conformer.length_regulator(states, torch.tensor(durations), speed)
    with patching(*patches_in("fastspeech2_conformer")):
        found = modeling_fastspeech2_conformer.length_regulator(states, torch.tensor(durations), speed)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("length", "stride"), [(24, 4), (25, 4), (9, 1)])
@pytest.mark.parametrize(
    ("layer_class", "config"), [(EncodecConv1d, EncodecConfig()), (MimiConv1d, MimiConfig())], ids=["encodec", "mimi"]
)
def test_the_padding_of_a_codec_is_computed_with_integers(
    layer_class: Any, config: Any, length: int, stride: int
) -> None:
    torch.manual_seed(0)
    layer = layer_class(config, 2, 3, kernel_size=2 * stride, stride=stride).eval()
    audio = torch.randn(1, 2, length)
    with torch.no_grad():
        expected = layer(audio)
        with patching(*size_patches([layer_class.__module__])):
            torch.testing.assert_close(layer(audio), expected)
            exported = torch.export.export(layer, (audio,), dynamic_shapes=({2: torch.export.Dim.AUTO},))
        torch.testing.assert_close(layer(audio), expected)
        longer = torch.randn(1, 2, length + 3)
        torch.testing.assert_close(exported.module()(longer), layer(longer))


def test_a_scale_that_depends_on_a_size_stays_dynamic() -> None:
    config = Florence2VisionConfig(embed_dim=[8], num_groups=[2], depths=[1])
    config._attn_implementation = "sdpa"
    attention = Florence2VisionChannelAttention(config, 0).eval()
    with torch.no_grad(), patching(*ENGINE_PATCHES):
        length = {1: torch.export.Dim.DYNAMIC}
        exported = torch.export.export(attention, (torch.randn(2, 6, 8),), dynamic_shapes=(length,))
    longer = torch.randn(2, 25, 8)
    torch.testing.assert_close(exported.module()(longer), attention(longer))


def test_tokens_of_text_and_audio_are_computed_without_a_loop() -> None:
    torch.manual_seed(0)
    config = HiggsAudioV2Config(hidden_size=8, num_attention_heads=2, num_key_value_heads=2, intermediate_size=8)
    config._attn_implementation = "eager"
    layer = HiggsAudioV2DecoderLayer(config, 0).eval()
    angle = torch.zeros(1, 3, layer.self_attn.head_dim)
    named = {
        "audio_token_mask": torch.tensor([[True, False, True], [False] * 3]),
        "position_embeddings": (angle.cos(), angle.sin()),
    }
    states = torch.randn(2, 3, 8)
    with torch.no_grad():
        expected = layer(states.clone(), **named)
        with patching(*patches_in("higgs_audio_v2")):
            torch.testing.assert_close(layer(states, **named), expected)


@pytest.mark.parametrize("length", [3, 4, 9])
def test_chunks_of_a_sequence_are_attended_without_a_loop(length: int) -> None:
    torch.manual_seed(0)
    config = CanineConfig(hidden_size=8, num_attention_heads=2)
    chunks = {f"attend_{way}_chunk_{what}": 4 for way in ("from", "to") for what in ("width", "stride")}
    attention = CanineAttention(config, local=True, **chunks).eval()
    states, mask = torch.randn(2, length, 8), torch.ones(2, length, length)
    mask[1, :, 2:] = 0
    expected = attention(states, mask)[0]
    with patching(*patches_in("canine")):
        torch.testing.assert_close(attention(states, mask)[0], expected)


def test_squeeze_removes_only_an_axis_of_size_1() -> None:
    tensor = torch.zeros(1, 3, 1)
    with patching(*(patch for patch in ENGINE_PATCHES if patch.target == "torch:Tensor.squeeze")):
        assert tensor.squeeze().shape == (3,)
        assert tensor.squeeze(0).shape == (3, 1)
        assert tensor.squeeze(1).shape == (1, 3, 1)
        assert tensor.squeeze(dim=-1).shape == (1, 3)
        assert tensor.squeeze((0, 1, 2)).shape == (3,)


def test_the_length_of_a_tensor_may_be_dynamic() -> None:
    with patching(*size_patches([modeling_rt_detr.__name__])):
        length = vars(modeling_rt_detr)["len"]
        assert (length("abc"), length(torch.zeros(5, 2))) == (3, 5)
    assert "len" not in vars(modeling_rt_detr)
    assert len is builtins.len


def test_no_patch_replaces_an_operator_of_tensor() -> None:
    """A class keeps the slots of such methods after they are removed, and torch.tensor([a tensor]) then fails."""
    targets = [patch.target for patch in (*ENGINE_PATCHES, *FAKE_PATCHES)]
    assert not [target for target in targets if target.startswith("torch:Tensor.__")]
