"""VideoMAE: the mask of the patches that its masked autoencoder reconstructs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, always
from onnxport.configs._base import model_of
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task


def _mask(context: InputContext) -> torch.Tensor:
    """Mask every second patch of each video, [batch, patches]."""
    import torch

    config = context.config
    patches = config.num_frames // config.tubelet_size * (config.image_size // config.patch_size) ** 2
    return (torch.arange(patches) % 2 == 1).expand(context.batch, -1).clone()


class MaskedVideosOnnxConfig(DerivedOnnxConfig):
    """Describe a masked autoencoder of videos, each with the same number of masked patches."""

    # SDPA branches on the number of patches that aren't masked, which depends on the mask's values.
    attn_implementation: ClassVar[str | None] = "eager"
    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {"bool_masked_pos": DummyInput({0: "batch"}, _mask)}

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model; its decoder has a configuration of its own."""
        decoder = model_of(forward).decoder.config
        with patching(Replacement(decoder, "_attn_implementation", self.attn_implementation)):
            return super().run(forward, arguments)


def _describe(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig | None:
    if type(model).__name__ != "VideoMAEForPreTraining":  # elsewhere, the mask is for training only
        return None
    return always(MaskedVideosOnnxConfig)(model, task, preprocessor, last_logits)


ARCHITECTURES = (Architecture(("videomae",), model=_describe),)
