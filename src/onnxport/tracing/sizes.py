"""Fixes of the capture that keep sizes free: what models do that would fix an axis to the example's size."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Patch

if TYPE_CHECKING:
    import torch


def _symbolic_int(original: Any) -> Any:
    """Keep a size that may vary as it is."""

    def torch_int(number: Any) -> Any:
        import torch

        if isinstance(number, torch.SymInt | torch.SymFloat):
            return torch.sym_int(number)  # type: ignore[no-untyped-call]
        return original(number)

    return torch_int


def _symbolic_length(original: Any) -> Any:
    """Take a tensor's first size for its length, which may vary."""

    def length(held: Any) -> Any:
        import torch

        return held.shape[0] if isinstance(held, torch.Tensor) and held.dim() else original(held)

    return length


def symbolic_sizes() -> tuple[Patch, ...]:
    """Return patches of the models that are imported: what they count with returns symbolic sizes as they are."""
    names = [name for name in sys.modules if name.startswith("transformers.models.") and ".modeling_" in name]
    whole = tuple(
        Patch(
            f"{name}:torch_int",
            _symbolic_int,
            "int() of a size fixes the pictures' size in what is interpolated to it, where a graph takes any",
            "Transformers' torch_int returns symbolic sizes as they are",
        )
        for name in names
        if "torch_int" in vars(sys.modules[name])
    )
    lengths = tuple(
        Patch(
            f"{name}:len",
            _symbolic_length,
            "len() of a tensor fixes its first size (RT-DETR, D-FINE, DEIM)",
            "torch.export lets len() of a tensor return a symbolic size",
        )
        for name in names
    )
    return (*whole, *lengths)


def _forgotten(original: Any) -> Any:
    """Compute angles of positions anew."""

    def forward(self: Any, hidden_states: torch.Tensor) -> Any:
        try:
            self.cached_sequence_length = self.cached_rotary_positional_embedding = None
            return original(self, hidden_states)
        finally:
            self.cached_sequence_length = self.cached_rotary_positional_embedding = None

    return forward


def _whole_lengths(_: Any) -> Any:
    """Count the states of a sound in whole numbers; the three convolutions are the model's."""

    def lengths(self: Any, samples: Any) -> Any:
        first = (samples - 127) // 64 + 1
        second = (first - 7) // 3 + 1
        return (second - 3) // 2 + 1

    return lengths


