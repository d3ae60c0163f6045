"""Compare the written weights with the checkpoint, tensor by tensor: the part of a validation that runs no model."""

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
        tensors: number of tensors.
        bytes: their total size in bytes.
        sha256: digest over the name and the digest of each tensor, sorted by name.
        differing: names of the tensors whose bytes differ.
    """

    tensors: int
    bytes: int
    sha256: str
    differing: tuple[str, ...] = ()


def compare_tensors(plan: GraphPlan, graph: ir.Model, directory: Path) -> TensorDigests:
    """Compare every large tensor in the files of a graph with its expression, one chunk in memory at a time.

    Args:
        plan: the plan of the written graph.
        graph: the graph, with its bound tensors.
        directory: the directory of the written graph.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed.
        OSError: a written file can't be read.
    """
    from onnxport.writing.protobuf import initializer_ranges

    ranges = initializer_ranges(directory / plan.graph_file)
    total, differing, count, size = hashlib.sha256(), [], 0, 0
    for item in sorted(plan.tensors, key=lambda item: item.name):
        tensor = graph.graph.initializers[item.name].const_value
        if not isinstance(tensor, BoundTensor):
            continue
        offset, nbytes = (item.offset, item.nbytes) if item.offset is not None else ranges.get(item.name, (0, 0))
        written = _digest(_file_chunks(directory / item.file, offset, nbytes))
        if written != _digest(_expression_chunks(tensor)):
            differing.append(item.name)
        total.update(item.name.encode() + b"\0" + written)
        count, size = count + 1, size + item.nbytes
    return TensorDigests(count, size, total.hexdigest(), tuple(differing))


def merged_digests(digests: list[TensorDigests]) -> TensorDigests:
    """Merge the digests of several graphs."""
    if len(digests) == 1:
        return digests[0]
    return TensorDigests(
        sum(item.tensors for item in digests),
        sum(item.bytes for item in digests),
        hashlib.sha256("".join(item.sha256 for item in digests).encode()).hexdigest(),
        tuple(name for item in digests for name in item.differing),
    )


def _digest(chunks: Iterator[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _expression_chunks(tensor: BoundTensor) -> Iterator[memoryview]:
    for chunk in tensor.expression.chunks(tensor.reader):
        yield chunk.view(np.uint8).data


def _file_chunks(path: Path, offset: int, nbytes: int) -> Iterator[memoryview]:
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
