"""Match the regular expressions of an adapter's settings, in time proportional to pattern and text.

Python's `re` backtracks: `(a+)+$` takes exponential time. Here all positions that a pattern may be at are followed
together, character by character (Thompson 1968, "Regular expression search algorithm").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

_MAX_LENGTH, _MAX_STEPS, _MAX_DEPTH = 1_100, 5_000, 50
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_COUNTS = re.compile(r"\{([0-9]{1,4})(,?)([0-9]{0,4})\}")
_ANCHORS: dict[str, Literal["start", "end"]] = {"^": "start", "\\A": "start", "$": "end", "\\Z": "end"}


@dataclass(frozen=True)
class _Step:
    """One step of a compiled pattern.

    Attributes:
        kind: `character` consumes one, `start` and `end` are anchors, `branch` continues at its targets.
        character: pattern of a single character.
        targets: next steps, relative to this one.
    """

    kind: Literal["character", "start", "end", "branch"]
    character: re.Pattern[str] | None = None
    targets: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Pattern:
    """A compiled regular expression.

    Attributes:
        steps: its steps; the position after the last one is a match.
    """

    steps: tuple[_Step, ...]

    def matches(self, text: str) -> bool:
        """Return whether the whole text matches."""
        active = self._reachable({0}, at_start=True, at_end=not text)
        for position, character in enumerate(text):
            steps = ((index, self.steps[index]) for index in active if index < len(self.steps))
            found = {i + 1 for i, step in steps if step.character is not None and step.character.fullmatch(character)}
            active = self._reachable(found, at_start=False, at_end=position + 1 == len(text))
            if not active:
                return False
        return len(self.steps) in active

    def _reachable(self, indices: Iterable[int], *, at_start: bool, at_end: bool) -> set[int]:
        """Return the steps that are reached from others without consuming a character."""
        waiting, found = list(indices), set[int]()
        while waiting:
            index = waiting.pop()
            if index in found:
                continue
            found.add(index)
            step = self.steps[index] if index < len(self.steps) else None
            if step is not None and (step.kind == "branch" or {"start": at_start, "end": at_end}.get(step.kind)):
                waiting += [index + target for target in step.targets]
        return found


@lru_cache(maxsize=1024)
def compile_pattern(text: str) -> Pattern:
    """Compile a regular expression in the syntax of `re`, without look-around, back references and flags.

    Raises:
        ValueError: it is invalid, or has other syntax, or is too large.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a pattern of {len(text)} characters, more than {_MAX_LENGTH}")
    parser = _Parser(text)
    steps = parser.alternatives(0)
    if parser.rest:
        raise ValueError(f"{parser.rest[0]!r} at {parser.position} has no opening parenthesis")
    return Pattern(tuple(steps))


class _Parser:
    """Compile a pattern by recursive descent; each method returns the steps of what it has read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.position = 0

    @property
    def rest(self) -> str:
        """The text that isn't read yet."""
        return self._text[self.position :]

    def alternatives(self, depth: int) -> list[_Step]:
        """Read alternatives up to a closing parenthesis or the end."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"parentheses are nested more than {_MAX_DEPTH} deep")
        steps = self._sequence(depth)
        while self.rest.startswith("|"):
            self.position += 1
            other = self._sequence(depth)
            steps = [_branch(1, len(steps) + 2), *steps, _branch(len(other) + 1), *other]
        return steps

    def _sequence(self, depth: int) -> list[_Step]:
        steps: list[_Step] = []
        while self.rest and self.rest[0] not in "|)":
            steps += self._repeated(self._atom(depth))
            if len(steps) > _MAX_STEPS:
                raise ValueError(f"it has more than {_MAX_STEPS} steps")
        return steps

    def _atom(self, depth: int) -> list[_Step]:
        anchor = next((anchor for anchor in _ANCHORS if self.rest.startswith(anchor)), None)
        if anchor is not None:
            self.position += len(anchor)
            return [_Step(_ANCHORS[anchor])]
        if self.rest.startswith("("):
            return self._group(depth)
        if self.rest[0] in "*+?":
            raise ValueError(f"there is nothing to repeat at {self.position}")
        text = self._character()
        self.position += len(text)
        return [_Step("character", re.compile(text if len(text) > 1 or text == "." else re.escape(text)))]

    def _group(self, depth: int) -> list[_Step]:
        opening = re.match(r"\((\?:|\?P<[A-Za-z_]\w*>|(?!\?))", self.rest)
        if opening is None:
            raise ValueError(f"{self.rest[:4]!r} at {self.position} isn't supported")
        self.position += opening.end()
        steps = self.alternatives(depth + 1)
        if not self.rest.startswith(")"):
            raise ValueError("a parenthesis isn't closed")
        self.position += 1
        return steps

    def _character(self) -> str:
        """Return the text of an escape, a set or a single character."""
        if self.rest.startswith("\\"):
            escape = re.match(r"\\([dDwWsS]|[^A-Za-z0-9])", self.rest, re.DOTALL)
            if escape is None:
                raise ValueError(f"{self.rest[:2]!r} at {self.position} isn't supported")
            return escape[0]
        if not self.rest.startswith("["):
            return self.rest[0]
        found = re.match(r"\[\^?\]?(?:\\[dDwWsS]|\\[^A-Za-z0-9]|[^\]\\\[&|~])*\]", self.rest)
        if found is None:
            raise ValueError(f"the set at {self.position} isn't closed, or isn't supported")
        try:
            re.compile(found[0])
        except re.error as error:
            raise ValueError(str(error)) from error
        return found[0]

    def _repeated(self, steps: list[_Step]) -> list[_Step]:
        counts = _COUNTS.match(self.rest)
        if counts:
            low, high = int(counts[1]), int(counts[3]) if counts[3] else (None if counts[2] else int(counts[1]))
            self.position += counts.end()
        elif self.rest[:1] in _REPEATS and self.rest:
            low, high = _REPEATS[self.rest[0]]
            self.position += 1
        else:
            return steps
        if self.rest.startswith("?"):  # takes the shortest match first, which is the same for a whole text
            self.position += 1
        if self.rest[:1] in _REPEATS and self.rest:
            raise ValueError(f"there are two repetitions at {self.position}")
        if high is not None and high < low:
            raise ValueError(f"{low} to {high} repetitions")
        if len(steps) * max(low, high or 0) > _MAX_STEPS:
            raise ValueError(f"it has more than {_MAX_STEPS} steps")
        if high is None:
            return [*steps * low, _branch(1, len(steps) + 2), *steps, _branch(-len(steps) - 1)]
        return [*steps * low, *[_branch(1, len(steps) + 1), *steps] * (high - low)]


def _branch(*targets: int) -> _Step:
    return _Step("branch", targets=targets)
