"""Encode and decode the outer fields of ONNX model files, so that weights are streamed or mapped instead of parsed.

A protobuf message is a sequence of fields in any order, each a tag and a value; a length-delimited value is preceded
by its length. Sources: the protobuf encoding specification, and the field numbers of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import onnx

MAPPED_BYTES = 1 << 16
"""Size in bytes from which `outline` leaves a tensor's data in the file."""

_GRAPH, _INITIALIZER, _NAME, _RAW_DATA = 7, 5, 8, 9
"""Field numbers of ModelProto.graph, GraphProto.initializer, TensorProto.name and TensorProto.raw_data."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
"""Wire types."""


@dataclass(frozen=True)
class Streamed:
    """An initializer whose data is written after the rest of the model.

    Attributes:
        name: name of the initializer.
        head: bytes that precede its data in the file.
        nbytes: size of its data in bytes.
    """

    name: str
    head: bytes
    nbytes: int


class ByteSpan(NamedTuple):
    """A byte range of a file.

    Attributes:
        offset: offset of the first byte.
        nbytes: length in bytes.
    """

    offset: int
    nbytes: int


class _Field(NamedTuple):
    """A field of a message, as offsets in the file.

    Attributes:
        number: field number.
        start: offset of the tag.
        begin: offset of the value, after the length of a length-delimited one.
        end: offset after the value.
    """

    number: int
    start: int
    begin: int
    end: int


def assemble(proto: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[bytes, list[Streamed], int]:
    """Lay out a model file whose large initializers follow the serialized rest, their data last.

    Args:
        proto: the model, which is modified. Initializers to stream are included without data.
        sizes: initializer to stream, to the size of its data in bytes, in file order.

    Returns:
        The beginning of the file, the initializers that follow it, and the size of the file in bytes.
    """
    heads = {
        tensor.name: _head_of(tensor, sizes[tensor.name]) for tensor in proto.graph.initializer if tensor.name in sizes
    }
    embedded = [tensor for tensor in proto.graph.initializer if tensor.name not in sizes]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(embedded)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    streamed = [Streamed(name, heads[name], nbytes) for name, nbytes in sizes.items()]
    rest = sum(len(item.head) + item.nbytes for item in streamed)
    start = proto.SerializeToString() + _prefix(_GRAPH, len(graph) + rest) + graph
    return start, streamed, len(start) + rest


def outline(file: Path) -> bytes:
    """Return a serialized model whose large initializers are external data; those inside the file refer to it."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        model, rest = onnx.ModelProto(), bytearray()
        for field in _fields(content, 0, len(content)):
            if field.number == _GRAPH:
                _outline_graph(model.graph, content, field, file.name)
            else:
                rest += content[field.start : field.end]
        model.MergeFromString(bytes(rest))
        return bytes(model.SerializeToString())


def initializer_ranges(file: Path) -> dict[str, ByteSpan]:
    """Return the byte range of each initializer's data inside a model file, by name."""
    ranges = {}
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        graphs = [field for field in _fields(content, 0, len(content)) if field.number == _GRAPH]
        initializers = (field for graph in graphs for field in _inner(content, graph) if field.number == _INITIALIZER)
        for initializer in initializers:
            fields = {field.number: field for field in _inner(content, initializer)}
            if _NAME in fields and _RAW_DATA in fields:
                name, data = fields[_NAME], fields[_RAW_DATA]
                ranges[content[name.begin : name.end].decode()] = ByteSpan(data.begin, data.end - data.begin)
    return ranges


def _head_of(tensor: onnx.TensorProto, nbytes: int) -> bytes:
    """Return the encoding of an initializer up to its data, which is its last field."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    encoded: bytes = tensor.SerializeToString() + _prefix(_RAW_DATA, nbytes)
    return _prefix(_INITIALIZER, len(encoded) + nbytes) + encoded


def _prefix(field: int, length: int) -> bytes:
    return _encode_varint(field << 3 | _LENGTH_DELIMITED) + _encode_varint(length)


def _outline_graph(graph: onnx.GraphProto, content: mmap.mmap, encoded: _Field, file_name: str) -> None:
    rest = bytearray()
    for field in _inner(content, encoded):
        if field.number == _INITIALIZER and field.end - field.begin >= MAPPED_BYTES:
            _outline_tensor(graph.initializer.add(), content, field, file_name)
        else:
            rest += content[field.start : field.end]
    graph.MergeFromString(bytes(rest))


def _outline_tensor(tensor: onnx.TensorProto, content: mmap.mmap, encoded: _Field, file_name: str) -> None:
    rest = bytearray()
    for field in _inner(content, encoded):
        nbytes = field.end - field.begin
        if field.number == _RAW_DATA and nbytes >= MAPPED_BYTES:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", file_name), ("offset", str(field.begin)), ("length", str(nbytes))):
                tensor.external_data.add(key=key, value=value)
        else:
            rest += content[field.start : field.end]
    tensor.MergeFromString(bytes(rest))


def _inner(content: mmap.mmap, field: _Field) -> Iterator[_Field]:
    """Yield the fields of an embedded message."""
    return _fields(content, field.begin, field.end)


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[_Field]:
    while position < end:
        start = position
        tag, position = _decode_varint(content, position)
        wire_type = tag & 7
        begin = position
        if wire_type == _VARINT:
            _, position = _decode_varint(content, position)
        elif wire_type == _LENGTH_DELIMITED:
            length, begin = _decode_varint(content, position)
            position = begin + length
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[wire_type]
        yield _Field(tag >> 3, start, begin, position)


def _encode_varint(value: int) -> bytes:
    """Encode an unsigned integer, 7 bits per byte, least significant first; the top bit is set if more bytes follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """Return an unsigned integer and the offset after it."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
