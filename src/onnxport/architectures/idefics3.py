"""Describe the vision encoder of Idefics3 and SmolVLM, whose images are split into tiles and padded with empty ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class TiledImageEncoderOnnxConfig(OnnxConfig):
    """Describe an encoder of image tiles, some of which are padding."""

    @property
    def inputs(self) -> Axes:
        """Tiles, [batch, tiles, channels, height, width], and their pixel mask, [batch, tiles, height, width]."""
        return {
            "pixel_values": {0: "batch", 1: "num_images", 3: "height", 4: "width"},
            "pixel_attention_mask": {0: "batch", 1: "num_images", 2: "height", 3: "width"},
        }

    @property
    def outputs(self) -> Axes:
        """Features of the tiles that aren't padding, [tiles, placeholder tokens, hidden_size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Preprocessor, *sizes: Any, **named: Any) -> Mapping[str, Any]:
        """Create dummy images of two tiles each, with the configuration's image size."""
        import torch

        side = self._config.vision_config.image_size
        shape = (self.default_batch_size, 2, 3, side, side)
        mask = torch.ones(*shape[:2], side, side, dtype=torch.bool)
        return {"pixel_values": torch.ones(shape), "pixel_attention_mask": mask}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on all tiles, and drop the features of padding tiles."""
        model = model_of(forward).base_model
        tiles, mask = (arguments[name].flatten(0, 1) for name in ("pixel_values", "pixel_attention_mask"))
        side = self._config.vision_config.patch_size
        patches = self.patches_of(mask.unfold(1, side, side).unfold(2, side, side).flatten(3))
        hidden_states = model.vision_model(
            pixel_values=tiles, patch_attention_mask=patches, return_dict=True
        ).last_hidden_state
        valid = (tiles != 0).flatten(1).any(-1)
        return {"image_features": self.connected(model, hidden_states, patches)[valid]}

    def patches_of(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the mask of patches, [tiles, rows, columns]: those with a pixel that isn't padding; a hook.

        Args:
            pixels: the mask of the pixels of each patch, [tiles, rows, columns, pixels].
        """
        return pixels.any(-1)

    def connected(self, model: PreTrainedModel, hidden_states: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Return the features of all tiles; a hook.

        Args:
            model: the base model.
            hidden_states: those of the encoder, [tiles, patches, hidden_size].
            patches: the mask of patches, [tiles, rows, columns].
        """
        features: torch.Tensor = model.connector(hidden_states)
        return features


def _vision_encoder(model: PreTrainedModel, _: Preprocessor) -> OnnxConfig:
    return TiledImageEncoderOnnxConfig(model.config)


ARCHITECTURES = (Architecture(("idefics3", "smolvlm"), encoders={"vision_encoder": _vision_encoder}),)
