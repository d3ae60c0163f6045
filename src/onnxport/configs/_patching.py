"""Patches of `transformers.onnx`: attributes that are replaced while a model is traced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from onnxport.patching.patch import Replacement


@dataclass
class PatchingSpec:
    """An attribute that is replaced during the export.

    Attributes:
        o: object (module, class, …) that has the attribute.
        name: the attribute's name.
        custom_op: the replacement.
        orig_op: the original value; None to read it from `o`.
        op_wrapper: applied to `custom_op` before it is set, for example `staticmethod`.
    """

    o: Any
    name: str
    custom_op: Callable[..., Any]
    orig_op: Callable[..., Any] | None = None
    op_wrapper: Callable[..., Any] | None = None

    def replacement(self) -> Replacement:
        """Return the replacement that `patch_ops` applies."""
        wrapped = self.op_wrapper(self.custom_op) if callable(self.op_wrapper) else self.custom_op
        return Replacement(self.o, self.name, wrapped)


def resolve(specs: Iterable[PatchingSpec] | None) -> list[PatchingSpec]:
    """Return copies of the specs with `orig_op` set.

    Raises:
        AttributeError: an object lacks the attribute of its spec.
    """
    return [
        spec if spec.orig_op is not None else replace(spec, orig_op=getattr(spec.o, spec.name)) for spec in specs or ()
    ]
