"""Choose a validation strategy by the available memory and the size of the weights.

Measured with ONNX Runtime 1.32 on the CPU: a session needs 1.0 times the size of fp32 weights, and 2.5 times that of
fp16 weights, which it multiplies in fp32; and half of the graph's file while loading, if the weights are in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import ONNX_DTYPES
from onnxport.checkpoint.safetensors import DTYPE_BITS, read_header
from onnxport.options import ValidationOptions

StrategyName = Literal["whole", "on disk", "reduced"]

SHARE = 0.6
"""Default fraction of the available memory that validation may use."""
MARGIN = 256 * 2**20
"""Bytes for inputs, activations, outputs, and the two runtimes without weights."""

_ITEM_SIZE = {"fp32": 4, "fp16": 2, "bf16": 2}
_SESSION = {"fp32": 1.5, "fp16": 2.5, "bf16": 2.5}
"""Memory of a session relative to the size of the weights."""
_UNLIMITED = 1 << 60
"""A cgroup of version 1 with a limit of this value or more is unlimited."""


@dataclass(frozen=True)
class Weights:
    """The size of a model's weights, in the dtype that it runs in.

    Attributes:
        total: total size in bytes.
        largest: size of the largest tensor in bytes, in fp32, to which it may be cast.
        on_disk: whether tensors can be read one at a time; otherwise all are read at once.
    """

    total: int
    largest: int
    on_disk: bool


@dataclass(frozen=True)
class Strategy:
    """How an export is validated.

    Attributes:
        name: `whole` loads the weights twice, in torch and in ONNX Runtime; `on disk` reads tensors on demand and maps
            the graph's weights; `reduced` does the same for a model with few layers.
        cache_bytes: bytes of the original's tensors that may be cached after their use.
        note: note for the report; empty for `whole`.
    """

    name: StrategyName
    cache_bytes: int = 0
    note: str = ""


def choose_strategy(checkpoint: Checkpoint, options: ValidationOptions, *, reducible: bool = True) -> Strategy:
    """Choose the strategy for a checkpoint; only headers are read.

    Args:
        checkpoint: the original.
        options: the memory limit in bytes, and the dtype, which determines the memory of a session.
        reducible: whether the model can be validated with fewer layers; otherwise `on disk` is the last choice.
    """
    budget = options.memory if options.memory is not None else int(SHARE * available_memory())
    return choose(weights_of(checkpoint, options), budget, options, reducible=reducible)


def choose(weights: Weights, budget: int, options: ValidationOptions, *, reducible: bool = True) -> Strategy:
    """Choose the first strategy that fits into `budget` bytes: `whole`, `on disk`, `reduced`."""
    weights_bytes = int(weights.total * (1 + _SESSION[options.dtype]))  # in torch and in ONNX Runtime
    in_memory = MARGIN + weights_bytes
    is_small = weights_bytes <= MARGIN  # other memory dominates
    if in_memory <= budget or is_small or not weights.on_disk:
        return Strategy("whole")
    on_disk = MARGIN + 3 * weights.largest  # a tensor as stored, converted, and in ONNX Runtime
    if on_disk > budget and reducible:
        need = f"that needs at least {_text(on_disk)} of memory, and {_text(budget)} may be used"
        return Strategy("reduced", 0, f"the full model wasn't run: {need}")
    note = f"weights were read from disk on demand: in memory, they need {_text(in_memory)}"
    return Strategy("on disk", max(0, budget - on_disk), f"{note}, and {_text(budget)} may be used")


def weights_of(checkpoint: Checkpoint, options: ValidationOptions) -> Weights:
    """Return the size of a checkpoint's weights, from the headers of its files.

    Raises:
        CorruptCheckpointError: a header can't be read.
    """
    if checkpoint.format != "safetensors":
        total = sum(path.stat().st_size for path in checkpoint.weight_files)
        return Weights(total, total, on_disk=False)
    entries = [entry for path in checkpoint.weight_files for entry in read_header(path).values()]
    counts = [math.prod(entry.shape) for entry in entries]
    if checkpoint.quantization is not None:  # several elements, of at least 4 bits, are packed into an integer
        packed = {name: bits // 4 for name, bits in DTYPE_BITS.items() if name[0] in "IU"}
        counts = [count * packed.get(entry.dtype, 1) for count, entry in zip(counts, entries, strict=True)]
    has_onnx_dtypes = all(entry.dtype in ONNX_DTYPES for entry in entries)
    total, largest = sum(counts) * _ITEM_SIZE[options.dtype], 4 * max(counts, default=0)
    if checkpoint.adapter is not None:  # the two LoRA matrices of a weight are in memory, too, in float32
        sizes = [math.prod(shape) for shape in checkpoint.adapter.shapes.values()]
        largest = max(largest, 4 * max(sizes)) + 8 * max(sizes)
    return Weights(total, largest, on_disk=has_onnx_dtypes)


def available_memory() -> int:
    """Return the bytes that this process can allocate without swapping or being killed.

    That is the minimum of the host's available memory and the unused limits of the process's cgroups (versions 1 and
    2) and their ancestors, which psutil doesn't report.
    """
    import psutil

    return max(0, min([int(psutil.virtual_memory().available), *_control_groups(Path("/"))]))


@dataclass(frozen=True)
class _GroupFiles:
    """The files of a cgroup version.

    Attributes:
        limit: file with the limit in bytes.
        used: file with the usage in bytes.
        reclaimable: key in `memory.stat` of the page cache that is evicted first.
    """

    limit: str
    used: str
    reclaimable: str


_VERSION_1 = _GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _GroupFiles("memory.max", "memory.current", "inactive_file")


def _control_groups(root: Path) -> list[int]:
    """Return the unused bytes of each cgroup of this process that has a limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    unused = []
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            unused += _unused(root / "sys/fs/cgroup", path, _VERSION_2)
        elif "memory" in controllers.split(","):
            unused += _unused(root / "sys/fs/cgroup/memory", path, _VERSION_1)
    return unused


def _unused(mount: Path, path: str, files: _GroupFiles) -> list[int]:
    """Return the unused bytes of a cgroup and its ancestors; in a container the group may be the mount itself."""
    group = Path(path.strip("/"))
    unused = []
    for directory in dict.fromkeys((mount, *(mount / parent for parent in (group, *group.parents)))):
        limit, used = _integer(directory / files.limit), _integer(directory / files.used)
        if limit is not None and limit < _UNLIMITED:
            unused.append(limit - (used or 0) + _reclaimable(directory / "memory.stat", files.reclaimable))
    return unused


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _reclaimable(path: Path, name: str) -> int:
    """Return the size of the page cache of a cgroup that is evicted first, in bytes."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)
    except (OSError, ValueError, IndexError):
        return 0


def _text(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
