"""The positions of packed patches, computed from patch indices; Transformers computes them with loops over images.

Grids are [images, 3]: frames, rows and columns of patches. Patches are packed by image, then by frame; the order within
a frame is row-major, or that of square blocks of `side` rows and columns, row-major within each block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WINDOW_STRIDE = 2**10
"""Upper bound of the number of windows in a row or a column."""


@dataclass(frozen=True)
class PatchPositions:
    """Hold the position of each patch; every tensor is [patches].

    Attributes:
        image: index of the patch's image.
        first_patch: index of the image's first patch.
        frame: index of the patch's frame within its image.
        rows: rows of its image.
        columns: columns of its image.
        index_in_frame: index of the patch within its frame.
    """

    image: Any
    first_patch: Any
    frame: Any
    rows: Any
    columns: Any
    index_in_frame: Any

    @staticmethod
    def of(grids: Any, num_patches: Any) -> PatchPositions:
        """Compute the positions of all patches.

        Args:
            grids: frames, rows and columns of each image.
            num_patches: number of patches of all images.
        """
        import torch

        index = torch.arange(num_patches, device=grids.device)
        counts = grids.prod(-1)
        ends = counts.cumsum(0)
        image = (index[:, None] >= ends[None]).sum(-1)
        _, rows, columns = grids[image].unbind(-1)
        first_patch = (ends - counts)[image]
        index_in_image = index - first_patch
        area = rows * columns
        return PatchPositions(image, first_patch, index_in_image // area, rows, columns, index_in_image % area)

    def row_and_column(self, side: Any) -> tuple[Any, Any]:
        """Return the row and the column of each patch of frames in block order.

        Args:
            side: rows and columns of a block, an integer or a tensor, [patches]; 1 for row-major order.
        """
        block, inner = self.index_in_frame // (side * side), self.index_in_frame % (side * side)
        across = self.columns // side
        return block // across * side + inner // side, block % across * side + inner % side

    def index_of(self, row: Any, column: Any, side: int = 1) -> Any:
        """Return the index of the patch at a row and a column of the same frame, the inverse of `row_and_column`."""
        block = row // side * (self.columns // side) + column // side
        inner = row % side * side + column % side
        return self.first_patch + self.frame * self.rows * self.columns + block * side**2 + inner

    def global_frame(self, grids: Any) -> Any:
        """Return the index of each patch's frame among the frames of all images."""
        return (grids[:, 0].cumsum(0) - grids[:, 0])[self.image] + self.frame

    def block_order(self, side: int) -> Any:
        """Return the indices that sort patches from row-major order to block order."""
        return self.index_of(*self.row_and_column(side))


def windows(grids: Any, num_patches: Any, side: int, window_size: int) -> tuple[Any, Any]:
    """Sort blocks of patches by window.

    Args:
        grids: frames, rows and columns of each image, in patches.
        num_patches: number of patches of all images, in blocks of `side`.
        side: rows and columns of a block.
        window_size: rows and columns of a window, in blocks.

    Returns:
        The order of the blocks, [blocks], and the window index of each patch in that order, [patches].
    """
    blocks = grids // grids.new_tensor([1, side, side])
    count = num_patches // side**2
    positions = PatchPositions.of(blocks, count)
    row, column = positions.row_and_column(1)
    window = (
        positions.global_frame(grids) * _WINDOW_STRIDE + row // window_size
    ) * _WINDOW_STRIDE + column // window_size
    order = (window * count + window.new_ones(count).cumsum(0) - 1).argsort()
    return order, window[order][:, None].expand(-1, side**2).reshape(-1)


def interpolated(positions: PatchPositions, side: int, table: tuple[Any, ...], added: float = 0.0) -> tuple[Any, Any]:
    """Return indices and weights to interpolate a square table of position embeddings, each [patches, taps].

    Args:
        positions: positions of the patches.
        side: rows and columns of a block in the patches' order.
        table: rows (and columns) of the table, and the arguments of Transformers' function after it.
        added: what is added to the rows and columns of an image where its scale is computed.
    """
    from transformers.vision_utils import _interpolation_axis_taps_weights as taps_and_weights

    row, column = positions.row_and_column(side)
    rows, row_weights = taps_and_weights(row, positions.rows + added, *table)
    columns, column_weights = taps_and_weights(column, positions.columns + added, *table)
    indices = rows[:, :, None] * table[0] + columns[:, None]
    return indices.flatten(1), (row_weights[:, :, None] * column_weights[:, None]).flatten(1)


def resize_weights(position: Any, size: Any, count: int) -> Any:
    """Return the weights of linear interpolation with antialiasing along one axis, [positions, count].

    Weights decrease linearly with the distance; if the axis is downsampled, they cover as many entries as one output
    position replaces.

    Args:
        position: output positions, [positions].
        size: length of the resized axis for each position, [positions].
        count: length of the original axis.
    """
    import torch

    ratio = count / size
    centre = (position + 0.5) * ratio - 0.5
    distance = (centre[:, None] - torch.arange(count, device=position.device)).abs()
    weights = (1 - distance / ratio.clamp(min=1)[:, None]).clamp(min=0)
    return weights / weights.sum(-1, keepdim=True)
