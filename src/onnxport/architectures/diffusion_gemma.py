"""DiffusionGemma: the mask of a decoder that attends to the cached prompt and to its whole canvas."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from onnxport._transformers_api import cache_argument
from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.description.text_configs import text_config_of
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers import Cache, PreTrainedConfig

    Masks = dict[str, torch.Tensor | None]


def _canvas_tokens(context: InputContext) -> torch.Tensor:
    """Return the token ids of a canvas, [batch, canvas]; a longer one than the prompt."""
    import torch

    return torch.ones(context.batch, context.length + 3, dtype=torch.int64)


def _canvas_mask(context: InputContext) -> torch.Tensor:
    """Return the mask of the prompt and of the canvas, [batch, sequence + canvas]."""
    import torch

    return torch.ones(context.batch, 2 * context.length + 3, dtype=torch.int64)


class DiffusionGemmaOnnxConfig(DerivedOnnxConfig):
    """Describe the encoder of a prompt and the decoder of a canvas as a single graph."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "decoder_input_ids": DummyInput({0: "batch", 1: "decoder_sequence"}, _canvas_tokens),
        "decoder_attention_mask": DummyInput({0: "batch", 1: "sequence + decoder_sequence"}, _canvas_mask),
    }


def _mask_always(original: Callable[..., Masks]) -> Callable[..., Masks]:
    """Make the mask whether or not the prompt has padding; Transformers leaves out one that masks nothing."""

    def masks(
        config: PreTrainedConfig,
        inputs_embeds: torch.Tensor,
        decoder_attention_mask: torch.Tensor | Masks | None = None,
        **caches: Cache,
    ) -> Masks:
        import torch

        if decoder_attention_mask is None or isinstance(decoder_attention_mask, dict):
            return original(config, inputs_embeds, decoder_attention_mask=decoder_attention_mask, **caches)
        cache = cache_argument(caches)
        text, length = text_config_of(config), inputs_embeds.shape[1]
        mask, found = decoder_attention_mask.bool(), {}
        first = mask.shape[1] - length - text.sliding_window + 1  # of the prompt's tokens that a sliding layer caches
        in_window = mask & (torch.arange(mask.shape[1], device=mask.device) >= first)
        for layer_type in set(text.layer_types):
            is_sliding = layer_type == "sliding_attention"
            layer = cache.layers[cache.is_sliding.index(is_sliding)]
            start = mask.shape[1] - length - layer.keys.shape[-2]
            keys = (in_window if is_sliding else mask)[:, start:]
            found[layer_type] = keys[:, None, None].expand(-1, -1, length, -1)
        return found

    return masks


ARCHITECTURES = (
    Architecture(
        ("diffusion_gemma",),
        model=always(DiffusionGemmaOnnxConfig),
        image_processor="Gemma4ImageProcessorPil",
        patches=(
            Patch(
                "transformers.models.diffusion_gemma.modeling_diffusion_gemma:"
                "DiffusionGemmaDecoderModel.create_diffusion_decoder_attention_mask",
                lambda original: staticmethod(_mask_always(original)),
                "whether the mask is needed depends on its values",
                EAGER,
                "Transformers makes the mask while exporting",
            ),
        ),
    ),
)
