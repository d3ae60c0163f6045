"""What onnxruntime-genai's configuration says about vision models, and its operations on an image file.

Its type decides how a prompt with images is processed: `qwen2_5_vl` replaces `<|vision_start|>` by as many placeholders
as the image has patches after merging, and counts positions by M-RoPE, as Qwen2-VL does, too; `gemma3` replaces
`<start_of_image>` by 256 placeholders; `mistral3` replaces `[IMG]` by rows of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from onnxport.bundles.manifest import ComponentDescription
from onnxport.layouts._layout import Exported, Settings
from onnxport.layouts._wide_embeddings import FEATURES

PROCESSOR = "image_processor_config.json"
"""File with the operations on an image; `processor_config.json`, genai's default, is the name of Transformers' file."""
_GEMMA3_TOKENS = 256
_TOKEN_IDS = ("video_token_id", "vision_start_token_id")
_SIZES = ("spatial_merge_size", "patch_size", "tokens_per_second")
_INTERPOLATIONS = {0: "NEAREST", 1: "LANCZOS", 2: "LINEAR", 3: "CUBIC"}
"""Numbers of `PIL.Image.Resampling`, and the names of onnxruntime-extensions."""


@dataclass(frozen=True)
class VisionType:
    """Describe what genai knows about a type of vision model.

    Attributes:
        name: its type in genai.
        operations: returns the operations after decoding, from the settings of an image processor and `config.json`. It
            raises AttributeError, KeyError or TypeError for those of another one.
    """

    name: str
    operations: Callable[[Settings, Settings], Iterator[dict[str, Any]]]


def _patches(settings: Settings, config: Settings) -> Iterator[dict[str, Any]]:
    """Resize to a multiple of merged patches, and cut into patches; see Transformers' `Qwen2VLImageProcessor`."""
    sizes = {name: settings[name] for name in ("patch_size", "merge_size")}
    size = settings.get("size") or {}
    limits = {
        "min_pixels": settings.get("min_pixels") or size["shortest_edge"],
        "max_pixels": settings.get("max_pixels") or size["longest_edge"],
    }
    yield _operation("Resize", smart_resize=1, **limits, **sizes, **_interpolation(settings))
    yield from _normalized(settings)
    yield _operation("PatchImage", temporal_patch_size=settings["temporal_patch_size"], **sizes)


def _fixed_size(settings: Settings, config: Settings) -> Iterator[dict[str, Any]]:
    """Resize to one size; see Transformers' `Gemma3ImageProcessor`."""
    size = {name: settings["size"][name] for name in ("height", "width")}
    yield _operation("Resize", **size, keep_aspect_ratio=0, **_interpolation(settings))
    yield from _normalized(settings)
    yield _operation("Permute3D", dims=[2, 0, 1])


def _whole_patches(settings: Settings, config: Settings) -> Iterator[dict[str, Any]]:
    """Resize to a multiple of merged patches; Transformers' `PixtralImageProcessor` rounds up, genai to the nearest."""
    sizes = {"patch_size": config["vision_config"]["patch_size"], "merge_size": config.get("spatial_merge_size", 1)}
    limits = {"min_pixels": math.prod(sizes.values()) ** 2, "max_pixels": settings["size"]["longest_edge"] ** 2}
    yield _operation("Resize", smart_resize=1, **limits, **sizes, **_interpolation(settings))
    yield from _normalized(settings)
    yield _operation("Permute3D", dims=[2, 0, 1])
    yield _operation("PixtralImageSizes")


def _normalized(settings: Settings) -> Iterator[dict[str, Any]]:
    yield _operation("Rescale", rescale_factor=settings.get("rescale_factor", 1 / 255))
    yield _operation("Normalize", mean=settings["image_mean"], std=settings["image_std"])


def _interpolation(settings: Settings) -> dict[str, str]:
    return {"interpolation": _INTERPOLATIONS.get(settings.get("resample", 3), "CUBIC")}


def _operation(name: str, **attributes: Any) -> dict[str, Any]:
    return {"operation": {"name": name.lower(), "type": name, **({"attrs": attributes} if attributes else {})}}


_QWEN = VisionType("qwen2_5_vl", _patches)
VISION_TYPES = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": VisionType("qwen3_vl", _patches),
    "gemma3": VisionType("gemma3", _fixed_size),
    "mistral3": VisionType("mistral3", _whole_patches),
}
"""Model type to what genai knows about it."""


def vision_settings(
    vision: ComponentDescription, embedding: ComponentDescription, exported: Exported
) -> dict[str, Any]:
    """Return the part of `genai_config.json` that describes the graphs beside the decoder, and the ids of tokens.

    Args:
        vision: the vision encoder.
        embedding: the graph of the token embeddings, before it merges features.
        exported: the export.
    """
    config, vision_config = exported.config, exported.config.get("vision_config") or {}
    return {
        **{name: config[name] for name in _TOKEN_IDS if name in config},
        "image_token_id": image_token_id(config),
        "embedding": {
            "filename": embedding.file,
            "inputs": {"input_ids": "input_ids", "image_features": FEATURES},
            "outputs": {"inputs_embeds": embedding.outputs[0].name},
        },
        "vision": {
            "filename": vision.file,
            "config_filename": PROCESSOR,
            **{name: part[name] for part in (config, vision_config) for name in _SIZES if name in part},
            "inputs": {value.name: value.name for value in vision.inputs},
            "outputs": {"image_features": FEATURES},
        },
    }


def image_token_id(config: Settings) -> int:
    """Return the id of the placeholder token of an image, from `config.json`."""
    return int(config["image_token_id"] if "image_token_id" in config else config["image_token_index"])


def image_processor(exported: Exported) -> dict[str, str]:
    """Return the file with the operations on an image; none for a checkpoint without settings for them."""
    nested = exported.read("processor_config.json").get("image_processor")
    settings = exported.read("preprocessor_config.json") or nested or {}
    try:
        operations = list(VISION_TYPES[exported.model_type].operations(settings, exported.config))
    except (AttributeError, KeyError, TypeError):  # another image processor
        return {}
    decoded = _operation("DecodeImage", color_space="RGB")
    content = {"processor": {"name": "image_processing", "transforms": [decoded, *operations]}}
    return {PROCESSOR: json.dumps(content, indent=2) + "\n"}


def vision_warnings(exported: Exported) -> Iterator[str]:
    """Yield what genai's processing of prompts doesn't know about a model."""
    tokens = exported.config.get("mm_tokens_per_image")
    if tokens not in (None, _GEMMA3_TOKENS):
        yield f"genai's processor makes {_GEMMA3_TOKENS} tokens of an image, and the model takes {tokens} of them"
    if exported.model_type == "mistral3":
        yield "genai's processor resizes an image to the nearest multiple of its patches, and Transformers rounds up"
