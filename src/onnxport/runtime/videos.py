"""Videos of a model that encodes them as images of several frames: with the image encoder's graph."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.modalities import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.encoder_outputs import Modality
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.graph import Graph
    from onnxport.runtime.modalities import EncoderFeatures, Inputs

PIXELS, GRIDS = "pixel_values_videos", "video_grid_thw"
INPUTS = (PIXELS, GRIDS, "second_per_grid_ts", "video_second_per_grid")
"""What processors return for a video: its patches, their frames, rows and columns, and the seconds of a frame."""
_AS_IMAGES = {"pixel_values": PIXELS, "image_grid_thw": GRIDS}
"""Input of the image encoder to the one that it is for videos."""


def encode_videos(
    directory: Directory, modalities: Sequence[Modality], original: PreTrainedModel | None, inputs: Inputs
) -> tuple[EncoderFeatures, ...]:
    """Run the encoder of images on videos.

    Args:
        directory: the exported directory.
        modalities: the modalities in its manifest.
        original: the exported model without weights; None for code of a checkpoint.
        inputs: the model's inputs: `pixel_values_videos` and `video_grid_thw` [videos, 3].

    Raises:
        UnsupportedError: the model encodes videos in another way than images.
        OptionError: `video_grid_thw` is missing.
    """
    image = next((modality for modality in modalities if modality.name == "image"), None)
    owners = () if original is None else (original.base_model, original)
    model = next((owner for owner in owners if hasattr(owner, "get_placeholder_mask")), None)
    if image is None or model is None or not _encodes_as_images(model, directory.graph(image.component)):
        raise UnsupportedError("the exported graphs support images, not videos: pass the frames as images")
    if inputs.get(GRIDS) is None:
        raise OptionError(f"{GRIDS} is missing, which the processor returns beside {PIXELS}: pass both")
    given = {name: inputs[video] for name, video in _AS_IMAGES.items()}
    video = replace(image, name="video", placeholder_token_id=_placeholder_token_id(model))
    return encode(directory, (video,), given)


def _encodes_as_images(model: PreTrainedModel, encoder: Graph) -> bool:
    """Return whether a model's methods encode videos from the same inputs as images, which the graph has."""
    methods = (getattr(model, f"get_{name}_features", None) for name in ("image", "video"))
    images, videos = ([*inspect.signature(method).parameters][:-1] if method else [] for method in methods)
    return images == list(_AS_IMAGES) and videos == list(_AS_IMAGES.values()) and set(images) == set(encoder.inputs)


def _placeholder_token_id(model: PreTrainedModel) -> int:
    """Return the token that a video's embeddings replace: GLM's is that of images."""
    tokens = torch.tensor([[model.config.image_token_id, model.config.video_token_id]])
    _, of_videos = model.get_placeholder_mask(tokens, torch.zeros(1, 2, 1))
    return int(tokens[of_videos[..., 0]][0])


def check_types(inputs: Mapping[str, Any]) -> None:
    """Check the inputs of M-RoPE: those of videos can't be filled in.

    Raises:
        OptionError: `mm_token_type_ids` is missing beside videos.
    """
    if inputs.get(GRIDS) is not None and inputs.get("mm_token_type_ids") is None:
        raise OptionError(
            f"mm_token_type_ids is missing, which the processor returns beside {GRIDS}: pass 1 for the tokens of "
            "images and 2 for those of videos"
        )
