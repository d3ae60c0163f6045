"""Check the arguments of a call: one that no graph takes may be ignored only if it wouldn't change the outputs."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.axes import PADDING_MASKS, is_cached
from onnxport.description.forward import OPTION, OTHER_MASK, OTHER_NAME, WITHOUT_EFFECT
from onnxport.errors import OptionError, UnsupportedError

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory

_RETURNS = ("return_dict", "use_cache")
"""Options of every forward that don't change the values of outputs."""
_OUTPUT = "output_"
"""Prefix of the options of every forward that add outputs: `output_attentions`."""
PREPROCESSOR_OUTPUTS = frozenset(
    (
        *("aspect_ratios", "audio", "audio_lengths", "beatsteps", "cols", "extrapolated_beatstep"),
        *("forced_bos_token_id", "frames_after_eos", "grids", "grids_videos", "image_cols", "image_input_ids"),
        *("image_patch_indices_per_batch", "image_patch_indices_per_subsequence", "image_rows", "image_scale_factors"),
        *("image_unpadded_heights", "image_unpadded_widths", "length", "notes", "num_audio_tokens"),
        *("num_chunks_per_video", "num_crops", "num_patches_per_frame", "num_patches_per_image", "num_tiles"),
        *("num_truncated_entities", "num_truncated_tokens", "offset_mapping", "original_images", "original_sizes"),
        *("overflow_to_sample_mapping", "overflowing_entities", "overflowing_tokens", "pretty_midi_objects"),
        *("reshaped_input_sizes", "rows", "special_tokens_mask", "text_replacement_offsets", "token_ids", "words"),
    )
)
"""What tokenizers and processors of Transformers return beside the arguments of a forward, such as the sizes of images
before they were resized, for postprocessing."""


def check_arguments(directory: Directory, arguments: Mapping[str, Any], handled: Collection[str] = ()) -> None:
    """Check that each argument is an input of a graph, or wouldn't change the outputs of the original either.

    Ignored are outputs of preprocessors that no forward takes, what the model doesn't use, options with the value that
    the graphs have, and masks, token types and position ids of sequences without padding.

    Args:
        directory: the exported directory.
        arguments: arguments by name; None for missing ones.
        handled: names that the caller passes on to a graph, or computes with.

    Raises:
        OptionError: an argument would change the outputs, and no graph takes it.
        UnsupportedError: an option such as `output_attentions` asks for outputs that no graph returns.
    """
    passed = {name: value for name, value in arguments.items() if value is not None and name not in handled}
    for name, value in passed.items():
        if name in directory.input_names or name in _RETURNS or name in PREPROCESSOR_OUTPUTS:
            continue
        reason = directory.manifest.left_out.get(name, "")
        if _changes_nothing(name, value, reason, arguments):
            continue
        if name.startswith(_OUTPUT):
            _check_returned(directory, name.removeprefix(_OUTPUT))
        else:
            taken = ", ".join(sorted(one for one in directory.input_names if not is_cached(one)))
            raise OptionError(
                f"{name}: no graph of {directory.path} takes it ({reason or 'the model was exported without it'}); "
                f"leave it out, or export a task or class that uses it; the graphs take {taken}"
            )


def _changes_nothing(name: str, value: Any, reason: str, arguments: Mapping[str, Any]) -> bool:
    """Return whether an argument leaves the outputs as they are without it."""
    if reason in WITHOUT_EFFECT or (reason == OTHER_MASK and arguments.get("attention_mask") is not None):
        return True
    if reason.startswith(OTHER_NAME):
        return arguments.get(reason.removeprefix(OTHER_NAME)) is not None
    if reason.startswith(OPTION):
        return _has_value(value, reason.removeprefix(OPTION))
    if isinstance(value, bool | int | float | str):
        return not value
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return False
    if name.endswith("mask"):
        return bool((array == (name not in PADDING_MASKS)).all())
    if name.endswith("token_type_ids"):
        return not array.any()
    return name.endswith("position_ids") and bool((array == np.arange(array.shape[-1])).all())


def _has_value(value: Any, recorded: str) -> bool:
    """Return whether an option has the value that the graphs have, as its `repr` in the manifest says."""
    try:
        expected = ast.literal_eval(recorded)
    except (ValueError, SyntaxError):
        return repr(value) == recorded
    return bool(np.all(np.asarray(value) == expected)) or not (np.any(value) or expected)


def _check_returned(directory: Directory, field: str) -> None:
    outputs = (spec.name for component in directory.manifest.components for spec in component.outputs)
    if not any(output.partition(".")[0].endswith(field) for output in outputs):
        raise UnsupportedError(f"no exported graph returns {field}: export with --outputs {field}")
