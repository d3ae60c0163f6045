"""Muse: fields of their tiny configurations, and the drafter's attention, which has no mask."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._unmasked import UnmaskedOnnxConfig, no_mask_without_padding
from onnxport.patching.patch import EAGER, Patch

_MASKS = ("create_bidirectional_mask", "create_bidirectional_sliding_window_mask")

ARCHITECTURES = (
    Architecture(("muse_glimmer", "muse_spark"), tiny=Tiny(fields={"out_hidden_size": 128})),
    Architecture(
        ("muse_glimmer_assistant",),
        model=always(UnmaskedOnnxConfig),
        left_out={"attention_mask": "without a cache, Transformers makes a mask that lacks the context"},
        patches=tuple(
            Patch(
                f"transformers.models.muse_glimmer_assistant.modeling_muse_glimmer_assistant:{name}",
                no_mask_without_padding,
                "the mask that is made while exporting lacks the keys of the context",
                EAGER,
                "Transformers makes a mask for the context and the noise",
            )
            for name in _MASKS
        ),
    ),
)
