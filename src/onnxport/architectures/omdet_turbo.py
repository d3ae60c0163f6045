"""OmDet-Turbo: the names of classes for each image, which Transformers embeds one by one and caches by their tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._symbolic import symbolic_int
from onnxport.architectures._tiny import THREE_STAGES
from onnxport.configs._base import model_of
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch
    from transformers.models.omdet_turbo.modeling_omdet_turbo import OmDetTurboPreTrainedModel

_CLASS_TOKENS, _TASK_TOKENS = 4, 5
_MASK = "classes_attention_mask"


def _counts(context: InputContext) -> torch.Tensor:
    """Make the number of classes of each image: 2, 3, 2, ..."""
    import torch

    return 2 + torch.arange(context.batch) % 2


def _classes(context: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(1, 1 + _CLASS_TOKENS).expand(int(_counts(context).sum()), -1).clone()


def _tasks(context: InputContext) -> torch.Tensor:
    import torch

    return torch.arange(1, 1 + _TASK_TOKENS).expand(context.batch, -1).clone()


def _task_mask(context: InputContext) -> torch.Tensor:
    import torch

    return torch.ones(context.batch, _TASK_TOKENS, dtype=torch.int64)


class OmDetTurboOnnxConfig(DerivedOnnxConfig):
    """Describe a detector of classes that a text names, with a prompt for each image."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "classes_input_ids": DummyInput({0: "num_classes", 1: "class_sequence"}, _classes),
        "tasks_input_ids": DummyInput({0: "batch", 1: "sequence"}, _tasks),
        "tasks_attention_mask": DummyInput({0: "batch", 1: "sequence"}, _task_mask),
        "classes_structure": DummyInput({0: "batch"}, _counts),
    }

    def run(self, forward: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
        """Run the model without cached embeddings; the mask of the classes is only a part of their key."""
        model = model_of(forward)
        for cache in (model.language_cache_class, model.language_cache_prompt):
            cache.cache.clear()
            cache.current_load = 0  # else the next prompt counts as too many, and one is popped of an empty cache
        mask = arguments["classes_input_ids"].new_ones(arguments["classes_input_ids"].shape)
        return super().run(forward, {**arguments, _MASK: mask})


def _embed_at_once(_: object) -> Callable[..., tuple[torch.Tensor, ...]]:
    def get_language_embedding(
        self: OmDetTurboPreTrainedModel,
        classes_input_ids: torch.Tensor,
        classes_attention_mask: torch.Tensor,
        tasks_input_ids: torch.Tensor,
        tasks_attention_mask: torch.Tensor,
        classes_structure: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Return class features, [most classes, batch, size], task features, [sequence, batch, size], and their mask.

        The original truncates task features to the longest prompt; its decoder masks what it truncates.
        """
        import torch

        backbone: Any = self.language_backbone
        embeddings = backbone(classes_input_ids, encode_type="class")
        index = torch.arange(embeddings.shape[0], device=embeddings.device)
        index = index[(index[:, None] < classes_structure).any(1)]
        starts = classes_structure.cumsum(0) - classes_structure
        source = (starts + index[:, None]).clamp(max=embeddings.shape[0] - 1)
        is_class = index[:, None] < classes_structure
        features = torch.where(is_class[..., None], embeddings[source], 0.0)
        return features, backbone.model(tasks_input_ids)[0].transpose(0, 1), tasks_attention_mask

    return get_language_embedding


def _uncached(original: Any) -> Callable[..., Any]:
    function: Callable[..., Any] = original.__wrapped__
    return function


_TEXT_SIZES = {"text_projection_in_dim": 48, "text_projection_out_dim": 48, "class_embed_dim": 48}
"""Sizes that differ from those of images: a projection between equal sizes is missing."""
ARCHITECTURES = (
    Architecture(
        ("omdet-turbo",),
        model=always(OmDetTurboOnnxConfig),
        patches=(
            Patch(
                "transformers.models.omdet_turbo.modeling_omdet_turbo:int",
                symbolic_int,
                "position embeddings are specialized to the example's size",
                EAGER,
                "Transformers keeps sizes symbolic",
            ),
            Patch(
                "transformers.models.omdet_turbo.modeling_omdet_turbo:OmDetTurboDecoder.generate_anchors",
                _uncached,
                "a cache of anchors by image size, which is symbolic in a trace",
                EAGER,
                "Transformers doesn't cache anchors while it is traced",
            ),
            Patch(
                "transformers.models.omdet_turbo.modeling_omdet_turbo:OmDetTurboPreTrainedModel.get_language_embedding",
                _embed_at_once,
                "a loop over classes and a cache by their token ids specialize the batch size",
                EAGER,
                "Transformers embeds all classes at once",
            ),
        ),
        left_out={_MASK: "part of the key of cached embeddings: the text encoder doesn't read it"},
        tiny=Tiny(
            fields={
                **_TEXT_SIZES,
                "text_config": {"...": 0, "hidden_size": 48, "projection_dim": 48},
                "apply_layernorm_after_vision_backbone": False,  # for backbones whose channels come last
                "encoder_in_channels": [8, 8, 8],
                "vision_features_channels": [32, 32, 32],
            },
            base={
                "use_timm_backbone": False,
                "backbone": None,
                "use_pretrained_backbone": False,
                "backbone_config": THREE_STAGES,
            },
        ),
    ),
)
