"""The rows of the table: which sides are compared on which checkpoints, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.checkpoints import LARGE

SMALL = ("bert-base", "gpt2", "t5-small", "vit-base", "whisper-tiny")
LLAMAS = ("llama-0.55b", "smollm2")
DEPTHS = ("llama-16", "llama-32", "llama-80")
FREE = ("whisper-tiny",)
"""Checkpoints without a target."""
ALLOWANCE, TENSORS = 300e6, 2
"""Limit of the peak memory above the imports: bytes, plus a multiple of the largest tensor."""

Cell = tuple[str, str]
"""A checkpoint and a side."""


@dataclass(frozen=True)
class Comparison:
    """Compare two cells.

    Attributes:
        ours: the cell with a target.
        theirs: the cell that it is compared with.
        factor: maximum ratio of the medians; None if there is no target.
        plus: seconds that are allowed in addition.
        figure: `seconds`, or `memory` for peaks, whose difference may be `ALLOWANCE` plus `TENSORS` times the largest
            tensor.
    """

    ours: Cell
    theirs: Cell
    factor: float | None
    plus: float = 0.0
    figure: str = "seconds"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        title: heading of the row's section.
        comparisons: pairs of cells that are compared.
        alone: cells that are measured, but not compared.
        together: whether the checkpoints are measured interleaved; otherwise one after another.
    """

    title: str
    comparisons: tuple[Comparison, ...]
    alone: tuple[Cell, ...] = ()
    together: bool = False

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells in the order of a round."""
        compared = [cell for each in self.comparisons for cell in (each.ours, each.theirs)]
        return tuple(dict.fromkeys([*compared, *self.alone]))


def _against(models: tuple[str, ...], ours: str, limits: dict[str, float | None]) -> tuple[Comparison, ...]:
    return tuple(
        Comparison((model, ours), (model, side), None if model in FREE else limit)
        for model in models
        for side, limit in limits.items()
    )


_MEMORY = tuple(Comparison((model, "cold"), (model, "imports"), None, figure="memory") for model in (*SMALL, *LLAMAS))
_DEEP = (
    Comparison(("llama-32", "linked"), ("llama-16", "linked"), None),
    Comparison(("llama-80", "linked"), ("llama-16", "linked"), 1.15),
)
_LARGE = (
    Comparison((LARGE, "copied-bf16"), (LARGE, "copy"), 1 / 0.7),
    Comparison((LARGE, "cast-fp16"), (LARGE, "copy"), 1 / 0.7),
    Comparison((LARGE, "linked-bf16"), ("llama-16", "linked"), 1.2),
    Comparison((LARGE, "copied-bf16"), (LARGE, "imports-bf16"), None, figure="memory"),
)
ROWS: dict[str, Row] = {
    "a": Row(
        "Llamas, cold cache, validation off",
        _against(LLAMAS, "cold", {"optimum": 0.3, "exporters": 0.12, "mobius": 0.7, "genai": None}),
    ),
    "b": Row(
        "Small models, cold cache, validation off",
        _against(SMALL, "cold", {"optimum": 0.6, "exporters": 0.35, "mobius": 1.4}),
    ),
    "c": Row(
        "All of these, warm cache, validation off",
        (
            *_against(SMALL, "warm", {"mobius": 0.4}),
            *(Comparison((model, "warm"), (model, "copy"), 1.3, plus=2.0) for model in LLAMAS),
        ),
    ),
    "d": Row(
        "All of these, cold cache, validation on",
        (*_against(SMALL, "validated", {"optimum": 0.8}), *_against(LLAMAS, "validated", {"optimum": 0.45})),
    ),
    "e": Row(
        "One Llama shape at 16, 32 and 80 layers, weights linked, cold cache, validation off", _DEEP, together=True
    ),
    "f": Row("Peak memory above the imports, cold cache, validation off", _MEMORY),
    "g": Row(
        "A checkpoint that is larger than memory, cold cache, validation off",
        _LARGE,
        ((LARGE, "step-fp16"), (LARGE, "step-linked"), ("llama-16", "step")),
        together=True,
    ),
    "i": Row(
        "Llamas, int4 and fused, cold cache, validation off",
        (
            *_against(LLAMAS, "int4", {"genai-int4": 0.35}),
            *(Comparison((model, "fused"), (model, "cold"), 1.25) for model in LLAMAS),
        ),
    ),
}
"""The table's rows by the letter that selects them."""


def groups(keys: Sequence[str], is_selected: Callable[[Cell], bool]) -> list[tuple[tuple[str, ...], list[Cell]]]:
    """Return groups of rows and cells that are measured interleaved; a side in several rows is measured once.

    Args:
        keys: letters of rows.
        is_selected: returns whether a cell is measured.
    """
    apart = tuple(key for key in keys if not ROWS[key].together)
    found: list[tuple[tuple[str, ...], list[Cell]]] = []
    cells = dict.fromkeys(cell for key in apart for cell in ROWS[key].cells if is_selected(cell))
    for model in dict.fromkeys(model for model, _ in cells):
        found.append((apart, [cell for cell in cells if cell[0] == model]))
    for key in keys:
        if ROWS[key].together and (selected := [cell for cell in ROWS[key].cells if is_selected(cell)]):
            found.append(((key,), selected))
    return found
