"""Format sizes and shapes for people."""

from __future__ import annotations

from collections.abc import Iterable


def bytes_text(count: int | None) -> str:
    """Format a size in bytes with a decimal unit."""
    if count is None:
        return "?"
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def axes_text(axes: Iterable[int | str]) -> str:
    """Format a shape."""
    return "[" + ", ".join(str(axis) for axis in axes) + "]"
