"""The KV cache of Transformers' `generate`, whose tensors stay in ONNX Runtime from one step to the next."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from transformers import Cache

from onnxport.errors import UnsupportedError
from onnxport.runtime.decoder import Decoder, DecoderCache
from onnxport.runtime.graph import to_array


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

    @property
    def self_attention_cache(self) -> SimpleNamespace:
        """Keys and values of an encoder-decoder's self-attention, as `layers[i].keys` and `.values`."""
        return self._part("decoder")

    @property
    def cross_attention_cache(self) -> SimpleNamespace:
        """Keys and values of an encoder-decoder's cross-attention, as `layers[i].keys` and `.values`."""
        return self._part("encoder")

    def _part(self, name: str) -> SimpleNamespace:
        tensors = {} if self.tensors is None else self.tensors.tensors
        found = {key: value for key, value in tensors.items() if f".{name}." in key}
        arrays = [value if isinstance(value, np.ndarray) else to_array(value) for value in found.values()]
        keys, values = ([torch.from_numpy(array) for array in arrays[start::2]] for start in (0, 1))
        return SimpleNamespace(
            layers=[SimpleNamespace(keys=key, values=value) for key, value in zip(keys, values, strict=True)]
        )

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

    def activate_past_recording(self, recurrent_states_to_keep: int | None = None) -> None:
        """Do nothing: cropping the cache doesn't require recorded states.

        Args:
            recurrent_states_to_keep: what Transformers passes since 5.25.
        """

    def get_recurrent_states_to_keep(self, layer_idx: int | None = None) -> int:
        """Return the number of recorded states, which Transformers asks for since 5.25: none.

        Args:
            layer_idx: ignored.
        """
        return 0

    def __len__(self) -> int:
        return 1
