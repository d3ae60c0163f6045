"""What differs between the minor versions of Transformers: only this module asks which one is installed.

Transformers 5.24 renamed the cache, in parameters and in outputs, from `past_key_values` (`cache_params` in the Mamba
family) to `cache`. Graphs and descriptions call it `past_key_values` in any version, as clients expect.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from packaging.version import Version

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TESTED_VERSIONS = ("5.23", "5.24", "5.25")
"""Minor versions of Transformers that the tests run with."""
PAST = "past_key_values"
"""The cache's name in graphs and descriptions."""
CACHE_NAMES = ("cache", PAST, "cache_params")
"""Names of the cache in parameters and outputs: since 5.24, before, and before in the Mamba family."""


@functools.cache
def _minor_version() -> tuple[int, ...]:
    return Version(metadata.version("transformers")).release[:2]


def untested_version() -> str | None:
    """Return the installed version if it is newer than those that the tests run with; None if it isn't."""
    newest = Version(TESTED_VERSIONS[-1]).release
    return metadata.version("transformers") if _minor_version() > newest else None


def pools_frames_by_scattering() -> bool:
    """Return whether `get_vision_temporal_merge_index` (Kimi K2.5) returns where patches go, as since 5.24.

    Before, it returned which patches are gathered.
    """
    return _minor_version() >= (5, 24)


@functools.cache
def cache_name() -> str:
    """Return the name that the installed version has for the cache, of modules and outputs but the Mamba family's."""
    from transformers.modeling_outputs import BaseModelOutputWithPast

    fields = {field.name for field in dataclasses.fields(BaseModelOutputWithPast)}
    return next(name for name in CACHE_NAMES if name in fields)


def is_cache(parameter: inspect.Parameter) -> bool:
    """Return whether a parameter has a name of the cache, and isn't a dictionary, as XLM's `cache` is."""
    return parameter.name in CACHE_NAMES and not str(parameter.annotation).startswith("dict")


def cache_parameter(parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """Return the parameter that takes the cache; None if there is none.

    Args:
        parameters: those of a forward; code of a checkpoint has the names of the version that it was written for.
    """
    named = next((name for name in CACHE_NAMES if name in parameters and is_cache(parameters[name])), None)
    if named is not None:
        return named
    annotated = [name for name, one in parameters.items() if "Cache | None" in str(one.annotation)]
    return annotated[0] if len(annotated) == 1 else None


def cache_argument(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among the keyword arguments of a module; None if there is none."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def call_forward(forward: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a model, and return its outputs.

    Args:
        forward: the model, or its bound forward.
        arguments: arguments by name; the cache is `past_key_values`.

    Returns:
        Outputs by name; the cache is `past_key_values`. One tensor without a name is `waveform`, or else `output`.
    """
    name = cache_parameter(inspect.signature(getattr(forward, "forward", forward)).parameters) or cache_name()
    named = {name if key == PAST else key: value for key, value in arguments.items()}
    result = forward(**{**named, "return_dict": True})
    if not hasattr(result, "items"):  # a vocoder or another part of a model
        return {"waveform" if "spectrogram" in arguments else "output": result}
    return {PAST if key in CACHE_NAMES else key: value for key, value in result.items()}


def model_class_named(name: str) -> type[PreTrainedModel] | None:
    """Return a model class of Transformers by its name, which may come from a file; None if there is no such class."""
    import transformers

    found = getattr(transformers, name, None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
