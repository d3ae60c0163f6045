"""Compare what was written with the checkpoint, tensor by tensor: the part of a validation that runs nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.binding.bound_graphs import BoundTensor
from onnxport.writing.planning import GraphPlan

if TYPE_CHECKING:
    import onnx_ir as ir

_BUFFER = 1 << 20


@dataclass(frozen=True)
class TensorDigests:
    """Count the tensors that were compared with the checkpoint.

    Attributes:
        tensors: how many.
        bytes: how many bytes they have.
        sha256: digest over the name and the digest of each, sorted by name.
        differing: names of those whose bytes differ.
    """

    tensors: int
    bytes: int
    sha256: str
    differing: tuple[str, ...] = ()


def compare_tensors(plan: GraphPlan, graph: ir.Model, directory: Path) -> TensorDigests:
    """Compare every large tensor in the files of a graph with its expression; one piece is in memory at a time.

    Args:
        plan: what was written.
        graph: the graph, with its bound tensors.
        directory: where it was written.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        OSError: a written file can't be read.
    """
    from onnxport.validation.mapped import ranges_inside

    inside = ranges_inside(directory / plan.graph_file)
    whole, differing, count, size = hashlib.sha256(), [], 0, 0
    for item in sorted(plan.tensors, key=lambda item: item.name):
        tensor = graph.graph.initializers[item.name].const_value
        if not isinstance(tensor, BoundTensor):
            continue
        offset, nbytes = (item.offset, item.nbytes) if item.offset is not None else inside.get(item.name, (0, 0))
        written = _digest(_bytes_of(directory / item.file, offset, nbytes))
        if written != _digest(_bytes_made(tensor)):
            differing.append(item.name)
        whole.update(item.name.encode() + b"\0" + written)
        count, size = count + 1, size + item.nbytes
    return TensorDigests(count, size, whole.hexdigest(), tuple(differing))


def merged_digests(several: list[TensorDigests]) -> TensorDigests:
    """Join what was compared in several graphs."""
    if len(several) == 1:
        return several[0]
    return TensorDigests(
        sum(item.tensors for item in several),
        sum(item.bytes for item in several),
        hashlib.sha256("".join(item.sha256 for item in several).encode()).hexdigest(),
        tuple(name for item in several for name in item.differing),
    )


def _digest(pieces: Iterator[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _bytes_made(tensor: BoundTensor) -> Iterator[memoryview]:
    for piece in tensor.expression.pieces(tensor.reader):
        yield piece.view(np.uint8).data


def _bytes_of(path: Path, offset: int, nbytes: int) -> Iterator[memoryview]:
    buffer = bytearray(min(_BUFFER, nbytes))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while nbytes:
            count = os.preadv(descriptor, [memoryview(buffer)[: min(nbytes, len(buffer))]], offset)
            if not count:
                return
            yield memoryview(buffer)[:count]
            offset, nbytes = offset + count, nbytes - count
    finally:
        os.close(descriptor)
