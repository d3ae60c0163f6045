"""Where each patch of images of any size stands: arithmetic on its number, where Transformers loops over images.

Grids are [images, 3]: frames, rows and columns of patches. Patches of all images come after each other, each
image's frame by frame; within a frame row by row, or in square blocks of a `side`, row by row within each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WINDOW_STRIDE = 2**10
"""More than there are windows in a row or a column."""


@dataclass(frozen=True)
class PatchPositions:
    """Hold for each patch what is known of it, [patches] each.

    Attributes:
        image: number of its image.
        first: number of its image's first patch.
        frame: number of its frame within its image.
        rows: rows of its image.
        columns: columns of its image.
        within: its number within its frame.
    """

    image: Any
    first: Any
    frame: Any
    rows: Any
    columns: Any
    within: Any

    @staticmethod
    def of(grids: Any, patches: Any) -> PatchPositions:
        """Find out for all patches.

        Args:
            grids: frames, rows and columns of each image.
            patches: how many there are in all of them.
        """
        import torch

        number = torch.arange(patches, device=grids.device)
        counts = grids.prod(-1)
        ends = counts.cumsum(0)
        image = (number[:, None] >= ends[None]).sum(-1)
        _, rows, columns = grids[image].unbind(-1)
        first = (ends - counts)[image]
        within = number - first
        area = rows * columns
        return PatchPositions(image, first, within // area, rows, columns, within % area)

    def row_and_column(self, side: Any) -> tuple[Any, Any]:
        """Return row and column of each patch, where a frame's patches come in blocks.

        Args:
            side: rows and columns of a block, a number or one for each patch; 1 for patches that come row by row.
        """
        block, inner = self.within // (side * side), self.within % (side * side)
        across = self.columns // side
        return block // across * side + inner // side, block % across * side + inner % side

    def index_of(self, row: Any, column: Any, side: int = 1) -> Any:
        """Return the number of the patch in the same frame at a row and a column; the reverse of `row_and_column`."""
        block = row // side * (self.columns // side) + column // side
        inner = row % side * side + column % side
        return self.first + self.frame * self.rows * self.columns + block * side**2 + inner

    def global_frame(self, grids: Any) -> Any:
        """Return the number of each patch's frame among those of all images."""
        return (grids[:, 0].cumsum(0) - grids[:, 0])[self.image] + self.frame

    def block_order(self, side: int) -> Any:
        """Return where patches that come row by row are, in the order of blocks."""
        return self.index_of(*self.row_and_column(side))


def windows(grids: Any, patches: Any, side: int, span: int) -> tuple[Any, Any]:
    """Sort blocks of patches by the window that they are in.

    Args:
        grids: frames, rows and columns of each image, in patches.
        patches: how many there are in all of them, in blocks of `side`.
        side: rows and columns of a block.
        span: rows and columns of a window, in blocks.

    Returns:
        The order of the blocks, and for each patch in that order the number of its window.
    """
    blocks = grids // grids.new_tensor([1, side, side])
    count = patches // side**2
    places = PatchPositions.of(blocks, count)
    row, column = places.row_and_column(1)
    window = (places.global_frame(grids) * _WINDOW_STRIDE + row // span) * _WINDOW_STRIDE + column // span
    order = (window * count + window.new_ones(count).cumsum(0) - 1).argsort()
    return order, window[order][:, None].expand(-1, side**2).reshape(-1)


def interpolated(places: PatchPositions, side: int, how: tuple[Any, ...]) -> tuple[Any, Any]:
    """Return which entries of a square table of positions make up each patch's, and how much of each.

    Args:
        places: of the patches.
        side: rows and columns of a block, in which the patches come.
        how: rows and columns of the table, and what Transformers' own function takes after them.
    """
    from transformers.vision_utils import _interpolation_axis_taps_weights as taps_and_weights

    row, column = places.row_and_column(side)
    rows, row_weights = taps_and_weights(row, places.rows, *how)
    columns, column_weights = taps_and_weights(column, places.columns, *how)
    indices = rows[:, :, None] * how[0] + columns[:, None]
    return indices.flatten(1), (row_weights[:, :, None] * column_weights[:, None]).flatten(1)


def resize_weights(place: Any, size: Any, count: int) -> Any:
    """Return how much of each entry of a row makes up what is at a place when the row is stretched or shrunk.

    A place takes from the entries around it, the more the nearer; where the row shrinks, from as many as it replaces.

    Args:
        place: places, [places].
        size: how many places the row gets, [places].
        count: how many entries it has.
    """
    import torch

    ratio = count / size
    centre = (place + 0.5) * ratio - 0.5
    distance = (centre[:, None] - torch.arange(count, device=place.device)).abs()
    shares = (1 - distance / ratio.clamp(min=1)[:, None]).clamp(min=0)
    return shares / shares.sum(-1, keepdim=True)
