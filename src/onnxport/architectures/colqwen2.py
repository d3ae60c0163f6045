"""ColQwen2: patches of images of different sizes, padded to the same number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import model_of
from onnxport.description._packed_patch_tracing import PackedPatchTracing
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.image_text_encoder import with_features

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_GRIDS = ((1, 4, 6), (1, 4, 4))
"""Frames, rows and columns of dummy images."""


class ColQwen2OnnxConfig(DerivedOnnxConfig):
    """Describe a retriever of prompts, whose placeholder tokens are replaced by the features of patches.

    Args:
        model: the retriever; it is run once.
        preprocessor: its tokenizer, or a processor that contains it.
        settings: as those of `DerivedOnnxConfig`.
    """

    def __init__(self, model: PreTrainedModel, preprocessor: Preprocessor, *settings: bool) -> None:
        self._tracing = PackedPatchTracing(model)
        super().__init__(model, preprocessor, *settings)

    def fit_inputs(self, inputs: dict[str, torch.Tensor]) -> None:
        """Make images, and begin each prompt with the placeholders of one."""
        import torch

        tokens, vision = inputs["input_ids"], self._config.vlm_config.vision_config
        grids = torch.tensor([_GRIDS[index % len(_GRIDS)] for index in range(len(tokens))])
        patches = grids.prod(-1)
        values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        inputs["pixel_values"] = torch.zeros(len(tokens), int(patches.max()), values)
        inputs["image_grid_thw"] = grids
        features = patches // vision.spatial_merge_size**2
        length = int(features.max())
        first = torch.where(
            torch.arange(length) < features[:, None], self._config.vlm_config.image_token_id, tokens[:, :1]
        )
        inputs["input_ids"] = torch.cat([first, tokens], dim=1)
        inputs["attention_mask"] = torch.cat([torch.ones_like(first), inputs["attention_mask"]], dim=1)

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        images = {"pixel_values": {0: "batch", 1: "patches"}, "image_grid_thw": {0: "batch"}}
        return {**super()._axes_of(inputs), **images}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; during tracing, on embeddings with the features of patches, those of padding last."""
        import torch

        if not torch.compiler.is_exporting():
            return super().run(forward, arguments)
        model, tokens = model_of(forward), arguments["input_ids"]
        patches, grids = self._packed(arguments["pixel_values"], arguments["image_grid_thw"])
        with self._tracing.replaced(grids, patches.shape[0]):
            features = model.vlm.visual(patches, grid_thw=grids, return_dict=True).pooler_output
        embeds = model.vlm.get_input_embeddings()(tokens)
        embeds = with_features(embeds, tokens == self._config.vlm_config.image_token_id, features)
        return super().run(forward, {"inputs_embeds": embeds, "attention_mask": arguments["attention_mask"]})

    def _packed(self, padded: torch.Tensor, grids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the patches of all images, then those of padding as another image, and the grids of all.

        Args:
            padded: patches, [batch, patches, values].
            grids: frames, rows and columns of each image, [batch, 3].
        """
        import torch

        counts, side = grids.prod(-1), self._config.vlm_config.vision_config.spatial_merge_size
        is_padding = torch.arange(padded.shape[1], device=padded.device) >= counts[:, None]
        total = padded.shape[0] * padded.shape[1]
        index = torch.arange(total, device=padded.device)
        order = (index + is_padding.flatten() * total).argsort()
        rest = (is_padding.sum() // side)[None]
        padding = torch.cat([torch.ones_like(rest), torch.full_like(rest, side), rest])
        return padded.flatten(0, 1)[order], torch.cat([grids, padding[None]])


ARCHITECTURES = (Architecture(("colqwen2",), model=always(ColQwen2OnnxConfig)),)
