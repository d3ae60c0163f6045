"""A change to another package's code as a value: what is replaced, by what, why, which issue, and until when."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

EAGER = "none: the code is right where it runs eagerly, and eager mode is what it is written for"
"""Value of `Patch.issue` for model code that torch.export can't capture, or captures for one size only."""
SLOW = "none: the result is right, it only takes long"
"""Value of `Patch.issue` for what costs time, but doesn't change a graph."""


@dataclass(frozen=True)
class Replacement:
    """Replace one attribute of an object.

    Attributes:
        owner: module, class, `nn.Module`, configuration or any other object that has the attribute.
        name: the attribute's name.
        value: its value while the replacement is applied.
    """

    owner: object
    name: str
    value: object


@dataclass(frozen=True)
class Patch:
    """Replace one attribute that is found by a path.

    Attributes:
        target: `module:attribute`, the attribute dotted. A builtin of a module is replaced for that module's code only.
        make: returns the replacement for the original.
        reason: what goes wrong without the patch.
        issue: link to the upstream issue; or "none: " and why there is none.
        until: when the patch can be dropped.
        without_values: whether the patch is also needed where a model runs with parameters that have no values.
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
        """Import the module, find the attribute's owner, and make the replacement of what is there now.

        Raises:
            ImportError: there is no such module any more.
            AttributeError: the module has no such attribute any more.
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
