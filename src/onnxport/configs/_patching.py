"""A patch as a value: which attribute is replaced while a model is traced, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any


@dataclass
class PatchingSpec:
    """Describe one attribute that is replaced during the export.

    Attributes:
        o: object (module, class, …) that holds the attribute.
        name: the attribute's name.
        custom_op: what stands there during the export.
        orig_op: what stands there otherwise; `None` to read it from `o`.
        op_wrapper: applied to both before they are set, for instance `staticmethod`.
    """

    o: Any
    name: str
    custom_op: Callable[..., Any]
    orig_op: Callable[..., Any] | None = None
    op_wrapper: Callable[..., Any] | None = None

    def set(self, operation: Any) -> None:
        """Put `operation`, wrapped, in the attribute's place."""
        setattr(self.o, self.name, self.op_wrapper(operation) if callable(self.op_wrapper) else operation)


def resolve(specs: Iterable[PatchingSpec] | None) -> list[PatchingSpec]:
    """Return the specs with `orig_op` filled in; the caller's objects stay as they are.

    Raises:
        AttributeError: a spec names an attribute that its object doesn't have.
    """
    return [
        spec if spec.orig_op is not None else replace(spec, orig_op=getattr(spec.o, spec.name)) for spec in specs or ()
    ]
