"""Run a graph in ONNX Runtime with its weights on disk: mapped into memory, and never copied there.

What copies them otherwise: pre-packing, constant folding, fp16 weights that are cast ahead of their use, and weights
inside the graph's file. The last are mapped too: the graph that is loaded refers into its own file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from onnxport._onnxruntime import runtime_errors
from onnxport.errors import NoKernelError, ValidationError

if TYPE_CHECKING:
    import onnxruntime

LARGE = 1 << 16
"""Bytes from which a tensor inside a graph's file is mapped there."""

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
"""Numbers of ModelProto.graph, GraphProto.initializer, TensorProto.name and TensorProto.raw_data in onnx.proto."""


def open_mapped(file: Path) -> onnxruntime.InferenceSession:
    """Load a graph without copying its weights.

    Raises:
        ValidationError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # casts just before their use, not all at first
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    try:
        return onnxruntime.InferenceSession(outline(file), options, providers=["CPUExecutionProvider"])
    except (*runtime_errors(), *_DAMAGED) as error:
        kind = NoKernelError if "NOT_IMPLEMENTED" in str(error) else ValidationError
        raise kind(f"ONNX Runtime can't load {file.name}: {error}") from error


_DAMAGED = (DecodeError, IndexError, KeyError)
"""What reading a file raises whose fields don't fit its length."""


def outline(file: Path) -> bytes:
    """Return a graph whose large tensors are external data: those inside its file refer to it.

    Source: the protobuf encoding; a message is a sequence of fields, each a tag and a value, in any order.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model, rest = onnx.ModelProto(), bytearray()
        for number, start, begin, end in _fields(content, 0, len(content)):
            if number == _GRAPH:
                _add_graph(model.graph, content, (begin, end), file.name)
            else:
                rest += content[start:end]
        model.MergeFromString(bytes(rest))
        return bytes(model.SerializeToString())


def ranges_inside(file: Path) -> dict[str, tuple[int, int]]:
    """Return where the bytes of tensors are that a graph's file holds itself: name → offset and length."""
    found = {}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, _, begin, end in _fields(content, 0, len(content)):
            if number != _GRAPH:
                continue
            for inner, _, first, last in _fields(content, begin, end):
                if inner == _INITIALIZER:
                    parts = {part: (start, stop) for part, _, start, stop in _fields(content, first, last)}
                    if _NAME in parts and _RAW_DATA in parts:
                        start, stop = parts[_RAW_DATA]
                        found[content[slice(*parts[_NAME])].decode()] = (start, stop - start)
    return found


def _add_graph(graph: onnx.GraphProto, content: mmap.mmap, where: tuple[int, int], name: str) -> None:
    rest = bytearray()
    for number, start, begin, end in _fields(content, *where):
        if number == _INITIALIZER and end - begin >= LARGE:
            _add_tensor(graph.initializer.add(), content, (begin, end), name)
        else:
            rest += content[start:end]
    graph.MergeFromString(bytes(rest))


def _add_tensor(tensor: onnx.TensorProto, content: mmap.mmap, where: tuple[int, int], name: str) -> None:
    rest = bytearray()
    for number, start, begin, end in _fields(content, *where):
        if number == _RAW_DATA and end - begin >= LARGE:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", name), ("offset", str(begin)), ("length", str(end - begin))):
                tensor.external_data.add(key=key, value=value)
        else:
            rest += content[start:end]
    tensor.MergeFromString(bytes(rest))


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field's number, where it starts, where its value begins, and where it ends."""
    while position < end:
        start = position
        tag, position = _varint(content, position)
        kind = tag & 7
        begin = position
        if kind == 0:
            _, position = _varint(content, position)
        elif kind == 2:
            length, begin = _varint(content, position)
            position = begin + length
        else:
            position += {1: 8, 5: 4}[kind]
        yield tag >> 3, start, begin, position


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
