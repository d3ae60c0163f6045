"""Describe the graphs of Qwen2-VL and what came after it, whose pictures are of any size: patches, and grids.

Transformers finds where each patch stands with Python loops over the grids. Here the same is arithmetic on the
number of each patch, and attention within frames and windows is attention with a mask, so that one graph does for all
grids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.configs.multimodal import StatesOnnxConfig

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe", "glm_ocr")
_BLOCKS = ((4, 6), (6, 4))
"""Heights and widths of example pictures, in merged patches: they fill more than one window, and as many patches."""


def is_deep(config: Any) -> bool:
    """Say whether states of some of the encoder's layers go into the decoder's first layers."""
    return bool(getattr(config.vision_config, "deepstack_visual_indexes", None))


class GridOnnxConfig(OnnxConfig):
    """Describe what encodes pictures that are given as patches.

    The mask takes memory that grows with the square of the patches.

    Args:
        model: the whole model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model.config, task="default")
        self._attention = type(model.model.visual.blocks[0].attn).forward  # the engine's own wants equal pictures

    @property
    def inputs(self) -> Axes:
        """Grids, [pictures, 3] (frames, rows and columns of patches), and patches, [all patches, values of each]."""
        return {"image_grid_thw": {0: "batch"}, "pixel_values": {0: "batch"}}

    @property
    def outputs(self) -> Axes:
        """The states of all pictures after each other, [places, size]."""
        return {"image_features": {}}

    def generate_dummy_inputs(self, preprocessor: Any, batch_size: int = -1, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make pictures, upright and lying ones."""
        import torch

        seen = self._config.vision_config
        count = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        side = seen.spatial_merge_size
        grids = [(1, high * side, wide * side) for high, wide in (_BLOCKS[i % len(_BLOCKS)] for i in range(count))]
        patches = sum(high * wide for _, high, wide in grids)
        size = seen.in_channels * seen.temporal_patch_size * seen.patch_size**2
        return {"image_grid_thw": torch.tensor(grids), "pixel_values": torch.zeros(patches, size)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder: while it is traced, with what it would find by loops."""
        import torch

        model = model_of(forward)
        pixels, grids = arguments["pixel_values"], arguments["image_grid_thw"]
        if not torch.compiler.is_exporting():
            return self._named(model.get_image_features(pixels, grids, return_dict=True))
        visual = model.model.visual
        with self._attending(visual):
            places = _places(visual.config, grids, pixels.shape[0])
            return self._named(visual(pixels, grid_thw=grids, return_dict=True, **places))

    def _named(self, said: Any) -> dict[str, Any]:
        """Return the outputs by name."""
        return {"image_features": _joined(said.pooler_output)}

    @contextmanager
    def _attending(self, visual: Any) -> Iterator[None]:
        """Let an encoder attend as `_attend` does inside the block."""
        old = visual.config._attn_implementation
        visual.config._attn_implementation = _register()
        for block in visual.blocks:
            block.attn.forward = self._attention.__get__(block.attn)
        try:
            yield
        finally:
            visual.config._attn_implementation = old
            for block in visual.blocks:
                del block.attn.forward


class DeepGridOnnxConfig(GridOnnxConfig):
    """Describe the encoder of Qwen3-VL: what it says after some of its layers goes into the decoder's first layers."""

    @property
    def outputs(self) -> Axes:
        """The states, and those of the layers whose numbers the configuration lists, [such layers, places, size]."""
        return {**super().outputs, "deepstack_features": {}}

    def _named(self, said: Any) -> dict[str, Any]:
        import torch

        deep = torch.stack([_joined(states) for states in said.deepstack_features])
        return {**super()._named(said), "deepstack_features": deep}


class GridStatesOnnxConfig(StatesOnnxConfig):
    """Describe a decoder whose tokens have three positions each: in time, in height, in width."""

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """As of any decoder that takes states, but for `position_ids` [3, batch, tokens]."""
        return {**super().inputs, "position_ids": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make states of a text, and positions that differ."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        made["position_ids"] = torch.stack([made["position_ids"] + more for more in range(3)])
        return made


class DeepStatesOnnxConfig(GridStatesOnnxConfig):
    """Describe the decoder of Qwen3-VL, whose first layers each are given states of the pictures to add."""

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """As of any such decoder, and `deepstack_embeds` [first layers, batch, tokens, size], zero for a text."""
        return {**super().inputs, "deepstack_embeds": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make what the decoder takes, with something to add."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        count = len(self._config.vision_config.deepstack_visual_indexes)
        noise = torch.Generator().manual_seed(0)
        made["deepstack_embeds"] = torch.randn(count, *made["inputs_embeds"].shape, generator=noise)
        return made

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder, which adds states at places that a mask chooses: here, at all places."""
        text = model_of(forward).model.language_model
        given = dict(arguments)
        deep = given.pop("deepstack_embeds")

        def hand_on(_: Any, taken: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return taken, {**named, "deepstack_visual_embeds": list(deep)}

        handle = text.register_forward_pre_hook(hand_on, with_kwargs=True)
        text._deepstack_process = lambda states, _, more: states + more
        try:
            return super().run(forward, given)
        finally:
            handle.remove()
            del text._deepstack_process


def _joined(states: Any) -> Any:
    """Return the states of all pictures, [places, size]: the whole model splits them by picture."""
    import torch

    return states if isinstance(states, torch.Tensor) else torch.cat(tuple(states))


def _places(seen: Any, grids: Any, patches: int) -> dict[str, Any]:
    """Return where each patch stands, and the numbers of the frame and the window that it belongs to.

    Args:
        seen: configuration of the encoder.
        grids: frames, rows and columns of each picture, [pictures, 3].
        patches: patches of all of them. Each picture's come frame by frame, within it in blocks of `spatial_merge_size`
            squared, row by row.

    Returns:
        Arguments of the encoder. Lengths of frames and windows are replaced by a number for each patch, as
        `_attend` takes them; windows keep their patches in order, so that `window_index` changes nothing.
    """
    import torch

    side = seen.spatial_merge_size
    number = torch.arange(patches, device=grids.device)
    counts = grids.prod(-1)
    ends = counts.cumsum(0)
    picture = (number[:, None] >= ends[None]).sum(-1)
    frames, rows, columns = grids[picture].unbind(-1)
    within = number - (ends - counts)[picture]
    frame = (grids[:, 0].cumsum(0)[picture] - frames) + within // (rows * columns)
    block, inner = within % (rows * columns) // side**2, within % side**2
    row, column = block // (columns // side), block % (columns // side)
    places = torch.stack([row * side + inner // side, column * side + inner % side], dim=-1)
    found = {"position_ids": places, "cu_seqlens": frame, "max_seqlen": 1}
    if hasattr(seen, "num_position_embeddings"):
        side = int(seen.num_position_embeddings**0.5)
        found |= _interpolated(places, torch.stack([rows, columns], dim=-1), side)
    if hasattr(seen, "window_size"):
        span = seen.window_size // side // seen.patch_size
        window = (frame * _FAR + row // span) * _FAR + column // span
        index = torch.arange(patches // side**2, device=grids.device)
        found |= {"cu_window_seqlens": window, "max_window_seqlen": 1, "window_index": index}
    return found


def _interpolated(places: Any, shapes: Any, side: int) -> dict[str, Any]:
    """Return which entries of a square table of positions make up each patch's, and how much of each.

    The table is stretched over the picture so that their corners meet (bilinear interpolation, corners aligned).

    Args:
        places: row and column of each patch, [patches, 2].
        shapes: rows and columns of its picture, [patches, 2].
        side: rows and columns of the table.
    """
    import torch

    exact = places.float() * (side - 1) / (shapes - 1).clamp(min=1)
    before = exact.floor()
    after_share = exact - before
    taps = torch.stack([before.long(), (before.long() + 1).clamp(max=side - 1)], dim=-1)
    shares = torch.stack([1 - after_share, after_share], dim=-1)
    indices = taps[:, 0, :, None] * side + taps[:, 1, None, :]
    weights = shares[:, 0, :, None] * shares[:, 1, None, :]
    return {"interp_indices": indices.flatten(1), "interp_weights": weights.flatten(1)}


_FAR = 2**20
"""More than there are windows in a row or a column."""


def _register() -> str:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    return _NAME


_NAME = "onnxport_flash_numbers"
"""Models hand lengths of sequences only to an attention that has `flash` in its name."""


def _attend(_: Any, query: Any, key: Any, value: Any, **settings: Any) -> tuple[Any, None]:
    """Let patches of the same number see each other; [1, heads, patches, size] each."""
    import torch

    numbers, scale = settings["cu_seq_lens_q"], settings["scaling"]
    mask = (numbers[:, None] == numbers[None])[None, None]
    said = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return said.transpose(1, 2), None
