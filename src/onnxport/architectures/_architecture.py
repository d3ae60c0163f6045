"""What can't be found out about a model type by looking at it: one record for each, in its family's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxport.patching.patch import Patch


@dataclass(frozen=True)
class Architecture:
    """Record what the model's own traits don't tell.

    Attributes:
        model_types: as in `config.json`.
        components: describes the graphs that a model becomes; None where the component types of `description` fit.
        patches: replacements while a model with modules of this family is traced.
        tiny: fields of a tiny configuration, for conformance: what no shrinking rule can know.
    """

    model_types: tuple[str, ...]
    components: Callable[..., tuple[Any, ...]] | None = None
    patches: tuple[Patch, ...] = ()
    tiny: Mapping[str, Any] = field(default_factory=dict)
