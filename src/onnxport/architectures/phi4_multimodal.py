"""Describe the encoders of Phi-4-multimodal, which take what its processor gives, under the names that it gives.

Transformers packs the states picture by picture; here each place finds its state by arithmetic on its number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor

_MAX_ROWS = 500
"""Longest audio, in rows: Transformers cuts longer audio into pieces, in a way that depends on the batch's padding."""


class Phi4ImageEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes pictures that are given whole and in crops."""

    @property
    def inputs(self) -> Axes:
        """Pictures whole and in crops, their sizes as resized, and which patches are a picture's own.

        `image_pixel_values` is [pictures, crops, channels, height, width], `image_sizes` [pictures, 2] (height and
        width), `image_attention_mask` [pictures, crops, rows of patches, columns of patches].
        """
        crops = {0: "batch", 1: "num_crops"}
        return {"image_sizes": {0: "batch"}, "image_pixel_values": crops, "image_attention_mask": crops}

    @property
    def outputs(self) -> Axes:
        """The states of all pictures after each other, [places, size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make pictures of two crops each, upright and lying ones, some of them padded."""
        import torch

        seen = self._config.vision_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        patches = seen.image_size // seen.patch_size
        sizes = torch.tensor([[2, 1], [1, 2]])[torch.arange(count) % 2] * seen.crop_size
        mask = torch.ones(count, 3, patches, patches, dtype=torch.bool)
        mask[::2, 2, patches // 2 :] = False
        pixels = torch.ones(count, 3, seen.num_channels, seen.image_size, seen.image_size)
        return {"image_sizes": sizes, "image_pixel_values": pixels, "image_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder: while it is traced, on all crops, with the places found by arithmetic."""
        import torch

        whole = model_of(forward).model.embed_tokens_extend
        if not torch.compiler.is_exporting():
            return {"image_features": _in_text(whole.image_embed, arguments, self._taken(arguments))}
        said = self._states(whole.image_embed, arguments)
        up = torch.nn.functional.gelu(whole.image_embed.img_projection_up(said))
        return {"image_features": whole.image_embed.img_projection_down(up)}

    def _states(self, embed: Any, arguments: Mapping[str, Any]) -> Any:
        """Return the states of all pictures' places before they are brought to the size of the text's."""
        import torch

        pixels, mask = arguments["image_pixel_values"], arguments["image_attention_mask"].bool()
        states = embed.get_img_features(pixels.flatten(0, 1), attention_mask=mask.flatten(0, 1))
        ends = (embed.sub_img_feature_extensor.flatten(0, 2), embed.global_img_feature_extensor.flatten(0, 1))
        table = torch.cat([states.flatten(0, 1), *ends])
        (images, crops), side = pixels.shape[:2], self._side
        grid = arguments["image_sizes"] // self._config.vision_config.crop_size
        rows, columns = (part[:, None] for part in _own(mask[:, 1:, ::2, ::2], grid))
        number = torch.arange(crops * side * (side + 1) + 1, device=mask.device)[None]
        first = torch.arange(images, device=mask.device)[:, None] * crops * side**2
        row_end = images * crops * side**2
        row, column = number // (columns + 1), number % (columns + 1)
        crop = 1 + row // side * grid[:, 1:] + column // side
        place = first + crop * side**2 + row % side * side + column % side
        place = torch.where(column == columns, row_end, place)
        later = number - rows * (columns + 1)
        row, column = (later - 1) // (side + 1), (later - 1) % (side + 1)
        of_whole = torch.where(column == side, row_end, first + row * side + column)
        place = torch.where(later < 0, place, torch.where(later == 0, row_end + 1, of_whole))
        return table[place[later <= side * (side + 1)]]

    def _taken(self, arguments: Mapping[str, Any]) -> int:
        """Count the places that pictures take."""
        grid = arguments["image_sizes"] // self._config.vision_config.crop_size
        rows, columns = _own(arguments["image_attention_mask"].bool()[:, 1:, ::2, ::2], grid)
        return int((rows * (columns + 1) + 1 + self._side * (self._side + 1)).sum())

    @property
    def _side(self) -> int:
        """Return how many states a crop has in a row: one for two patches."""
        seen = self._config.vision_config
        return int(seen.image_size // seen.patch_size + 1) // 2


class Phi4AudioEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes sounds of different lengths."""

    @property
    def inputs(self) -> Axes:
        """Features, which of their frames are a sound's own, and how many places each sound takes.

        `audio_input_features` is [sounds, frames, values of each], `audio_attention_mask` [sounds, frames],
        `audio_embed_sizes` [sounds].
        """
        frames = {0: "batch", 1: "audio_sequence"}
        return {"audio_embed_sizes": {0: "batch"}, "audio_input_features": frames, "audio_attention_mask": frames}

    @property
    def outputs(self) -> Axes:
        """The states of all sounds after each other, [places, size]: of sounds alone, and of those beside pictures."""
        return {"audio_features": {}, "audio_features_vision_mode": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make sounds, each shorter than the one before."""
        import torch

        heard = self._config.audio_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        frames = heard.time_reduction * 7 - 2
        lengths = frames - torch.arange(count) * 9 % (frames // 2)
        mask = torch.arange(frames)[None] < lengths[:, None]
        sizes = -(-lengths // heard.time_reduction)
        features = torch.ones(count, frames, heard.input_size)
        return {"audio_embed_sizes": sizes, "audio_input_features": features, "audio_attention_mask": mask}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; while it is traced, without what finds out whether a sound is too long."""
        import torch

        whole = model_of(forward).model.embed_tokens_extend.audio_embed
        if not torch.compiler.is_exporting():
            most = -(-arguments["audio_input_features"].shape[1] // self._config.audio_config.time_reduction)
            taken = int(arguments["audio_embed_sizes"].clamp(max=most).sum())
            said = [_in_text(whole, arguments, taken, audio_projection_mode=mode) for mode in ("speech", "vision")]
            return dict(zip(self.outputs, said, strict=True))
        states = _heard(whole.encoder, arguments["audio_input_features"], arguments["audio_attention_mask"])
        own = torch.arange(states.shape[1], device=states.device)[None] < arguments["audio_embed_sizes"][:, None]
        states = states[own]
        alone, beside = whole.up_proj_for_speech(states), whole.up_proj_for_vision_speech(states)
        said = [
            whole.down_proj_for_speech(torch.nn.functional.gelu(alone)),
            whole.down_proj_for_vision_speech(torch.nn.functional.gelu(beside)),
        ]
        return dict(zip(self.outputs, said, strict=True))


def _heard(encoder: Any, features: Any, mask: Any) -> Any:
    """Return what an encoder says of sounds, [sounds, states, size]: the mask adds to attention, as in the original."""
    states, own = encoder.embed(encoder.encoder_embedding(features), mask)
    bias = own[:, None].to(states.dtype) + encoder.relative_attention_bias_layer(states)
    for layer in encoder.encoders:
        states = layer(states, bias)
    return states


def _in_text(embed: Any, arguments: Mapping[str, Any], taken: int, **named: Any) -> Any:
    """Let the original put its states into a text that is all places, and return them, [places, size]."""
    import torch

    config = embed.config
    sees = "image_sizes" in arguments
    token = config.vision_config.image_token_id if sees else config.audio_config.audio_token_id
    weight = next(embed.parameters())
    text = torch.zeros(1, taken, config.hidden_size, dtype=weight.dtype, device=weight.device)
    tokens = torch.full((1, taken), token, device=weight.device)
    return embed(tokens, text, **arguments, **named)[0]


def _own(mask: Any, grid: Any) -> tuple[Any, Any]:
    """Return the rows and columns of states that are a picture's own, [pictures] each.

    Args:
        mask: which states of each crop are, [pictures, crops, rows, columns].
        grid: how many crops a picture has above and beside each other, [pictures, 2].
    """
    import torch

    number = torch.arange(mask.shape[1], device=mask.device)[None]
    leftmost = (number % grid[:, 1:] == 0) & (number < grid.prod(-1, keepdim=True))
    rows = (mask[..., 0].sum(-1) * leftmost).sum(-1)
    columns = (mask[:, :, 0].sum(-1) * (number < grid[:, 1:])).sum(-1)
    return rows, columns


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return Phi4ImageEncoderOnnxConfig(model.config)


def _audio_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    """Describe the audio encoder.

    Raises:
        UnsupportedError: it attends within chunks.
    """
    if model.config.audio_config.chunk_size > 0:
        raise UnsupportedError(
            f"{type(model).__name__} encodes audio in chunks of {model.config.audio_config.chunk_size} hidden states "
            "(chunk_size in config.json), which can't be described yet"
        )
    return Phi4AudioEncoderOnnxConfig(model.config)


def _modality(modality: Modality, config: PreTrainedConfig) -> Modality:
    """Limit the length of audio to what the encoder was exported for."""
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
