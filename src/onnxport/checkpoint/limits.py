"""Limits of a configuration's sizes that follow from its weights: large numbers cost time and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from onnxport.errors import CorruptCheckpointError, brief

_MODULES = re.compile(r"(\w+_)?(n|num)_(\w+_)?(layers?|blocks|experts|groups|stages)|(en|de)coder_layers|depths?")
"""Settings that are numbers of modules, which have tensors, unless they share them or are stacked in one."""
_LABELS = "num_labels"
_ALWAYS_ALLOWED = 512
_MAX_DEPTH = 20


def check_sizes(path: Path, config: Mapping[str, object], tensors: int, nbytes: int) -> None:
    """Check that the numbers of layers, experts and labels in a configuration are possible for its weights.

    Args:
        path: the configuration's file, for messages.
        config: its contents.
        tensors: number of tensors in the checkpoint.
        nbytes: size of its weight files, in bytes.

    Raises:
        CorruptCheckpointError: one is larger than the number of tensors, or, for labels, than the weights.
    """
    for name, value in _numbers(config, ""):
        key = name.rpartition(".")[2]
        limit = max(tensors, _ALWAYS_ALLOWED) if _MODULES.fullmatch(key) else nbytes if key == _LABELS else value
        if value > limit:
            found = f"the checkpoint has {tensors} tensors" if key != _LABELS else f"its weights have {nbytes} bytes"
            raise CorruptCheckpointError(f"{path}: {name} is {brief(value)}, and {found}; correct it")


def _numbers(config: Mapping[str, object], prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the integers of a configuration, its parts and its lists, by name."""
    for name, value in config.items():
        if isinstance(value, Mapping) and prefix.count(".") < _MAX_DEPTH:
            yield from _numbers(value, f"{prefix}{name}.")
        for item in value if isinstance(value, list) else [value]:
            if type(item) is int:
                yield f"{prefix}{name}", item
