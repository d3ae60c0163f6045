"""Describe the encoders of Phi-4-multimodal, whose inputs are its processor's outputs under the same names.

Transformers concatenates the features image by image, in a loop over values. Here the index of the feature at each
placeholder token is computed from the position of the token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.phi4_multimodal.modeling_phi4_multimodal import (
        Phi4MultimodalAudioEmbedding,
        Phi4MultimodalAudioModel,
        Phi4MultimodalImageEmbedding,
    )

    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor

_MAX_ROWS = 500
"""Maximum audio length in hidden states: Transformers splits longer audio at points that depend on the padding."""


class Phi4ImageEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of images, each of which is encoded resized as a whole and in crops."""

    @property
    def inputs(self) -> Axes:
        """Global image and crops, sizes after resizing, and mask of the patches that aren't padding.

        `image_pixel_values` is [batch, 1 + crops, channels, height, width], `image_sizes` [batch, 2] (height and
        width), `image_attention_mask` [batch, 1 + crops, patch rows, patch columns]; the batch is one of images.
        """
        crops = {0: "batch", 1: "num_crops"}
        return {"image_sizes": {0: "batch"}, "image_pixel_values": crops, "image_attention_mask": crops}

    @property
    def outputs(self) -> Axes:
        """Features of all images, concatenated, [placeholder tokens, hidden size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make images of two crops each, in portrait and in landscape format, some of them padded."""
        import torch

        vision = self._config.vision_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        patches = vision.image_size // vision.patch_size
        sizes = torch.tensor([[2, 1], [1, 2]])[torch.arange(count) % 2] * vision.crop_size
        mask = torch.ones(count, 3, patches, patches, dtype=torch.bool)
        mask[::2, 2, patches // 2 :] = False
        pixels = torch.ones(count, 3, vision.num_channels, vision.image_size, vision.image_size)
        return {"image_sizes": sizes, "image_pixel_values": pixels, "image_attention_mask": mask}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, features are gathered by computed indices instead of in a loop."""
        import torch

        embed = model_of(forward).model.embed_tokens_extend.image_embed
        if not torch.compiler.is_exporting():
            return {"image_features": _embed_placeholders(embed, arguments, self._feature_count(arguments))}
        features = self._gathered_features(embed, arguments)
        projected = torch.nn.functional.gelu(embed.img_projection_up(features))
        return {"image_features": embed.img_projection_down(projected)}

    def _gathered_features(
        self, embed: Phi4MultimodalImageEmbedding, arguments: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the vision features of all placeholder tokens, before they are projected to the text's hidden size.

        An image has the rows of its crops, each with a newline feature at its end, a separator, and the rows of the
        global image, likewise.
        """
        import torch

        pixels, mask = arguments["image_pixel_values"], arguments["image_attention_mask"].bool()
        features = embed.get_img_features(pixels.flatten(0, 1), attention_mask=mask.flatten(0, 1))
        extensors = (embed.sub_img_feature_extensor.flatten(0, 2), embed.global_img_feature_extensor.flatten(0, 1))
        table = torch.cat([features.flatten(0, 1), *extensors])
        (images, crops), side = pixels.shape[:2], self._side
        grid = arguments["image_sizes"] // self._config.vision_config.crop_size
        rows, columns = (size[:, None] for size in _unpadded_sizes(mask[:, 1:, ::2, ::2], grid))
        position = torch.arange(crops * side * (side + 1) + 1, device=mask.device)[None]
        offset = torch.arange(images, device=mask.device)[:, None] * crops * side**2
        newline = images * crops * side**2
        row, column = position // (columns + 1), position % (columns + 1)
        crop = 1 + row // side * grid[:, 1:] + column // side
        index = offset + crop * side**2 + row % side * side + column % side
        index = torch.where(column == columns, newline, index)
        behind = position - rows * (columns + 1)
        row, column = (behind - 1) // (side + 1), (behind - 1) % (side + 1)
        global_index = torch.where(column == side, newline, offset + row * side + column)
        global_index = torch.where(behind == 0, newline + 1, global_index)  # the separator is the table's last row
        index = torch.where(behind < 0, index, global_index)
        return table[index[behind <= side * (side + 1)]]

    def _feature_count(self, arguments: Mapping[str, torch.Tensor]) -> int:
        """Return the number of placeholder tokens of all images."""
        grid = arguments["image_sizes"] // self._config.vision_config.crop_size
        rows, columns = _unpadded_sizes(arguments["image_attention_mask"].bool()[:, 1:, ::2, ::2], grid)
        return int((rows * (columns + 1) + 1 + self._side * (self._side + 1)).sum())

    @property
    def _side(self) -> int:
        """Return the number of features in a row of a crop: one for two patches."""
        vision = self._config.vision_config
        return int(vision.image_size // vision.patch_size + 1) // 2


class Phi4AudioEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of audio inputs of different lengths."""

    @property
    def inputs(self) -> Axes:
        """Audio features, mask of the frames that aren't padding, and number of placeholder tokens of each audio.

        `audio_input_features` is [batch, frames, mel bins], `audio_attention_mask` [batch, frames],
        `audio_embed_sizes` [batch]; the batch is one of audio inputs.
        """
        frames = {0: "batch", 1: "audio_sequence"}
        return {"audio_embed_sizes": {0: "batch"}, "audio_input_features": frames, "audio_attention_mask": frames}

    @property
    def outputs(self) -> Axes:
        """Features of all audio inputs, concatenated, [placeholder tokens, hidden size].

        `audio_features` for prompts without images, `audio_features_vision_mode` for prompts with images.
        """
        return {"audio_features": {}, "audio_features_vision_mode": {}}

    def generate_dummy_inputs(
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:  # type: ignore[override]
        """Make audio inputs of decreasing length."""
        import torch

        audio = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = audio.time_reduction * 7 - 2
        lengths = frames - torch.arange(count) * 9 % (frames // 2)
        mask = torch.arange(frames)[None] < lengths[:, None]
        sizes = -(-lengths // audio.time_reduction)
        features = torch.ones(count, frames, audio.input_size)
        return {"audio_embed_sizes": sizes, "audio_input_features": features, "audio_attention_mask": mask}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, without the check whether audio is longer than the maximum."""
        import torch

        embed = model_of(forward).model.embed_tokens_extend.audio_embed
        if not torch.compiler.is_exporting():
            maximum = -(-arguments["audio_input_features"].shape[1] // self._config.audio_config.time_reduction)
            count = int(arguments["audio_embed_sizes"].clamp(max=maximum).sum())
            outputs = [
                _embed_placeholders(embed, arguments, count, audio_projection_mode=mode)
                for mode in ("speech", "vision")
            ]
            return dict(zip(self.outputs, outputs, strict=True))
        encoded = _encode_audio(embed.encoder, arguments["audio_input_features"], arguments["audio_attention_mask"])
        positions = torch.arange(encoded.shape[1], device=encoded.device)[None]
        encoded = encoded[positions < arguments["audio_embed_sizes"][:, None]]
        speech, vision = embed.up_proj_for_speech(encoded), embed.up_proj_for_vision_speech(encoded)
        outputs = [
            embed.down_proj_for_speech(torch.nn.functional.gelu(speech)),
            embed.down_proj_for_vision_speech(torch.nn.functional.gelu(vision)),
        ]
        return dict(zip(self.outputs, outputs, strict=True))


def _encode_audio(encoder: Phi4MultimodalAudioModel, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the encoder's hidden states, [batch, hidden states, size]; the mask is added to attention scores."""
    hidden_states, hidden_mask = encoder.embed(encoder.encoder_embedding(features), mask)
    bias = hidden_mask[:, None].to(hidden_states.dtype) + encoder.relative_attention_bias_layer(hidden_states)
    for layer in encoder.encoders:
        hidden_states = layer(hidden_states, bias)
    return hidden_states


def _embed_placeholders(
    embed: Phi4MultimodalAudioEmbedding | Phi4MultimodalImageEmbedding,
    arguments: Mapping[str, Any],
    count: int,
    **named: Any,
) -> torch.Tensor:
    """Run Transformers' module on a prompt of placeholder tokens only, and return its embeddings, [count, size].

    Args:
        embed: the module that merges features into token embeddings.
        arguments: inputs of the encoder.
        count: number of placeholder tokens.
        **named: further arguments of the module's forward.
    """
    import torch

    config = embed.config
    has_images = "image_sizes" in arguments
    token_id = config.vision_config.image_token_id if has_images else config.audio_config.audio_token_id
    weight = next(embed.parameters())
    inputs_embeds = torch.zeros(1, count, config.hidden_size, dtype=weight.dtype, device=weight.device)
    input_ids = torch.full((1, count), token_id, device=weight.device)
    return embed(input_ids, inputs_embeds, **arguments, **named)[0]


def _unpadded_sizes(mask: torch.Tensor, grid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows and columns of features of each image without padding, [batch] each.

    Args:
        mask: features of each crop that aren't padding, [batch, crops, rows, columns].
        grid: rows and columns of crops of each image, [batch, 2].
    """
    import torch

    crop = torch.arange(mask.shape[1], device=mask.device)[None]
    in_first_column = (crop % grid[:, 1:] == 0) & (crop < grid.prod(-1, keepdim=True))
    rows = (mask[..., 0].sum(-1) * in_first_column).sum(-1)
    columns = (mask[:, :, 0].sum(-1) * (crop < grid[:, 1:])).sum(-1)
    return rows, columns


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Phi4ImageEncoderOnnxConfig(model.config)


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    """Describe the audio encoder.

    Raises:
        UnsupportedError: its attention is chunked.
    """
    if model.config.audio_config.chunk_size > 0:
        raise UnsupportedError(
            f"{type(model).__name__} encodes audio in chunks of {model.config.audio_config.chunk_size} hidden states "
            "(chunk_size in config.json), which can't be described yet"
        )
    return Phi4AudioEncoderOnnxConfig(model.config)


def _modality(modality: Modality, config: PreTrainedConfig) -> Modality:
    """Limit the length of audio to the maximum that the encoder was exported for."""
    if modality.name != "audio":
        return modality
    return replace(modality, max_length=_MAX_ROWS * config.audio_config.time_reduction)


ARCHITECTURES = (
    Architecture(
        ("phi4_multimodal",),
        encoders={"vision_encoder": _vision_encoder, "audio_encoder": _audio_encoder},
        modalities=_modality,
        tiny=Tiny({"audio_config": {"...": 0, "nemo_conv_channels": 32}}),
    ),
)
