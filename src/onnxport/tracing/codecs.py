"""Codecs of sounds: what they pad with is a number that follows from a length, not a value that only a run knows."""

from __future__ import annotations

from typing import Any

from onnxport.patching.patch import Patch


def _padded_by_numbers(original: Any) -> Any:
    """Pad a sound by numbers: before it what the kernel reaches, after it what is missing for whole strides."""

    def forward(self: Any, hidden_states: Any, padding_cache: Any = None) -> Any:
        if padding_cache is not None:
            return original(self, hidden_states, padding_cache)
        (size,), (stride,), (dilation,) = (getattr(self.conv, name) for name in ("kernel_size", "stride", "dilation"))
        total = (size - 1) * dilation + 1 - stride
        after = 0 if self.causal else total // 2
        missing = -hidden_states.shape[-1] % stride
        states = self.conv(self._pad1d(hidden_states, (total - after, after + missing), mode=self.pad_mode))
        return self.norm(states) if getattr(self, "norm_type", "") == "time_group_norm" else states

    return forward


def _once(original: Any) -> Any:
    """Go through what is as long as one step without asking how long it is."""

    def steps(*bounds: Any) -> Any:
        whole = len(bounds) == 3 and bounds[1] is bounds[2]
        return (bounds[0],) if whole else original(*bounds)

    return steps


CODECS: tuple[Patch, ...] = (
    *(
        Patch(
            f"transformers.models.{name}.modeling_{name}:{kind}.forward",
            _padded_by_numbers,
            "a padding that is computed with tensors makes the length of a sound depend on values",
            "Transformers computes it with numbers",
        )
        for name, kind in (
            ("encodec", "EncodecConv1d"),
            ("mimi", "MimiConv1d"),
            ("pocket_tts_audio_tokenizer", "PocketTTSAudioTokenizerConv1d"),
        )
    ),
    Patch(
        "transformers.models.encodec.modeling_encodec:range",
        _once,
        "a loop over the chunks of a sound that is one chunk fixes its length",
        "torch.export takes a range of one step",
    ),
)
"""For models that may not be imported."""
