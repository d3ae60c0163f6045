"""Methods of vision encoders that loop over images, and their replacements for the trace."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.description._patch_positions import PatchPositions, interpolated, resize_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_Method = Callable[..., Any]


def methods_of(model: PreTrainedModel, grids: Any, num_patches: Any) -> Iterator[tuple[Any, str, _Method]]:
    """Yield the modules of a model with such methods, the name of the method, and its replacement.

    Args:
        model: a Transformers model whose encoder takes grids.
        grids: frames, rows and columns of the encoder's images, [images, 3].
        num_patches: number of patches of all images.
    """
    for module in model.modules():
        for (ending, name, parameter), make in _METHODS.items():
            method = getattr(type(module), name, None)
            if method is None or not re.search(ending + "$", type(module).__name__):
                continue
            if parameter in inspect.signature(method).parameters:
                yield module, name, make(module, PatchPositions.of(grids, num_patches))


def _embeddings_by_image(module: Any, _: PatchPositions) -> _Method:
    """Pass each image's patch count as `lengths`: images have one frame, and the lengths of frames aren't known."""

    def forward(embeddings: Any, lengths: Any, image_shapes: Any, h_coords: Any, w_coords: Any) -> Any:
        return type(module).forward(module, embeddings, image_shapes.prod(-1), image_shapes, h_coords, w_coords)

    return forward


def _duplicated_frames(_: Any, __: PatchPositions) -> _Method:
    """Duplicate the single frame of each image where a video has a pair of frames."""
    import torch

    def slices(hidden_states: Any, grid_thw: Any) -> Any:
        return torch.cat([hidden_states, hidden_states], dim=-1)

    return slices


def _block_projector(module: Any, positions: PatchPositions) -> _Method:
    """Project the patches of all images at once, in block order."""

    def forward(image_features: Any, image_grid_thw: Any) -> Any:
        side = module.merge_kernel_size[0]
        order = positions.block_order(side)
        blocks = module.pre_norm(image_features)[order].reshape(-1, side**2 * image_features.shape[-1])
        return module.linear_2(module.act(module.linear_1(blocks)))

    return forward


def _pixel_unshuffle(_: Any, positions: PatchPositions) -> _Method:
    """Average the four patches at the center of each block, which equals bilinear downsampling of the block to one."""

    def pixel_unshuffle(hidden_states: Any, grid_thw: Any, merge_sizes: Any) -> Any:
        side = merge_sizes[positions.image]
        starts = (positions.index_in_frame % (side * side) == 0).nonzero()[:, 0]
        side = side[starts]
        before, after = (side - 1) // 2, side // 2
        taps = (starts + row * side + column for row in (before, after) for column in (before, after))
        return sum(hidden_states[tap] for tap in taps) / 4

    return pixel_unshuffle


def _short_convolution(module: Any, positions: PatchPositions) -> _Method:
    """Compute the short convolution as a sum over kernel taps, which gather the neighbouring patches by index."""

    def forward(hidden_states: Any, grid_thw: Any, **_: Any) -> Any:
        before, after, states = module.in_proj(hidden_states).chunk(3, dim=-1)
        states = before * states
        side = module.spatial_merge_size
        row, column = positions.row_and_column(side)
        kernel = module.spatial_conv.weight
        reach = kernel.shape[-1] // 2
        total = 0 if module.spatial_conv.bias is None else module.spatial_conv.bias
        for down in range(-reach, reach + 1):
            for right in range(-reach, reach + 1):
                y, x = row + down, column + right
                inside = (y >= 0) & (y < positions.rows) & (x >= 0) & (x < positions.columns)
                tap = positions.index_of(y, x, side).where(inside, 0)
                weight = kernel[:, 0, down + reach, right + reach]
                total = total + states[tap] * inside[:, None] * weight
        return module.out_proj(after * total)

    return forward


def _resized_positions(_: Any, positions: PatchPositions) -> _Method:
    """Resize a table of position embeddings to each image with linear interpolation, antialiased if it is larger."""

    def resize_positional_embeddings(positional_embeddings: Any, grid_thw: Any, spatial_merge_size: int) -> Any:
        row, column = positions.row_and_column(spatial_merge_size)
        down = resize_weights(row, positions.rows, positional_embeddings.shape[0])
        right = resize_weights(column, positions.columns, positional_embeddings.shape[1])
        weights = (down[:, :, None] * right[:, None]).flatten(1)
        return weights.to(positional_embeddings.dtype) @ positional_embeddings.flatten(0, 1)

    return resize_positional_embeddings


def _patch_embedding(module: Any, positions: PatchPositions, added: float = 0.0) -> _Method:
    """Add interpolated position embeddings to the patch embeddings of all images at once."""

    def forward(pixel_values: Any, grid_thw: Any) -> Any:
        side, mode = module.position_edge, module.config.interpolate_mode
        images = pixel_values.reshape(-1, module.config.num_channels, module.patch_size, module.patch_size)
        embeddings = module.patch_embedding(images).flatten(1)
        indices, weights = interpolated(positions, 1, (side, mode, False, "border"), added)
        table = module.position_embedding.weight[1:]
        return (embeddings + (table[indices] * weights[:, :, None]).sum(1).to(embeddings.dtype))[None]

    return forward


def _patch_merger(module: Any, positions: PatchPositions) -> _Method:
    """Merge blocks of patches; add a newline embedding to each row of blocks, and begin and end embeddings to images.

    The embeddings of all images are computed at once, then sorted by their output index.
    """
    import torch

    def forward(hidden_states: Any, size: Any) -> Any:
        side, blocks = module.spatial_merge_size, module.mlp(_projected_blocks(module, positions, hidden_states))
        row, column = (index[:: side**2] // side for index in positions.row_and_column(side))
        image, across, down = (tensor[:: side**2] for tensor in (positions.image, positions.columns, positions.rows))
        across, down = across // side, down // side
        first, last = (column == 0) & (row == 0), (column == across - 1) & (row == down - 1)
        ends = (column == across - 1).nonzero()[:, 0]
        starts = positions.first_patch[:: side**2] // side**2 + 2 * image
        starts = starts + _preceding_rows(down, first)
        index = starts + 1 + row * (across + 1) + column
        begins, closes = first.nonzero()[:, 0], last.nonzero()[:, 0]
        markers = [module.mlp(module.image_newline), module.image_begin, module.image_end]
        blocks_with = [ends, begins, closes]
        repeated = (marker.expand(at.shape[0], -1) for marker, at in zip(markers, blocks_with, strict=True))
        states = torch.cat([blocks, *repeated])
        order = torch.cat([index, index[ends] + 1, index[begins] - 1, index[closes] + 2]).argsort()
        return module.after_rms(states[order][None])

    return forward


def _newline_merger(module: Any, positions: PatchPositions) -> _Method:
    """Merge blocks of patches of all images at once, and add a newline embedding to each row of blocks."""
    import torch

    def forward(hidden_states: Any, size: Any) -> Any:
        side, blocks = module.spatial_merge_size, _projected_blocks(module, positions, hidden_states)
        column = positions.row_and_column(side)[1][:: side**2] // side
        ends = column == positions.columns[:: side**2] // side - 1
        index = torch.arange(ends.shape[0], device=ends.device) + ends.long().cumsum(0) - ends.long()
        rows = ends.nonzero()[:, 0]
        newlines = module.image_newline.expand(rows.shape[0], -1)
        order = torch.cat([index, index[rows] + 1]).argsort()
        return torch.cat([blocks, newlines])[order][None]

    return forward


def _projected_blocks(module: Any, positions: PatchPositions, hidden_states: Any) -> Any:
    """Return the projections of the blocks of patches that a merger merges, [blocks, size]."""
    side = module.spatial_merge_size
    states = module.before_rms(hidden_states)[0][positions.block_order(side)]
    images = states.unflatten(0, (-1, side, side)).permute(0, 3, 1, 2)
    return module.proj_out(module.proj_act(module.proj_conv(images))).flatten(1)


def _preceding_rows(down: Any, first: Any) -> Any:
    """Return for each block the number of rows of blocks in the preceding images."""
    return (down * first).cumsum(0) - down


def _repeated_merger(module: Any, _: PatchPositions) -> _Method:
    """Apply each merger layer to the blocks of patches of all images at once."""
    import torch

    def forward(hidden_states: Any, target_sizes: Any) -> list[Any]:
        side = module.merge_kernel_size[0]
        grids, states = torch.nn.functional.pad(target_sizes, (1, 0), value=1), hidden_states[0]
        for layer in module.mlp:
            order = PatchPositions.of(grids, states.shape[0]).block_order(side)
            states = layer(states[order].reshape(-1, side**2 * states.shape[-1]))
            grids = grids // grids.new_tensor([1, side, side])
        return [states]

    return forward


def _prefixed_patches(module: Any, positions: PatchPositions) -> _Method:
    """Embed the patches of all images; their class tokens and registers precede all of them, in RADIO each image.

    A table of positions is resized to the square around an image: to its longer side in both directions.
    """
    import torch

    def embed(pixel_values: Any, image_grid_hw: Any) -> Any:
        row, column = positions.row_and_column(1)
        most = torch.maximum(positions.rows, positions.columns)
        square = replace(positions, rows=most, columns=most, index_in_frame=row * most + column)
        indices, weights = interpolated(square, 1, (module.max_rows, "bilinear", False, "border"))
        embeddings = module.patch_projection(pixel_values)
        added = (module.position_embedding[0][indices] * weights[:, :, None]).sum(1)
        prefix = module.cls_register_token.expand(image_grid_hw.shape[0], -1, -1).flatten(0, 1)
        return torch.cat([prefix, embeddings + added.to(embeddings.dtype)])[None]

    return embed


def _packed_encoder(module: Any, positions: PatchPositions) -> _Method:
    """Run RADIO on the patches of all images, which attend to each other and to the prefix of their image."""
    import torch

    def forward(pixel_values: Any, image_grid_hw: Any, **_: Any) -> Any:
        side, count, images = module.config.patch_size, module.config.num_summary_tokens, image_grid_hw.shape[0]
        patches = module.input_conditioner(pixel_values.reshape(-1, module.config.num_channels, side, side))
        states = module.embeddings(patches.flatten(1), image_grid_hw)
        prefix = torch.arange(images, device=states.device)[:, None].expand(-1, count).flatten()
        states = module.encoder(states, cu_seqlens=torch.cat([prefix, positions.image])).last_hidden_state[0]
        summary = states[: images * count].unflatten(0, (images, count))[:, module.summary_idxs].flatten(1)
        output_class = vars(sys.modules[type(module).__module__])["RadioModelOutput"]
        return output_class(summary=summary, features=states[images * count :], last_hidden_state=states[None])

    return forward


def _with_class_tokens(module: Any, positions: PatchPositions) -> _Method:
    """Run the encoder of LLaVA-OneVision 1.5; class tokens precede all patches, in the original those of each frame.

    Images have one frame. Each class token attends to the patches of its image, and they to it.
    """
    import torch
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def forward(pixel_values: Any, grid_thw: Any, **_: Any) -> Any:
        states, images, tokens = module.patch_embed(pixel_values), grid_thw.shape[0], module.cls_embeddings
        row_and_column = torch.stack(positions.row_and_column(module.spatial_merge_size), dim=-1)
        cos, sin = module.rotary_pos_emb(states, row_and_column)
        angles = torch.cat([tokens.class_pos_emb, tokens.class_pos_emb], dim=-1)
        first = (tokens.class_embedding[None], angles.cos(), angles.sin())
        states, cos, sin = (
            torch.cat([token.to(of_patches.dtype).expand(images, -1), of_patches])
            for token, of_patches in zip(first, (states, cos, sin), strict=True)
        )
        segments = torch.cat([torch.arange(images, device=states.device), positions.image])
        states = module.pre_layernorm(states)
        for block in module.blocks:
            states = block(states, segments, position_embeddings=(cos, sin), max_seqlen=1)
        states = states[images:]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=module.merger(states))

    return forward


def _shuffled_features(module: Any, positions: PatchPositions) -> _Method:
    """Project the blocks of patches of all images at once, which Nemotron-H Omni shuffles image by image."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    side = round(1 / module.config.downsample_ratio)

    def get_image_features(pixel_values: Any, image_grid_hw: Any, **_: Any) -> Any:
        features = module.vision_model(pixel_values, image_grid_hw=image_grid_hw).features
        if module.vision_final_layernorm is not None:
            features = module.vision_final_layernorm(features)
        blocks = features[positions.block_order(side)].reshape(-1, side**2 * features.shape[-1])
        return BaseModelOutputWithPooling(pooler_output=module.multi_modal_projector(blocks))

    return get_image_features


