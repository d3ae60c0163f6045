"""Labels of axes: those recorded from 4.37.2, and the names that today's clients expect.

A label is a symbol (`batch`) or a sum of symbols (`past_sequence + sequence`).
"""

from __future__ import annotations

from collections.abc import Mapping

Axes = Mapping[int, str]
"""Axis index to label, dynamic axes only."""

_CURRENT_SYMBOLS = {
    "batch": "batch_size",
    "image_batch": "image_batch_size",
    "sequence": "sequence_length",
    "past_sequence": "past_sequence_length",
    "encoder_sequence": "encoder_sequence_length",
    "decoder_sequence": "decoder_sequence_length",
    "past_encoder_sequence": "past_encoder_sequence_length",
    "past_decoder_sequence": "past_decoder_sequence_length",
    "choice": "num_choices",
}
"""Symbols of 4.37.2 to those of the optimum layout, which other clients follow."""

PAST_INPUTS = "past_key_values."

LOGITS_TO_KEEP = "num_logits_to_keep"
"""Input of decoders in some layouts: of how many last tokens logits are computed, 0 for all; int64, a scalar."""

PADDING_MASKS = ("p_mask", "audio_mel_mask")
"""Masks that are 1 for padding; all others are 1 for what isn't padding, which is the value without padding."""

PATCH_MASK, PATCHES = "patch_attention_mask", "patches/"
"""Mask of the patches of images, [batch, rows, columns], and its default in a manifest, before the side of a patch."""
PATCH_AXES = {"patch_rows": "height", "patch_columns": "width"}
"""Label of an axis of that mask to the label of the images' axis that its size follows."""


def is_cached(name: str) -> bool:
    """Return whether an input is a tensor of a cache, not one such as `past_values` of a time series.

    Args:
        name: its name in a graph.
    """
    return name.startswith("past_") and "." in name


def present_name(name: str) -> str:
    """Return the name of the output that becomes a cache input in the next step."""
    return name.replace("past_key_values", "present", 1) if name.startswith(PAST_INPUTS) else f"present{name[4:]}"


def symbols_of(label: str) -> tuple[str, ...]:
    """Split a label into its symbols: `a + b` is `("a", "b")`."""
    return tuple(part.strip() for part in label.split("+"))


def with_sizes(label: str, sizes: Mapping[str, int]) -> str:
    """Return a label with sizes instead of the symbols that have one: `past_sequence + 1`.

    Args:
        label: label of an axis.
        sizes: symbol that today's clients expect to size.
    """
    return " + ".join(str(sizes.get(today_label(symbol), symbol)) for symbol in symbols_of(label))


def is_fixed(label: str, sizes: Mapping[str, int]) -> bool:
    """Return whether every symbol of a label has a size; see `with_sizes`."""
    return all(today_label(symbol) in sizes for symbol in symbols_of(label))


def true_label(name: str, label: str) -> str:
    """Return the corrected label of a past input, which 4.37.2 labels with the length of the present output.

    Args:
        name: flat name of the graph input, such as `past_key_values.0.key`.
        label: its recorded label.
    """
    if not name.startswith(PAST_INPUTS):
        return label
    past = [symbol for symbol in symbols_of(label) if symbol.startswith("past_")]
    return past[0] if past else label


def today_label(label: str) -> str:
    """Return a label of 4.37.2 with the names that today's clients expect."""
    return " + ".join(_CURRENT_SYMBOLS.get(symbol, symbol) for symbol in symbols_of(label))