def _resized_at_once(_: Any) -> Any:
    """Resize the table of positions to the sizes of all pictures with one product."""

    def resize_positional_embeddings(
        positional_embeddings: torch.Tensor, spatial_shapes: torch.Tensor, max_length: int
    ) -> torch.Tensor:
        import torch

        rows, columns, size = positional_embeddings.shape
        heights, widths = spatial_shapes[:, :1], spatial_shapes[:, 1:]
        place = torch.arange(max_length, device=spatial_shapes.device)[None]
        place = torch.where(place < heights * widths, place, 0)  # what follows a picture looks like its first place
        down = _shares(place // widths, heights, rows)
        along = _shares(place % widths, widths, columns)
        shares = (down[..., :, None] * along[..., None, :]).flatten(-2)
        table = positional_embeddings.reshape(rows * columns, size)
        return (shares @ table.to(shares.dtype)).to(table.dtype)

    return staticmethod(resize_positional_embeddings)


def _shares(place: torch.Tensor, out: torch.Tensor, size: int) -> torch.Tensor:
    """Return how much each of `size` points counts at places of `out` points, in linear interpolation with antialias.

    Args:
        place: [batch, places].
        out: [batch, 1].
        size: points that are interpolated.

    Returns:
        [batch, places, size].
    """
    import torch

    scale = size / out.to(torch.float32)
    centre = scale * (place + 0.5)
    points = torch.arange(size, device=place.device) + 0.5
    distance = (points - centre[..., None]).abs() / scale.clamp(min=1.0)[..., None]
    shares = (1 - distance).clamp(min=0.0)
    return shares / shares.sum(-1, keepdim=True)


def _looked_up(_: Any) -> Any:
    """Look positions up in the whole table that the rows and the columns make."""

    def forward(self: Any, position_ids: torch.Tensor) -> torch.Tensor:
        import torch
        from torch.nn import functional

        table = torch.cat([w.expand(*self.axial_pos_shape, w.shape[-1]) for w in self.weights], dim=-1)
        return functional.embedding(position_ids, table.flatten(0, 1))

    return forward


def _within_chunks(original: Any) -> Any:
    """Attend within chunks of a text of any length: the last one is filled up with places that nothing looks at."""

    def forward(
        self: Any, hidden_states: torch.Tensor, attention_mask: Any = None, output_attentions: Any = False
    ) -> Any:
        import torch
        from torch.nn import functional

        width = self.attend_from_chunk_width
        others = (self.attend_from_chunk_stride, self.attend_to_chunk_width, self.attend_to_chunk_stride)
        also_first = self.always_attend_to_first_position or self.first_position_attends_to_all
        if not self.local or also_first or output_attentions or set(others) != {width}:
            return original(self, hidden_states, attention_mask, output_attentions)
        batch, length, size = hidden_states.shape
        chunks = (length + width - 1) // width + 1  # never one, which the trace would take for the batch as it is
        rest = chunks * width - length
        states = functional.pad(hidden_states, (0, 0, 0, rest)).reshape(batch * chunks, width, size)
        # A mask says the same for every place that looks; minus infinity leaves filled places out even where all are.
        mask = functional.pad(attention_mask[:, 0].float(), (0, rest), value=-torch.inf).reshape(-1, 1, width)
        said = self.self(states, states, mask, False)[0].reshape(batch, chunks * width, size)[:, :length]
        return (self.output(said, hidden_states),)

    return forward


def _pool_as_a_image(original: Any) -> Any:
    """Pool rows as pictures of one row."""

    def max_pool1d(rows: torch.Tensor, *sizes: Any, **named: Any) -> Any:
        from torch.nn import functional

        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        given = {**dict(zip(names, sizes, strict=False)), **named}
        if given.get("return_indices") or isinstance(rows.shape[-1], int):
            return original(rows, *sizes, **named)
        whole = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        wide = {
            name: (whole[name], _number(size)) for name, size in given.items() if name in whole and size is not None
        }
        wide.setdefault("stride", wide["kernel_size"])
        pooled = functional.max_pool2d(rows.unsqueeze(-2), **wide, ceil_mode=bool(given.get("ceil_mode")))
        return pooled.squeeze(-2)

    return max_pool1d


def _both_ways(original: Any) -> Any:
    """Compute what a layer makes of every token as text and as sound, and take the one that it is."""

    def forward(self: Any, hidden_states: torch.Tensor, audio_token_mask: Any = None, **named: Any) -> Any:
        import torch

        if audio_token_mask is None:
            return original(self, hidden_states, **named)
        heard = audio_token_mask[..., None]
        states = torch.where(heard, self.audio_input_layernorm(hidden_states), self.input_layernorm(hidden_states))
        states = hidden_states + self.self_attn(hidden_states=states, **named)[0]
        text_only = self.mlp(self.post_attention_layernorm(states))
        as_audio = self.audio_mlp(self.audio_post_attention_layernorm(states))
        return states + torch.where(heard, as_audio, text_only)

    return forward


def _repeated_at_once(_: Any) -> Any:
    """Give every place of a text the frames that it lasts, in all texts at once."""

    def length_regulator(states: torch.Tensor, durations: torch.Tensor, speaking_speed: float = 1.0) -> torch.Tensor:
        import torch

        if speaking_speed != 1.0:
            durations = torch.round(durations.float() * speaking_speed).long()
        durations = torch.where(durations.sum() == 0, 1, durations)
        ends = durations.cumsum(1)
        frames = ends[:, -1].max().item()
        torch._check(frames > 1)  # type: ignore[no-untyped-call]  # what the trace may count on; the graph takes one frame, too
        torch._check(frames <= _MOST_FRAMES)  # type: ignore[no-untyped-call]
        frame = torch.arange(frames, device=states.device)
        place = (frame[None, :, None] >= ends[:, None]).sum(-1).clamp(max=states.shape[1] - 1)
        repeated = states.gather(1, place[..., None].expand(-1, -1, states.shape[2]))
        return repeated * (frame[None] < ends[:, -1:])[..., None]

    return length_regulator


_MOST_FRAMES = 5000
"""How many frames FastSpeech 2's table of positions is made for."""


def _unfolded_at_any_size(_: Any) -> Any:
    """Cut a feature map into patches, stretched to whole patches; stretching to its own size changes nothing."""

    def unfolding(self: Any, features: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        from torch.nn import functional

        batch, channels, height, width = features.shape
        down, across = self.patch_height, self.patch_width
        rows, columns = (height + down - 1) // down, (width + across - 1) // across
        whole = functional.interpolate(features, size=(rows * down, columns * across), mode="bilinear")
        patches = whole.reshape(batch, channels, rows, down, columns, across).permute(0, 3, 5, 2, 4, 1)
        said = {
            **{"orig_size": (height, width), "batch_size": batch, "channels": channels, "interpolate": True},
            **{"num_patches": rows * columns, "num_patches_width": columns, "num_patches_height": rows},
        }
        return patches.reshape(batch * down * across, rows * columns, channels), said

    return unfolding


def _number(size: Any) -> Any:
    return size[0] if isinstance(size, list | tuple) else size


POOLS: tuple[Patch, ...] = (
    Patch(
        "torch.nn.functional:max_pool1d",
        _pool_as_a_image,
        "a pool of one axis fixes its size (CANINE)",
        "torch.export keeps pools of symbolic sizes",
    ),
)

SIZES: tuple[Patch, ...] = (
    Patch(
        "transformers.models.depth_anything.modeling_depth_anything:int",
        _symbolic_int,
        "int() of a size fixes the size of the map of depths to the example's",
        "Transformers leaves whole numbers as they are there",
    ),
    Patch(
        "transformers.models.clvp.modeling_clvp:ClvpRotaryPositionalEmbedding.forward",
        _forgotten,
        "it remembers the angles of the last length, which fixes the lengths of texts and sounds",
        "Transformers computes them anew",
    ),
    Patch(
        "transformers.models.neucodec.modeling_neucodec:int",
        _symbolic_int,
        "int() of how many samples come out fixes how many go in",
        "the model counts them with torch_int",
    ),
    Patch(
        "transformers.models.higgs_audio_v2.modeling_higgs_audio_v2:HiggsAudioV2DecoderLayer.forward",
        _both_ways,
        "ONNX Runtime can't select the tokens of a sound where there are none",
        "ONNX Runtime selects nothing from a tensor",
    ),
    Patch(
        "transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer:length_regulator",
        _repeated_at_once,
        "a loop over the texts fixes how many there are, and how long they last depends on values",
        "Transformers repeats the places of all texts at once",
    ),
    Patch(
        "transformers.models.moonshine.modeling_moonshine:MoonshinePreTrainedModel._get_feat_extract_output_lengths",
        _whole_lengths,
        "int() of a length that was divided fixes the length of every sound to the example's",
        "Transformers divides whole numbers there",
    ),
    Patch(
        "transformers.models.siglip2.modeling_siglip2:Siglip2VisionEmbeddings.resize_positional_embeddings",
        _resized_at_once,
        "a loop over the pictures, of sizes that depend on values, fixes how many pictures there are",
        "Transformers resizes the table for all pictures at once",
    ),
    Patch(
        "transformers.models.reformer.modeling_reformer:AxialPositionEmbeddings.forward",
        _looked_up,
        "a loop over the texts fixes how many there are",
        "Transformers looks all positions up at once",
    ),
    Patch(
        "transformers.models.mobilevit.modeling_mobilevit:MobileViTLayer.unfolding",
        _unfolded_at_any_size,
        "int() of a size fixes the pictures' size, and whether a map is stretched is decided by the example's",
        "Transformers counts patches in whole numbers and stretches in any case",
    ),
    Patch(
        "transformers.models.canine.modeling_canine:CanineAttention.forward",
        _within_chunks,
        "a loop over a text's chunks fixes its length",
        "Transformers attends within all chunks at once",
    ),
)
"""For models that may not be imported."""