_METHODS: dict[tuple[str, str, str], Callable[[Any, PatchPositions], _Method]] = {
    ("VisionEmbeddings", "forward", "lengths"): _embeddings_by_image,  # GLM-4V and after
    ("ResamplerModel", "_temporal_slicing", "grid_thw"): _duplicated_frames,  # Ernie 4.5
    ("Projector", "forward", "image_grid_thw"): _block_projector,  # PaddleOCR
    ("VisionModel", "pixel_unshuffle", "merge_sizes"): _pixel_unshuffle,  # VideoLLaMA 3
    ("VisionEmbeddings", "resize_positional_embeddings", "grid_thw"): _resized_positions,  # Cosmos 3 Edge
    ("HunYuanVLVisionPatchEmbed", "forward", "grid_thw"): _patch_embedding,
    ("HYV4VLVisionPatchEmbed", "forward", "grid_thw"): partial(_patch_embedding, added=0.1),
    ("HunYuanVLVisionPatchMerger", "forward", "size"): _patch_merger,
    ("HYV4VLVisionPatchMerger", "forward", "size"): _newline_merger,
    ("(?<!Attention)Merger", "forward", "target_sizes"): _repeated_merger,  # MiniCPM
    ("VisionShortConv", "forward", "grid_thw"): _short_convolution,  # LFM 3
    ("^Radio.*", "_embed_packed_patches", "image_grid_hw"): _prefixed_patches,
    ("^RadioModel", "_forward_packed", "image_grid_hw"): _packed_encoder,
    ("^LlavaOnevision15VisionModel", "forward", "grid_thw"): _with_class_tokens,
    ("^NemotronH_Omni_.*", "get_image_features", "image_grid_hw"): _shuffled_features,
}
"""Suffix of a class name, name of a method, and one of its parameters, to the factory of the method's replacement."""
