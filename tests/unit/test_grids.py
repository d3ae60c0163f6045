"""Positions of packed patches of images of any size: arithmetic returns the same as Transformers' loops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import vision_utils
from transformers.models.kimi_k25 import modeling_kimi_k25
from transformers.models.lfm2_vl.modeling_lfm2_vl import Lfm2VlMultiModalProjector
from transformers.models.muse_spark import modeling_muse_spark

from onnxport.architectures.lfm2_vl import _join_blocks
from onnxport.description._packed_patch_methods import _pixel_unshuffle
from onnxport.description._packed_patch_tracing import _FUNCTIONS
from onnxport.description._patch_positions import PatchPositions

GRIDS = torch.tensor([[1, 8, 12], [1, 12, 4], [2, 4, 20]])
IMAGES = torch.tensor([[1, 8, 12], [1, 12, 4]])


def count(grids: torch.Tensor) -> int:
    return int(grids.prod(-1).sum())


def replaced(name: str, grids: torch.Tensor, *arguments: object, **named: object) -> object:
    return _FUNCTIONS[name](count(grids))(grids, *arguments, **named)


@pytest.mark.parametrize("side", [1, 2, 4, torch.tensor([1, 2, 4])])
def test_positions(side: int | torch.Tensor) -> None:
    for named in ({}, {"include_temporal": True}):
        theirs = vision_utils.get_vision_position_ids(GRIDS, side, **named)
        assert torch.equal(replaced("get_vision_position_ids", GRIDS, side, **named), theirs)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_interpolation(mode: str, padding: str) -> None:
    name, how = "get_vision_interpolation_indices_and_weights", {"mode": mode, "padding": padding}
    ours = replaced(name, GRIDS, 6, spatial_merge_size=2, **how)
    theirs = getattr(vision_utils, name)(GRIDS, 6, spatial_merge_size=2, **how)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("merge", [False, True])
def test_segment_ids_change_where_a_frame_begins(merge: bool) -> None:
    segment_ids = replaced("get_vision_cu_seqlens", GRIDS, merge)
    assert _begins(segment_ids) == vision_utils.get_vision_cu_seqlens(GRIDS, merge).tolist()


@pytest.mark.parametrize("side", [1, 2])
def test_windows(side: int) -> None:
    order, segment_ids = replaced("get_vision_window_index", GRIDS, side, 16, 2)
    theirs, begins = vision_utils.get_vision_window_index(GRIDS, side, 16, 2)
    assert torch.equal(order, theirs)
    assert _begins(segment_ids) == begins.tolist()


def test_blocks() -> None:
    ours = replaced("get_vision_pixel_shuffle_index", GRIDS, 2)
    assert torch.equal(ours, modeling_muse_spark.get_vision_pixel_shuffle_index(GRIDS, 2))
    ours = replaced("get_vision_temporal_merge_index", IMAGES, 2, 2)
    theirs = modeling_kimi_k25.get_vision_temporal_merge_index(IMAGES, 2, 2)
    torch.testing.assert_close(ours, theirs)


def test_frames() -> None:
    ours = replaced("get_vision_frame_index", GRIDS)
    assert torch.equal(ours, modeling_kimi_k25.get_vision_frame_index(GRIDS))


def test_number_of_is_the_inverse_of_in_blocks() -> None:
    positions = PatchPositions.of(GRIDS, count(GRIDS))
    assert torch.equal(positions.index_of(*positions.row_and_column(2), 2), torch.arange(count(GRIDS)))


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_half_an_image(side: int) -> None:
    grids = torch.tensor([[1, side * 2, side * 3], [1, side, side * 4]])
    states, sides = torch.rand(count(grids), 5), torch.tensor([side, side])
    theirs = unshuffled(states, grids, sides)
    ours = _pixel_unshuffle(None, PatchPositions.of(grids, count(grids)))(states, grids, sides)
    torch.testing.assert_close(ours, theirs)


def unshuffled(states: torch.Tensor, grids: torch.Tensor, sides: torch.Tensor) -> torch.Tensor:
    from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3VisionModel

    return VideoLlama3VisionModel.pixel_unshuffle(None, states, grids, sides)


def _begins(segment_ids: torch.Tensor) -> list[int]:
    """Return the indices at which segment ids change, including the start and the end."""
    changes = (segment_ids[1:] != segment_ids[:-1]).nonzero()[:, 0] + 1
    return [0, *changes.tolist(), len(segment_ids)]


def test_blocks_of_images_are_those_of_the_original() -> None:
    projector: Any = SimpleNamespace(factor=2)
    states, shapes = torch.randn(2, 24, 3), torch.tensor([[4, 6], [6, 2]])
    found, full = _join_blocks(states, shapes, 2)
    for image, (rows, columns) in enumerate(shapes.tolist()):
        grid = states[image, : rows * columns].reshape(1, rows, columns, 3)
        expected = Lfm2VlMultiModalProjector.pixel_unshuffle(projector, grid).flatten(1, 2)[0]
        torch.testing.assert_close(found[image][full[image]], expected)
