"""Emu3: images of any size, and fields of their tiny configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, Tiny

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_VOCABULARY = {f"<|visual token {i:06}|>": 64 + i for i in range(16)}


def _small_image(_: PreTrainedConfig) -> tuple[int, int]:
    """Return a height and width; its processor makes 512 x 512 pixels or more, all of which attend to each other."""
    return 64, 64


ARCHITECTURES = (
    Architecture(
        ("emu3",),
        image_size=_small_image,
        image_processor="ViTImageProcessorPil",
        tiny=Tiny(
            fields={
                "vocabulary_map": {"<image>": 100, "<|extra_200|>": 101, **_VOCABULARY},
                "vq_config": {"...": 0, "codebook_size": 16},
            },
            separate_tasks=("text-generation", "text-encoding"),
        ),
    ),
    Architecture(("emu3_vqgan",), tiny=Tiny(fields={"base_channels": 32, "hidden_size": 128})),
)
