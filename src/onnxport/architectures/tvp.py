"""TVP: one video at a time, and fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._tiny import BACKBONE
from onnxport.description.derived import DerivedOnnxConfig


class TvpOnnxConfig(DerivedOnnxConfig):
    """Describe a model that adds position embeddings in the shape of one video."""

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """The inputs, of one video."""
        return {
            name: {axis: label for axis, label in axes.items() if axis > 0} for name, axes in super().inputs.items()
        }

    @property
    def default_batch_size(self) -> int:
        """One video."""
        return 1


ARCHITECTURES = (
    Architecture(
        ("tvp",),
        model=always(TvpOnnxConfig),
        tiny=Tiny(
            fields={"max_img_size": 64, "visual_prompt_size": 8, "num_frames": 4},
            base={"backbone_config": BACKBONE},
        ),
    ),
)
