"""Write a graph according to its plan, two tensors at a time.

Unchanged byte ranges are copied by the kernel. A converted tensor is in memory once, with at most one tensor of the
checkpoint.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from onnx_ir.serde import SerdeError

from onnxport.binding.bound_graphs import BoundTensor
from onnxport.checkpoint.reading import Reader
from onnxport.errors import OnnxportError
from onnxport.options import OutputOptions
from onnxport.weights.expressions import ByteRange, Reads
from onnxport.writing.linking import link_file
from onnxport.writing.planning import GraphPlan, PlannedTensor, expression_of, plan_graph
from onnxport.writing.protobuf import assemble

if TYPE_CHECKING:
    import onnx

ProgressCallback = Callable[[int], None]

_IN_KERNEL = 1 << 26
"""Bytes per copy request to the kernel; interrupts are handled between two requests."""
_BUFFER = 1 << 18
"""Bytes copied at once in user space, so that the buffer stays in the CPU's cache."""
_WRITE = 1 << 19
"""Bytes per write: above 1 MiB Linux may allocate huge pages for the page cache, which measured four times slower."""
_WRITERS = 2
"""Tensors written at once: one is converted while another is written to disk."""
_UNSUPPORTED = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
"""Errors of a kernel or file system that doesn't support copying between two files."""


def write_graph(
    plan: GraphPlan,
    model: ir.Model,
    directory: Path,
    reader: Reader | None = None,
    written: ProgressCallback | None = None,
) -> list[Path]:
    """Write a graph.

    Args:
        plan: result of `plan_graph` for the same model.
        model: graph whose initializers have tensors; it is restored afterwards.
        directory: existing output directory.
        reader: reader of the checkpoint; None if no tensor is bound to one.
        written: called after each tensor with its size in bytes.

    Returns:
        The files written, the graph first.

    Raises:
        OSError: a file can't be written; `bundles.output.staged` adds the name of the output.
        OutputError: a file can't be linked.
        CorruptCheckpointError: a file of the checkpoint changed while it was read.
    """
    report = written or _no_report
    tensors = {name: value.const_value for name, value in model.graph.initializers.items() if value.const_value}
    for name, source in plan.links:
        _link(plan, name, source, directory, reader)
    external = [item for item in plan.tensors if item.file == plan.data_file]
    if plan.data_file is not None:
        _write_data(directory / plan.data_file, external, tensors, reader, report)
    _write_model(plan, model, directory, reader, report)
    if reader is not None:
        reader.verify()
    return [directory / name for name, _ in plan.files]


def save_graph(model: ir.Model, file: Path) -> list[Path]:
    """Write a graph whose weights are in memory; the files are those of `write_graph`."""
    return write_graph(plan_graph(model, file.name, OutputOptions()), model, file.parent)


def _no_report(_: int) -> None:
    return None


def _link(plan: GraphPlan, name: str, source: str, directory: Path, reader: Reader | None) -> None:
    if reader is None:
        raise TypeError(f"{plan.graph_file} refers to {source}, so a reader is required to write it")
    reader.descriptor(source)  # checks that the file hasn't changed since its header was read
    if not (directory / name).exists():  # two graphs may share a link
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        link_file(reader.directory / source, directory / name)


def _write_data(
    path: Path,
    planned: list[PlannedTensor],
    tensors: dict[str, ir.TensorProtocol],
    reader: Reader | None,
    report: ProgressCallback,
) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        placed = {item.offset or 0: tensors[item.name] for item in reversed(planned)}  # equal tensors share an offset
        with _writing(placed, descriptor, reader) as jobs:
            for item in planned:
                jobs[item.offset or 0].result()
                report(item.nbytes)
        os.fsync(descriptor)  # now rather than with the directory, while digests are still computed
    finally:
        os.close(descriptor)


@contextmanager
def _writing(
    placed: Mapping[int, ir.TensorProtocol], descriptor: int, reader: Reader | None
) -> Iterator[dict[int, Future[None]]]:
    """Write tensors to their offsets in a file in a pool, and yield the job of each offset.

    Tensors that are computed at once are one job: two would wait for each other. After an error or an interrupt,
    nothing further is written.
    """
    computed: dict[Hashable, list[int]] = {}
    for offset, tensor in placed.items():
        expression = expression_of(tensor)
        computation = None if expression is None else expression.computation
        computed.setdefault(offset if computation is None else computation, []).append(offset)

    def write(offsets: list[int]) -> None:
        for offset in offsets:
            _write_tensor(placed[offset], descriptor, offset, reader)

    pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="onnxport-write")
    try:
        jobs = [(offsets, pool.submit(write, offsets)) for offsets in computed.values()]
        yield {offset: job for offsets, job in jobs for offset in offsets}
    finally:
        pool.shutdown(cancel_futures=True)


