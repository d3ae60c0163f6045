"""Inputs that no preprocessor returns, by name, by the configuration, and by error messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BertConfig

from onnxport.architectures._mask_value import _TorchWithHalfMinimum
from onnxport.configs.plain_tokenizer import plain_tokenizer
from onnxport.description.dummy_inputs import (
    InputContext,
    dummy_input,
    leading_placeholders,
    parameters_named_in,
    replaced_token_id,
    takes_frames,
)
from onnxport.description.requirements import run_failure_message
from onnxport.loading.load import config_for
from onnxport.patching.scope import patching
from onnxport.tracing.engine_patches import ENGINE_PATCHES, _averaging_matrix, _symbolic_adaptive_pool


def make(name: str, config: dict[str, Any], **inputs: torch.Tensor) -> torch.Tensor:
    found = dummy_input(name)
    assert found is not None
    return found.make(InputContext(SimpleNamespace(model_type="any", **config), 2, inputs))


def test_required_parameters_are_found_in_error_messages() -> None:
    parameters = ("input_ids", "bbox", "decoder_input_ids")
    assert parameters_named_in(ValueError("Bbox is required"), parameters) == ["bbox"]
    assert parameters_named_in(TypeError("missing 'decoder_input_ids'"), parameters) == ["decoder_input_ids"]
    assert parameters_named_in(ValueError("input_ids"), parameters) == []


def test_noise_masks_patches_or_units_of_patches() -> None:
    images = torch.zeros(2, 3, 32, 64)
    assert make("noise", {"patch_size": 8}, pixel_values=images).shape == (2, 32)
    config = {"patch_size": [7, 7], "patch_stride": [4, 4], "masked_unit_size": [8, 8]}
    assert make("noise", config, pixel_values=images).shape == (2, 2)


def test_words_are_no_placeholder_tokens() -> None:
    tokenizer = plain_tokenizer(BertConfig(vocab_size=9), placeholders={8, 7})
    assert set(tokenizer("no word of the vocabulary")["input_ids"]) == {6}


def test_the_audio_prompt_of_a_decoder_replaces_its_placeholder_tokens() -> None:
    config: Any = SimpleNamespace(audio_prompt_token_id=3, audio_latent_token_id=4, image_token_id=5)
    names = ("audio_prompt_latents", "audio_latents", "audio_latents_mask", "image_sizes")
    assert [replaced_token_id(config, name) for name in names] == [3, 4, None, None]
    assert replaced_token_id(SimpleNamespace(audio_token_id=6), "audio_input_ids") == 6  # type: ignore[arg-type]


def test_there_is_a_box_for_each_token() -> None:
    tokens = torch.ones(2, 7, dtype=torch.int64)
    assert make("bbox", {}, input_ids=tokens).shape == (2, 7, 4)
    assert make("bbox", {"dim_bbox": 8}, input_ids=tokens).dtype == torch.float32


def test_the_past_of_a_time_series_covers_its_lags() -> None:
    assert make("past_values", {"context_length": 12, "lags_sequence": [1, 3]}).shape == (2, 15)
    assert make("past_values", {"context_length": 12, "num_input_channels": 3}).shape == (2, 12, 3)


def test_a_decoder_of_several_codebooks_takes_all_of_them() -> None:
    assert make("decoder_input_ids", {}).shape == (2, 3)
    assert make("decoder_input_ids", {"decoder": SimpleNamespace(num_codebooks=4)}).shape == (8, 3)
    assert make("decoder_input_ids", {"decoder_config": SimpleNamespace(num_channels=9)}).shape == (2, 3, 9)


def test_there_is_a_token_type_id_for_each_vocabulary() -> None:
    tokens = torch.ones(2, 7, dtype=torch.int64)
    assert make("token_type_ids", {"type_vocab_sizes": [3, 256]}, input_ids=tokens).shape == (2, 7, 2)
    assert make("token_type_ids", {}, input_ids=tokens).shape == (2, 7)


def test_patches_start_with_their_row_and_column() -> None:
    patches = make("flattened_patches", {"vision_config": SimpleNamespace(patch_size=2, num_channels=3)})
    assert patches.shape == (2, 16, 2 + 12)
    assert patches[0, :5, :2].tolist() == [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1]]


def test_a_video_has_frames() -> None:
    config = {"num_frames": 5, "image_size": 32}
    assert takes_frames(SimpleNamespace(**config))
    assert not takes_frames(SimpleNamespace(image_size=32))
    assert make("pixel_values", config).shape == (2, 5, 3, 32, 32)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (6, 6)])
def test_adaptive_pooling_to_a_dynamic_size_equals_torchs(size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    rows, columns = _averaging_matrix(images, -2, 3), _averaging_matrix(images, -1, 2)
    assert torch.allclose(rows @ images @ columns.T, torch.nn.functional.adaptive_avg_pool2d(images, (3, 2)), atol=1e-6)


def test_adaptive_pooling_to_a_static_size_is_unchanged() -> None:
    assert _symbolic_adaptive_pool(lambda images, size: size)(torch.ones(1, 1, 4, 4), 2) == 2


def test_a_submodel_gets_its_subconfiguration() -> None:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, MistralForCausalLM

    config = LlavaConfig(text_config={"model_type": "mistral"})
    assert config_for(LlavaForConditionalGeneration, config) is config
    assert config_for(MistralForCausalLM, config) is config.text_config


def test_a_trajectory_has_as_many_steps_as_its_mask() -> None:
    mask = torch.ones(2, 7, dtype=torch.int64)
    assert make("states", {"state_dim": 5}, attention_mask=mask).shape == (2, 7, 5)
    assert make("timesteps", {}, attention_mask=mask).tolist() == [list(range(7))] * 2


def test_missing_forward_parameters_are_named() -> None:
    missing = TypeError("forward() missing 2 required positional arguments: 'latents' and 'spans'")
    text = run_failure_message(SimpleNamespace(), ["input_ids"], missing)
    assert text.startswith("SimpleNamespace requires latents and spans") and "OnnxConfig" in text
    session = TypeError("forward() missing 1 required positional argument: 'inference_session'")
    assert "between calls" in run_failure_message(SimpleNamespace(), ["pixel_values"], session)
    mixed = RuntimeError("expected scalar type torch.float32 but found torch.float16")
    assert "export with --dtype fp32" in run_failure_message(SimpleNamespace(), ["pixel_values"], mixed)
    other = run_failure_message(SimpleNamespace(), ["pixel_values"], ValueError("no\nboxes"))
    assert "can't be run on pixel_values alone (ValueError: no boxes)" in other


def test_a_transducer_takes_one_token() -> None:
    assert make("decoder_input_ids", {"max_symbols_per_step": 10}).shape == (2, 1)


def test_masked_positions_have_half_of_the_lowest_value() -> None:
    halved = _TorchWithHalfMinimum(torch)
    assert halved.finfo(torch.float32).min == torch.finfo(torch.float32).min / 2
    assert halved.arange is torch.arange


def test_linspace_with_a_dynamic_number_of_steps() -> None:
    class Size(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linspace(0.5, x.shape[0] - 0.5, x.shape[0])

    with patching(*(patch for patch in ENGINE_PATCHES if patch.target == "torch:linspace")):
        program = torch.export.export(Size(), (torch.ones(4),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert torch.allclose(program.module()(torch.ones(7)), torch.arange(7) + 0.5)


def test_a_tensor_of_dynamic_sizes() -> None:
    class Sizes(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            height, width = x.shape
            return torch.as_tensor([(height, width), (height + 1, width)], dtype=torch.long)

    with patching(*(patch for patch in ENGINE_PATCHES if patch.target == "torch:as_tensor")):
        axes = ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},)
        program = torch.export.export(Sizes(), (torch.ones(4, 5),), dynamic_shapes=axes)
    assert program.module()(torch.ones(7, 9)).tolist() == [[7, 9], [8, 9]]


def test_a_masked_autoencoder_takes_noise_for_each_patch() -> None:
    noise = make("noise", {"patch_size": 16}, pixel_values=torch.zeros(2, 3, 64, 32))
    assert noise.shape == (2, 8)
    assert noise.unique().numel() == 16


def test_a_prompt_starts_with_image_placeholder_tokens() -> None:
    mask = make("image_embeds_position_mask", {"latent_query_num": 2}, input_ids=torch.ones(2, 5, dtype=torch.int64))
    assert mask.tolist() == [[1, 1, 0, 0, 0]] * 2


def test_each_token_attends_to_one_more_image_than_the_previous_one() -> None:
    images, tokens = torch.zeros(2, 3, 3, 8, 8), torch.ones(2, 4, dtype=torch.int64)
    mask = make("image_attention_mask", {}, pixel_values=images, input_ids=tokens)
    assert mask[1].tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]


def test_robot_states_and_actions_have_the_configurations_sizes() -> None:
    sizes = {"max_state_dim": 6, "max_action_dim": 5, "chunk_size": 7, "vlm_config": None}
    assert make("state", sizes).shape == (2, 6)
    assert make("noise", {**sizes, "dit_config": None}).shape == (2, 7, 5)
    assert make("timestep", sizes).shape == (2,)


def test_there_is_a_placeholder_token_for_each_image_embedding() -> None:
    text = SimpleNamespace(num_image_tokens=4)
    vlm = SimpleNamespace(text_config=text, image_token_id=9)
    assert leading_placeholders(SimpleNamespace(vlm_config=vlm)) == (4, 9)
    assert leading_placeholders(SimpleNamespace(vlm_config=vlm, dit_config=None)) == (8, 9)
    assert leading_placeholders(SimpleNamespace(latent_query_num=3)) == (3, None)


def test_patches_of_a_square_have_positions_and_others_are_padding() -> None:
    positions = make("image_position_ids", {}, pixel_values=torch.zeros(2, 6, 3))
    assert positions[1].tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [-1, -1], [-1, -1]]


def test_embeddings_are_made_of_patches_of_one_image() -> None:
    pooled = make("image_token_pooling", {}, pixel_values=torch.zeros(2, 20, 3))
    assert pooled.shape == (8, 4)
    assert pooled[3].tolist() == [12, 13, -1, -1]
    assert pooled[4].tolist() == [20, 21, 22, 23]


def test_a_prompt_with_only_video_placeholder_tokens_takes_frames() -> None:
    assert takes_frames(SimpleNamespace(video_token_index=7))
    assert not takes_frames(SimpleNamespace(video_token_index=7, image_token_index=8))
