"""A patch of the façade as a value: which attribute of an object is replaced while a model is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from onnxport.patching.patch import Replacement


@dataclass
class PatchingSpec:
    """Describe one attribute that is replaced during the export.

    Attributes:
        o: object (module, class, …) that holds the attribute.
        name: the attribute's name.
        custom_op: its value during the export.
        orig_op: its value otherwise; `None` to read it from `o`.
        op_wrapper: applied to `custom_op` before it is set, for instance `staticmethod`.
    """

    o: Any
    name: str
    custom_op: Callable[..., Any]
    orig_op: Callable[..., Any] | None = None
    op_wrapper: Callable[..., Any] | None = None

    def replacement(self) -> Replacement:
        """Return what `patch_ops` applies."""
        wrapped = self.op_wrapper(self.custom_op) if callable(self.op_wrapper) else self.custom_op
        return Replacement(self.o, self.name, wrapped)


def resolve(specs: Iterable[PatchingSpec] | None) -> list[PatchingSpec]:
    """Return the specs with `orig_op` filled in; the caller's objects stay as they are.

    Raises:
        AttributeError: a spec names an attribute that its object doesn't have.
    """
    return [
        spec if spec.orig_op is not None else replace(spec, orig_op=getattr(spec.o, spec.name)) for spec in specs or ()
    ]