def _write_model(
    plan: GraphPlan, model: ir.Model, directory: Path, reader: Reader | None, report: ProgressCallback
) -> None:
    """Write the graph's file, with the tensors that are planned inside it."""
    inside = {item.name: item.nbytes for item in plan.tensors if item.file == plan.graph_file}
    start, streamed, _ = assemble(_serialized(plan, model), inside)
    descriptor = os.open(directory / plan.graph_file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        position = _write(descriptor, start, 0)
        placed = {}
        for item in streamed:
            position = _write(descriptor, item.head, position)
            tensor = model.graph.initializers[item.name].const_value
            assert tensor is not None
            placed[position] = tensor
            position += item.nbytes
        with _writing(placed, descriptor, reader) as jobs:
            for offset, tensor in placed.items():
                jobs[offset].result()
                report(tensor.nbytes)
    finally:
        os.close(descriptor)


def _serialized(plan: GraphPlan, model: ir.Model) -> onnx.ModelProto:
    """Serialize a model with its planned tensors as external data."""
    values = {item.name: model.graph.initializers[item.name] for item in plan.tensors}
    originals = {name: value.const_value for name, value in values.items()}
    try:
        for item in plan.tensors:
            original = originals[item.name]
            assert original is not None
            values[item.name].const_value = ir.ExternalTensor(
                item.file, item.offset, item.nbytes, original.dtype, shape=_shape(original), name=item.name
            )
        return ir.to_proto(model)
    except SerdeError as error:  # onnx-ir 1.1 wraps what a tensor raises, such as that its file has changed
        if (cause := _package_error(error)) is None:
            raise
        raise cause from error
    finally:
        for name, value in values.items():
            value.const_value = originals[name]


def _package_error(error: BaseException) -> OnnxportError | None:
    """Return the first cause of an error that is an error of this package."""
    cause = error.__cause__
    while cause is not None and not isinstance(cause, OnnxportError):
        cause = cause.__cause__
    return cause


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _write_tensor(tensor: ir.TensorProtocol, descriptor: int, offset: int, reader: Reader | None) -> None:
    """Write a tensor's data at an offset of a file."""
    expression = expression_of(tensor)
    if expression is None:
        _write(descriptor, tensor.tobytes(), offset)
        return
    if expression.contiguous is not None and reader is not None:
        copy_range(reader, expression.contiguous, descriptor, offset)
        return
    for chunk in expression.chunks(_reader_of(tensor)):
        offset = _write(descriptor, chunk.view(np.uint8).data, offset)


def _reader_of(tensor: ir.TensorProtocol) -> Reads:
    assert isinstance(tensor, BoundTensor)
    return tensor.reader


def copy_range(reader: Reader, stored: ByteRange, descriptor: int, offset: int) -> None:
    """Copy a byte range of a checkpoint to an offset of a file, in the kernel where possible.

    Raises:
        CorruptCheckpointError: the checkpoint's file ends before the range does.
    """
    source, done = reader.descriptor(stored.file), 0
    copy = getattr(os, "copy_file_range", None)
    while done < stored.nbytes and copy is not None:
        try:
            count = copy(source, descriptor, min(_IN_KERNEL, stored.nbytes - done), stored.offset + done, offset + done)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            break
        if not count:
            raise reader.truncation_error(stored)
        done += count
    buffer = np.empty(min(_BUFFER, stored.nbytes - done), np.uint8)
    while done < stored.nbytes:
        part = buffer[: stored.nbytes - done]
        reader.read_into(ByteRange(stored.file, stored.offset + done, part.nbytes), part)
        done = _write(descriptor, part.data, offset + done) - offset


def _write(descriptor: int, content: bytes | memoryview, offset: int) -> int:
    """Write bytes at an offset of a file and return the offset after them."""
    view = memoryview(content)
    while len(view):
        count = os.pwrite(descriptor, view[:_WRITE], offset)
        view, offset = view[count:], offset + count
    return offset
