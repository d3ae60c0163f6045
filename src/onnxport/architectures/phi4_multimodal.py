"""Describe the encoders of Phi-4-multimodal, whose inputs are the outputs of its processor, with the same names.

Transformers packs the features image by image; here the index of each feature is computed arithmetically.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

_MAX_EMBEDDINGS = 500
"""Longest audio, in embeddings: Transformers splits longer audio into chunks, depending on the batch's padding."""


class Phi4ImageEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of images as a global image and crops."""

    @property
    def inputs(self) -> Axes:
        """Global images with their crops, the sizes of the resized images, and a mask of the patches.

        `image_pixel_values` is [images, crops, channels, height, width], `image_sizes` is [images, 2] (height and
        width), and `image_attention_mask` is [images, crops, patch rows, patch columns].
        """
        crops = {0: "batch", 1: "num_crops"}
        return {"image_sizes": {0: "batch"}, "image_pixel_values": crops, "image_attention_mask": crops}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all images, [features, hidden_size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy images with two crops each, in portrait and landscape format, some of them padded."""
        import torch

        vision = self._config.vision_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        patches = vision.image_size // vision.patch_size
        sizes = torch.tensor([[2, 1], [1, 2]])[torch.arange(count) % 2] * vision.crop_size
        mask = torch.ones(count, 3, patches, patches, dtype=torch.bool)
        mask[::2, 2, patches // 2 :] = False
        pixels = torch.ones(count, 3, vision.num_channels, vision.image_size, vision.image_size)
        return {"image_sizes": sizes, "image_pixel_values": pixels, "image_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; when exporting, on all crops at once, with feature indices computed arithmetically."""
        import torch

        embed = model_of(forward).base_model.embed_tokens_extend.image_embed
        if not torch.compiler.is_exporting():
            return {"image_features": _embed_placeholders(embed, arguments, self._feature_count(arguments))}
        up = torch.nn.functional.gelu(embed.img_projection_up(self._unprojected_features(embed, arguments)))
        return {"image_features": embed.img_projection_down(up)}

    def _unprojected_features(self, embed: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the features of all images before the projection to the decoder's hidden size."""
        import torch

        pixels, mask = arguments["image_pixel_values"], arguments["image_attention_mask"].bool()
        features = embed.get_img_features(pixels.flatten(0, 1), attention_mask=mask.flatten(0, 1))
        separators = (embed.sub_img_feature_extensor.flatten(0, 2), embed.global_img_feature_extensor.flatten(0, 1))
        table = torch.cat([features.flatten(0, 1), *separators])
        (images, crops), side = pixels.shape[:2], self._features_per_side
        grid = arguments["image_sizes"] // self._config.vision_config.crop_size
        rows, columns = (size[:, None] for size in _unpadded_shape(mask[:, 1:, ::2, ::2], grid))
        index = torch.arange(crops * side * (side + 1) + 1, device=mask.device)[None]
        first = torch.arange(images, device=mask.device)[:, None] * crops * side**2
        row_end = images * crops * side**2
        row, column = index // (columns + 1), index % (columns + 1)
        crop = 1 + row // side * grid[:, 1:] + column // side
        source = first + crop * side**2 + row % side * side + column % side
        source = torch.where(column == columns, row_end, source)
        global_index = index - rows * (columns + 1)  # 0 is the separator before the global image
        row, column = (global_index - 1) // (side + 1), (global_index - 1) % (side + 1)
        global_source = torch.where(column == side, row_end, first + row * side + column)
        source = torch.where(global_index < 0, source, torch.where(global_index == 0, row_end + 1, global_source))
        return table[source[global_index <= side * (side + 1)]]

    def _feature_count(self, arguments: Mapping[str, Any]) -> int:
        """Return the number of features of all images."""
        grid, side = arguments["image_sizes"] // self._config.vision_config.crop_size, self._features_per_side
        rows, columns = _unpadded_shape(arguments["image_attention_mask"].bool()[:, 1:, ::2, ::2], grid)
        return int((rows * (columns + 1) + 1 + side * (side + 1)).sum())

    @property
    def _features_per_side(self) -> int:
        """Return the number of features in a row of a crop: one for every two patches."""
        vision = self._config.vision_config
        return int(vision.image_size // vision.patch_size + 1) // 2


class Phi4AudioEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of audio clips of different lengths."""

    @property
    def inputs(self) -> Axes:
        """Audio features, a mask of the frames, and the number of embeddings of each audio clip.

        `audio_input_features` is [batch, frames, input_size], `audio_attention_mask` is [batch, frames], and
        `audio_embed_sizes` is [batch].
        """
        frames = {0: "batch", 1: "audio_sequence"}
        return {"audio_embed_sizes": {0: "batch"}, "audio_input_features": frames, "audio_attention_mask": frames}

    @property
    def outputs(self) -> Axes:
        """Concatenated features of all audio clips, [features, hidden_size]: for prompts without images, and with."""
        return {"audio_features": {}, "audio_features_vision_mode": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Create dummy audio clips of decreasing length."""
        import torch

        audio = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = audio.time_reduction * 7 - 2
        lengths = frames - torch.arange(count) * 9 % (frames // 2)
        mask = torch.arange(frames)[None] < lengths[:, None]
        sizes = -(-lengths // audio.time_reduction)
        features = torch.ones(count, frames, audio.input_size)
        return {"audio_embed_sizes": sizes, "audio_input_features": features, "audio_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; when exporting, without the branch on the audio's length."""
        import torch

        embed = model_of(forward).base_model.embed_tokens_extend.audio_embed
        if not torch.compiler.is_exporting():
            max_size = -(-arguments["audio_input_features"].shape[1] // self._config.audio_config.time_reduction)
            count = int(arguments["audio_embed_sizes"].clamp(max=max_size).sum())
            outputs = [
                _embed_placeholders(embed, arguments, count, audio_projection_mode=mode)
                for mode in ("speech", "vision")
            ]
            return dict(zip(self.outputs, outputs, strict=True))
        encoded = _encode_audio(embed.encoder, arguments["audio_input_features"], arguments["audio_attention_mask"])
        valid = torch.arange(encoded.shape[1], device=encoded.device)[None] < arguments["audio_embed_sizes"][:, None]
        encoded = encoded[valid]
        speech, vision = embed.up_proj_for_speech(encoded), embed.up_proj_for_vision_speech(encoded)
        outputs = [
            embed.down_proj_for_speech(torch.nn.functional.gelu(speech)),
            embed.down_proj_for_vision_speech(torch.nn.functional.gelu(vision)),
        ]
        return dict(zip(self.outputs, outputs, strict=True))


class Phi4AudioModelOnnxConfig(DerivedOnnxConfig):
    """Describe the audio encoder alone, for audio that Transformers doesn't split."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; when exporting, without the branch on the audio's length."""
        import torch

        if not torch.compiler.is_exporting():
            return super().run(forward, arguments)
        frames = arguments["hidden_states"].shape[1]
        torch._check(frames <= _MAX_EMBEDDINGS * self._config.time_reduction)  # type: ignore[no-untyped-call]
        return {"output": _encode_audio(model_of(forward), arguments["hidden_states"], arguments["mask"])}


def _encode_audio(encoder: Any, features: Any, mask: Any) -> Any:
    """Return the hidden states of audio, [batch, sequence, hidden_size]; the mask is additive, as in Transformers."""
    hidden_states, frame_mask = encoder.embed(encoder.encoder_embedding(features), mask)
    bias = frame_mask[:, None].to(hidden_states.dtype) + encoder.relative_attention_bias_layer(hidden_states)
    for layer in encoder.encoders:
        hidden_states = layer(hidden_states, bias)
    return hidden_states


def _embed_placeholders(embed: Any, arguments: Mapping[str, Any], count: int, **named: Any) -> Any:
    """Return the features that Transformers merges into a prompt of placeholder tokens, [count, hidden_size]."""
    import torch

    config = embed.config
    has_images = "image_sizes" in arguments
    token = config.vision_config.image_token_id if has_images else config.audio_config.audio_token_id
    weight = next(embed.parameters())
    inputs_embeds = torch.zeros(1, count, config.hidden_size, dtype=weight.dtype, device=weight.device)
    input_ids = torch.full((1, count), token, device=weight.device)
    return embed(input_ids, inputs_embeds, **arguments, **named)[0]


def _unpadded_shape(mask: Any, grid: Any) -> tuple[Any, Any]:
    """Return the rows and columns of an image's features without padding, [images] each.

    Args:
        mask: true for the features of each crop that aren't padding, [images, crops, rows, columns].
        grid: rows and columns of an image's crops, [images, 2].
    """
    import torch

    crop = torch.arange(mask.shape[1], device=mask.device)[None]
    leftmost = (crop % grid[:, 1:] == 0) & (crop < grid.prod(-1, keepdim=True))
    rows = (mask[..., 0].sum(-1) * leftmost).sum(-1)
    columns = (mask[:, :, 0].sum(-1) * (crop < grid[:, 1:])).sum(-1)
    return rows, columns


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Phi4ImageEncoderOnnxConfig(model.config)


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    _check_chunks(model, model.config.audio_config)
    return Phi4AudioEncoderOnnxConfig(model.config)


def _audio_model(
    model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
) -> OnnxConfig | None:
    _check_chunks(model, model.config)
    return always(Phi4AudioModelOnnxConfig)(model, task, preprocessor, last_logits)


def _check_chunks(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Check that an audio encoder attends to all of its audio.

    Raises:
        UnsupportedError: the encoder attends within chunks.
    """
    if config.chunk_size > 0:
        raise UnsupportedError(
            f"{type(model).__name__} encodes audio in chunks of {config.chunk_size} hidden states (chunk_size in "
            "config.json), which can't be described yet"
        )


def _modality(modality: Modality, config: PreTrainedConfig) -> Modality:
    """Set the maximum audio length that the encoder is exported for."""
    if modality.name != "audio":
        return modality
    return replace(modality, max_length=_MAX_EMBEDDINGS * config.audio_config.time_reduction)


ARCHITECTURES = (
    Architecture(
        ("phi4_multimodal",),
        encoders={"vision_encoder": _vision_encoder, "audio_encoder": _audio_encoder},
        modalities=_modality,
        tiny=Tiny({"audio_config": {"...": 0, "nemo_conv_channels": 32}}),
    ),
    Architecture(("phi4_multimodal_audio",), model=_audio_model, tiny=Tiny({"nemo_conv_channels": 32})),
)
