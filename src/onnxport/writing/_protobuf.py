"""Write a protobuf model whose weights are streamed: the message is assembled around bytes that nobody holds.

A message is a sequence of fields, each a tag, a length and bytes, in any order; so the graph is serialized without
its weights, and each weight follows as one more initializer, its bytes last. Source: the protobuf encoding, and the
field numbers of onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
"""Numbers of the fields ModelProto.graph, GraphProto.initializer and TensorProto.raw_data."""
_LENGTH_DELIMITED = 2


@dataclass(frozen=True)
class Streamed:
    """Say what stands before a tensor's bytes in the file.

    Attributes:
        name: the initializer.
        head: bytes to write before the tensor's own.
        nbytes: the tensor's own.
    """

    name: str
    head: bytes
    nbytes: int


def assemble(proto: onnx.ModelProto, sizes: Mapping[str, int]) -> tuple[bytes, list[Streamed], int]:
    """Lay out a model file.

    Args:
        proto: the model; it is taken apart. The initializers to stream are there without bytes.
        sizes: initializer to stream → its bytes, in the order of the file.

    Returns:
        The beginning of the file, what follows it, and the size of the file.
    """
    heads = {
        tensor.name: _head_of(tensor, sizes[tensor.name]) for tensor in proto.graph.initializer if tensor.name in sizes
    }
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in sizes]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    streamed = [Streamed(name, heads[name], nbytes) for name, nbytes in sizes.items()]
    rest = sum(len(item.head) + item.nbytes for item in streamed)
    start = proto.SerializeToString() + _prefix(_GRAPH, len(graph) + rest) + graph
    return start, streamed, len(start) + rest


def _head_of(tensor: onnx.TensorProto, nbytes: int) -> bytes:
    """Return everything of an initializer but its bytes, which are its last field."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    own: bytes = tensor.SerializeToString() + _prefix(_RAW_DATA, nbytes)
    return _prefix(_INITIALIZER, len(own) + nbytes) + own


def _prefix(field: int, length: int) -> bytes:
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(value: int) -> bytes:
    """Encode a number: seven bits a byte, the lowest first, the eighth says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
