"""Models implemented in timm, whose Hub repositories have no model type in `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture, Tiny

_WRAPPER = "timm_wrapper"
_PACKAGES = ("timm", "torchvision")
ARCHITECTURES = (
    Architecture(
        (_WRAPPER,),
        packages=_PACKAGES,
        preprocessors=("AutoImageProcessor",),
        tiny=Tiny({"architecture": "test_resnet"}, image_size=(160, 160)),
    ),
    Architecture(
        ("timm_backbone",),
        packages=_PACKAGES,
        tiny=Tiny({"backbone": "test_resnet"}, base={"backbone": "test_resnet"}, image_size=(160, 160)),
    ),
)
"""A wrapper's image processor settings are in `config.json`."""


def with_model_type(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the model type and class of Transformers' wrapper to a timm configuration.

    Args:
        config: contents of `config.json`.
    """
    if "model_type" in config or not {"architecture", "pretrained_cfg"} <= config.keys():
        return dict(config)
    name = "TimmWrapperForImageClassification" if config.get("num_classes") else "TimmWrapperModel"
    return {**config, "model_type": _WRAPPER, "architectures": [name]}
