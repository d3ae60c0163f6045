"""A video is encoded by the image encoder where the model does so; elsewhere it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import onnxport
from onnxport import ExportOptions
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.videos import encode_videos
from tests.breadth import sampled
from tests.integration.test_multimodal import PLACEHOLDER, checkpoint

VIDEO, FRAMES = 91, 2
SETTINGS = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def prompt_of(name: str) -> dict[str, torch.Tensor]:
    """Return a prompt with a video of two frames, 6 x 4 merged patches each, and an image of 2 x 2, padded on the left.

    GLM's videos have the placeholder token of images, and no image beside them; it and Qwen3-VL have text, such as
    timestamps, between frames.
    """
    torch.manual_seed(0)
    frame = [PLACEHOLDER if name == "GlmOcr" else VIDEO] * 24
    between = [] if name in ("Qwen2VL", "Qwen2_5_VL") else [20, 21]
    images = 4 * (name != "GlmOcr")
    row = [0, 0, 8, 9, *frame, *between, *frame, 10, *[PLACEHOLDER] * images, 11, 12]
    types = [0] * 4 + [2] * 24 + [0] * len(between) + [2] * 24 + [0] + [1] * images + [0, 0]
    video = {
        "pixel_values_videos": torch.randn(FRAMES * 12 * 8, 3 * 2 * 8 * 8),
        "video_grid_thw": torch.tensor([[FRAMES, 12, 8]]),
    }
    image = {"pixel_values": torch.randn(16, 3 * 2 * 8 * 8), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    seconds = {"second_per_grid_ts": torch.tensor([0.5])} if name == "Qwen2_5_VL" else {}
    ids = torch.tensor([row])
    tokens = {"input_ids": ids, "attention_mask": (ids != 0).long(), "mm_token_type_ids": torch.tensor([types]).int()}
    return {**tokens, **video, **(image if images else {}), **seconds}


@pytest.mark.parametrize("name", sampled(("Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "GlmOcr"), ("Qwen2VL",)))
def test_tokens_after_a_video_equal_pytorchs(name: str, tmp_path: Path) -> None:
    model, source = checkpoint(name, tmp_path / "checkpoint")
    model.config.video_token_id = VIDEO
    model.save_pretrained(source)
    task = "image-text-to-text-with-past"
    onnxport.export(source, tmp_path / "out", ExportOptions(task=task, validate="none"))
    ours: Any = onnxport.load(tmp_path / "out", threads=1)
    inputs = prompt_of(name)
    assert torch.equal(ours.generate(**inputs, **SETTINGS), model.generate(**inputs, **SETTINGS))
    if name != "GlmOcr":  # whose beams Transformers 5.23 can't compute after a video
        assert torch.equal(
            ours.generate(**inputs, **SETTINGS, num_beams=2), model.generate(**inputs, **SETTINGS, num_beams=2)
        )
    without_types = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    with pytest.raises(OptionError, match=r"mm_token_type_ids is missing.*2 for those of videos"):
        ours(**without_types)


def test_a_video_that_no_graph_encodes_is_an_error() -> None:
    directory: Any = None
    with pytest.raises(UnsupportedError, match="images, not videos: pass the frames as images"):
        encode_videos(directory, (), None, {"pixel_values_videos": np.ones((1, 2, 3, 32, 32))})
