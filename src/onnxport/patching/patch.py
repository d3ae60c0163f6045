"""Represent a change to another package's code: target, replacement, reason, issue, and when it can be dropped."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

EAGER = "none: the code is correct in eager mode, which it is written for"
"""Value of `Patch.issue` for model code that torch.export can't capture, or specializes to one size."""
SLOW = "none: the result is correct, only slow"
"""Value of `Patch.issue` for code that takes time, but doesn't change a graph."""


@dataclass(frozen=True)
class Replacement:
    """Replacement of one attribute of an object.

    Attributes:
        owner: module, class, `nn.Module`, configuration or other object that has the attribute.
        name: the attribute's name.
        value: the attribute's value while the replacement is applied.
    """

    owner: object
    name: str
    value: object


@dataclass(frozen=True)
class Patch:
    """Replacement of one attribute that is found by its path.

    Attributes:
        target: `module:attribute`, with a dotted attribute. A builtin is replaced only for that module's code.
        make: returns the replacement for the original.
        reason: what goes wrong without the patch.
        issue: link to the upstream issue, or "none: " and why there is none.
        until: when the patch can be dropped.
        without_values: whether the patch is also required to run a model with fake parameters.
    """

    target: str
    make: Callable[[Any], Any]
    reason: str
    issue: str
    until: str
    without_values: bool = False

    @property
    def module(self) -> str:
        """Name of the module that has the attribute."""
        return self.target.partition(":")[0]

    def resolve(self) -> Replacement:
        """Import the module, find the attribute's owner, and create the replacement of its current value.

        Raises:
            ImportError: the module doesn't exist any more.
            AttributeError: the attribute doesn't exist any more.
        """
        owner, name = self._find()
        is_builtin = isinstance(owner, ModuleType) and not hasattr(owner, name)
        return Replacement(owner, name, self.make(getattr(builtins if is_builtin else owner, name)))

    def _find(self) -> tuple[object, str]:
        module, _, path = self.target.partition(":")
        owner: object = import_module(module)
        *parents, name = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        return owner, name
