"""Run the layers of SEANet, EnCodec's encoder and decoder, and their copies in Mimi, Pocket TTS and WavTokenizer.

Transformers 5.23 computes the padding of convolutions with tensors (`extra_padding = ideal_length - length`), which
makes the length of the padded audio data-dependent. The input length alone determines it. It also branches on whether
there are fewer samples than the padding that reflects them, which would be the least length of the audio in a graph.
The LSTM would have the number of frames that it was captured with.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.description.lstm import scan_lstm
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.cache_utils import Cache
    from transformers.models.encodec.modeling_encodec import EncodecConv1d, EncodecLSTM
    from transformers.models.mimi.modeling_mimi import MimiConv1d


def seanet_patches(module: str) -> tuple[Patch, ...]:
    """Return patches of the convolutions in a modeling file, and of its LSTM.

    Args:
        module: name of an imported module.
    """
    classes = vars(sys.modules[module]).items()
    convolutions = [name for name, value in classes if all(hasattr(value, one) for one in _METHODS)]
    padding = (
        Patch(
            f"{module}:{name}.forward",
            _pad_by_sizes,
            "the padding is computed with tensors, so that the padded length is data-dependent",
            EAGER,
            "Transformers computes the padding from sizes",
        )
        for name in convolutions
    )
    recurrence = (
        Patch(
            f"{module}:{name}.forward",
            _scanned,
            "a captured LSTM has one number of frames",
            EAGER,
            "torch.export captures nn.LSTM with a symbolic length",
        )
        for name, _ in classes
        if convolutions and name.endswith("LSTM")
    )
    return (*padding, *recurrence)


_METHODS = ("_get_extra_padding_for_conv1d", "_pad1d")
"""Methods of such a convolution."""


def _scanned(_: object) -> Callable[[EncodecLSTM, torch.Tensor], torch.Tensor]:
    """Run the layers of an LSTM on [batch, channels, frames], and add its inputs."""

    def forward(self: EncodecLSTM, hidden_states: torch.Tensor) -> torch.Tensor:
        inputs = states = hidden_states.permute(2, 0, 1)
        for layer in range(self.lstm.num_layers):
            states = scan_lstm(self.lstm, states, f"l{layer}")
        return (states + inputs).permute(1, 2, 0)

    return forward


def _pad_by_sizes(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute the padding from sizes: the kernel's extent on the left, and up to a stride multiple on the right."""

    def forward(
        self: EncodecConv1d | MimiConv1d, hidden_states: torch.Tensor, padding_cache: Cache | None = None
    ) -> torch.Tensor:
        if padding_cache is not None:
            return original(self, hidden_states, padding_cache)
        (size,), (stride,), (dilation,) = (getattr(self.conv, name) for name in ("kernel_size", "stride", "dilation"))
        total = (size - 1) * dilation + 1 - stride
        right = 0 if self.causal else total // 2
        extra = -hidden_states.shape[-1] % stride
        sizes, reflects = (total - right, right + extra), self.pad_mode == "reflect"
        padded = _reflected(hidden_states, sizes) if reflects else self._pad1d(hidden_states, sizes, mode=self.pad_mode)
        outputs = self.conv(padded)
        return self.norm(outputs) if getattr(self, "norm_type", "") == "time_group_norm" else outputs

    return forward


def _reflected(hidden_states: torch.Tensor, sizes: tuple[int, int]) -> torch.Tensor:
    """Pad samples with their reflection; if they are too few, zeros follow them before, as in the original.

    A tensor as long as the padding would be captured for a padding of 0, of 1, or of more samples.
    """
    import torch

    (left, right), length = sizes, hidden_states.shape[-1]
    largest = torch.sym_max(left, right)  # type: ignore[no-untyped-call]
    last = torch.sym_max(length, largest + 1) - 1  # type: ignore[no-untyped-call]
    extended = torch.nn.functional.pad(hidden_states, (0, largest))
    positions = (torch.arange(left + length + right, device=hidden_states.device) - left).abs()
    return extended.index_select(-1, last - (last - positions).abs())
