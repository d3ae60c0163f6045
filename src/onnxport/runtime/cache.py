"""The KV cache of Transformers' `generate`, whose tensors stay in ONNX Runtime from one step to the next."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Cache

from onnxport.errors import UnsupportedError
from onnxport.runtime.decoder import Decoder, DecoderCache


class OnnxCache(Cache):  # type: ignore[misc]
    """Hold a decoder's cache, with the interface that `generate` uses.

    Args:
        decoder: the decoder.

    Attributes:
        tensors: the cache, None before the first step.
    """

    is_compileable = False

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(layers=[])
        self._decoder = decoder
        self.tensors: DecoderCache | None = None

    def get_or_create(self, batch_size: int) -> DecoderCache:
        """Return the cache; an empty one before the first step."""
        if self.tensors is None:
            self.tensors = self._decoder.empty_cache(batch_size)
        return self.tensors

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of cached tokens."""
        return self.tensors.length if self.tensors is not None else 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Select sequences by their batch index, in this order."""
        if self.tensors is not None:
            self.tensors.reorder(beam_idx.cpu().numpy())

    def crop(self, tokens_to_remove: int) -> None:
        """Remove the last tokens.

        Args:
            tokens_to_remove: number of tokens; its sign is ignored, as in Transformers.

        Raises:
            UnsupportedError: the model has recurrent states, which can't be reverted.
        """
        if not self._decoder.can_crop:
            raise UnsupportedError(
                "the model's recurrent states can't be cropped, which assisted generation requires; generate without "
                "an assistant model"
            )
        if self.tensors is not None and tokens_to_remove:
            self.tensors.crop(abs(tokens_to_remove), self._decoder.sequence_axes)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sequence."""
        if self.tensors is not None:
            self.tensors.reorder(np.repeat(np.arange(self.tensors.batch_size), repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Select sequences by their batch index."""
        self.reorder_cache(indices)

    def activate_past_recording(self) -> None:
        """Do nothing: cropping the cache doesn't require recorded states."""

    def __len__(self) -> int:
        return 1
