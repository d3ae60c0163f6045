"""Describe CSM's backbone, which takes a code of each codebook at each position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor


class CsmOnnxConfig(DerivedOnnxConfig):
    """Describe the backbone, which takes codes, or the whole model, which takes token ids.

    Args:
        model: one of both.
        preprocessor: makes token ids.
        use_past: whether the graph has the KV cache as inputs and outputs.
        last_logits: whether the graph returns the logits of the last token only.
        multiple_choice: not supported.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        preprocessor: Preprocessor,
        use_past: bool = False,
        last_logits: bool = False,
        multiple_choice: bool = False,
    ) -> None:
        self._takes_codes = not hasattr(model, "embed_text_tokens")
        super().__init__(model, preprocessor, use_past, last_logits, multiple_choice)

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return a code of each codebook, [batch, sequence, codebooks]; token ids for the whole model."""
        return input_ids[..., None].repeat(1, 1, self._config.num_codebooks) if self._takes_codes else input_ids


ARCHITECTURES = (Architecture(("csm",), model=always(CsmOnnxConfig)),)
