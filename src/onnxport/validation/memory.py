"""How much memory a validation may take, how much it would take, and the strategy that follows.

Measured with ONNX Runtime 1.32 on the CPU: a session holds a copy of its fp32 weights, and two and a half of fp16 ones,
whose products it computes in fp32; half of the graph's file more while it loads, where the weights are in it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import ONNX_DTYPES
from onnxport.checkpoint.safetensors import DTYPE_BITS, read_header
from onnxport.options import ValidationOptions

Kind = Literal["whole", "on disk", "reduced"]

SHARE = 0.6
"""Share of the available memory that a validation may take by default."""
MARGIN = 256 * 2**20
"""Bytes for inputs, activations, outputs, and what the two runtimes need besides weights."""

_ITEM_SIZE = {"fp32": 4, "fp16": 2, "bf16": 2}
_SESSION = {"fp32": 1.5, "fp16": 2.5, "bf16": 2.5}
"""Memory of a session, in bytes of weights."""
_UNLIMITED = 1 << 60
"""A control group without a limit states a number above it, or a word."""


@dataclass(frozen=True)
class Weights:
    """Size the weights of an original, in the type that it runs in.

    Attributes:
        total: their bytes.
        largest: bytes of the largest tensor, in fp32: what is computed with it may be.
        on_disk: whether they can be read one by one; else all of them are read at once.
    """

    total: int
    largest: int
    on_disk: bool


@dataclass(frozen=True)
class Strategy:
    """Describe how an export is validated.

    Attributes:
        kind: `whole` with the weights in memory twice; `on disk` with tensors that are read when they are used, and
            a graph whose weights are mapped; `reduced` with those, and few layers.
        keep: bytes of the original's tensors that may stay in memory after their use.
        note: for the report; empty where the weights are in memory.
    """

    kind: Kind
    keep: int = 0
    note: str = ""


def choose_strategy(checkpoint: Checkpoint, options: ValidationOptions, *, reducible: bool = True) -> Strategy:
    """Choose how to validate an export within the memory that it may take; only headers are read.

    Args:
        checkpoint: the original.
        options: the memory that may be taken, and the dtype, which decides what ONNX Runtime needs.
        reducible: whether a validation at reduced depth can be done; without, weights on disk are the last resort.
    """
    budget = options.memory if options.memory is not None else int(SHARE * available_memory())
    return choose(weights_of(checkpoint, options), budget, options, reducible=reducible)


def choose(weights: Weights, budget: int, options: ValidationOptions, *, reducible: bool = True) -> Strategy:
    """Choose the first strategy that fits: whole, on disk, reduced."""
    both = int(weights.total * (1 + _SESSION[options.dtype]))
    whole = MARGIN + both
    if (
        whole <= budget or both <= MARGIN or not weights.on_disk
    ):  # of a small model, the weights aren't what takes memory
        return Strategy("whole")
    one = MARGIN + 3 * weights.largest  # what is stored, what it is converted to, and the same in ONNX Runtime
    if one > budget and reducible:
        need = f"{_text(one)} of memory are needed at least, and {_text(budget)} may be taken"
        return Strategy("reduced", 0, f"the whole model wasn't run: {need}")
    note = f"weights were read from disk as they were used, because {_text(whole)} of memory would be needed otherwise"
    return Strategy("on disk", max(0, budget - one), f"{note}, and {_text(budget)} may be taken")


def weights_of(checkpoint: Checkpoint, options: ValidationOptions) -> Weights:
    """Size the weights of a checkpoint, by the headers of its files.

    Raises:
        CorruptCheckpointError: a header can't be read.
    """
    if checkpoint.format != "safetensors":
        total = sum(path.stat().st_size for path in checkpoint.weight_files)
        return Weights(total, total, on_disk=False)
    entries = [entry for path in checkpoint.weight_files for entry in read_header(path).values()]
    counts = [math.prod(entry.shape) for entry in entries]
    if checkpoint.quantization is not None:  # integers hold several numbers, of 4 bits at least
        packed = {name: bits // 4 for name, bits in DTYPE_BITS.items() if name[0] in "IU"}
        counts = [count * packed.get(entry.dtype, 1) for count, entry in zip(counts, entries, strict=True)]
    known = all(entry.dtype in ONNX_DTYPES for entry in entries)
    total, largest = sum(counts) * _ITEM_SIZE[options.dtype], 4 * max(counts, default=0)
    if checkpoint.adapter is not None:  # the two factors of a weight are in memory, in float32, while it is made
        sizes = [math.prod(shape) for shape in checkpoint.adapter.shapes.values()]
        largest = max(largest, 4 * max(sizes)) + 8 * max(sizes)
    return Weights(total, largest, on_disk=known)


def available_memory() -> int:
    """Return the bytes that this process can get without anything being swapped, or being killed.

    The least of what the system has available and what the control groups of the process (versions 1 and 2, with
    all groups above) leave of their limits.
    """
    return max(0, min([_system_memory(), *_control_groups(Path("/"))]))


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows: nothing to ask without a package
        return 16 * 2**30


def _control_groups(root: Path) -> list[int]:
    """Return what each control group of this process leaves of its limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            left += _left_in(root / "sys/fs/cgroup", path, ("memory.max", "memory.current", "inactive_file"))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            left += _left_in(root / "sys/fs/cgroup/memory", path, names)
    return left


def _left_in(mount: Path, path: str, names: tuple[str, str, str]) -> list[int]:
    """Return what a group, and every group above it, leave; in a container the group may be the mount itself."""
    group = Path(path.strip("/"))
    found = []
    for place in dict.fromkeys((mount, *(mount / parent for parent in (group, *group.parents)))):
        limit, used = _number(place / names[0]), _number(place / names[1])
        if limit is not None and limit < _UNLIMITED:
            found.append(limit - (used or 0) + _reclaimable(place / "memory.stat", names[2]))
    return found


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(path: Path, name: str) -> int:
    """Return the bytes of files that a group holds in memory and that the system would give up first."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _text(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
