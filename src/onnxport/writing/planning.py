"""Plan the file and offset of every tensor of a graph, without reading a tensor or writing a file.

Small tensors stay in the graph, where shape inference reads them. Large tensors go into the graph's file, into an
external data file, or stay in the checkpoint's files, which are linked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Literal

import onnx_ir as ir

from onnxport.binding.bound_graphs import BoundTensor
from onnxport.checkpoint.sentence_transformers import MODULE_FOLDER
from onnxport.errors import OptionError, OutputError
from onnxport.options import OutputOptions
from onnxport.weights.expressions import ByteRange, Cast, Expression, InMemory

Transfer = Literal["copy", "convert", "link", "memory"]

PROTOBUF_LIMIT = 2 * 1024**3
"""Upper limit of the size of a protobuf message in bytes (lengths are signed 32-bit integers)."""
GRAPH_ALLOWANCE = 64 * 1024**2
"""Bytes reserved for the graph itself below `PROTOBUF_LIMIT`."""
SMALL_TENSOR = 1024
"""Size in bytes up to which a tensor stays in the graph: ONNX Runtime's shape inference ignores external data."""
EXTERNAL_SUFFIX = "_data"
"""Suffix of the external data file, as expected by clients of Optimum's layout."""
PAGE = 4096
"""Alignment of large tensors in bytes, so that each can be memory-mapped, and copied by reference."""
CACHE_LINE = 64
"""Alignment of other tensors in bytes."""
LARGE_TENSOR = 1 << 16
"""Size in bytes from which a tensor is aligned to `PAGE`: at most 1/16 of the file is padding."""
LINKED_SHARE = 4
"""With `weights="link"`, the converted bytes may be at most the linked ones divided by this."""


@dataclass(frozen=True)
class PlannedTensor:
    """The target of a tensor.

    Attributes:
        name: name of the initializer.
        file: path relative to the output directory.
        offset: offset of the first byte in that file; None in the graph's file, whose layout is determined by writing.
        nbytes: size in bytes.
        transfer: `copy` an unchanged byte range of the checkpoint, `convert` tensors of it, `link` its file, or write
            an array in `memory`.
    """

    name: str
    file: str
    offset: int | None
    nbytes: int
    transfer: Transfer


@dataclass(frozen=True)
class GraphPlan:
    """The files of a graph.

    Attributes:
        graph_file: path of the graph relative to the output directory.
        data_file: path of the external data file; None if there is none.
        data_bytes: its size in bytes.
        tensors: every tensor above `SMALL_TENSOR`, in the order of writing.
        links: pairs of a path relative to the output directory and the linked file of the checkpoint.
    """

    graph_file: str
    data_file: str | None
    data_bytes: int
    tensors: tuple[PlannedTensor, ...]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[tuple[str, int | None], ...]:
        """Path and size in bytes of each file; None for the graph, whose size isn't known yet, and 0 for links."""
        data = [(self.data_file, self.data_bytes)] if self.data_file else []
        return ((self.graph_file, None), *data, *((name, 0) for name, _ in self.links))

    def bytes_of(self, transfer: Transfer) -> int:
        """Return the total size in bytes of the tensors with this type of transfer."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.transfer == transfer)


def plan_graph(model: ir.Model, file_name: str, options: OutputOptions) -> GraphPlan:
    """Plan the files of a graph.

    Args:
        model: graph whose initializers have tensors, bound or in memory.
        file_name: path of the graph relative to the output directory.
        options: `external_data` and `weights`.

    Raises:
        OptionError: `weights` is `link`, but too many weights differ between the checkpoint and the graph.
        OutputError: two files of the checkpoint would be linked under one name.
    """
    large = sorted(_large(model), key=lambda item: _position(item[1]))
    data_file = file_name + EXTERNAL_SUFFIX
    if options.weights == "link":
        return _plan_links(large, file_name, options)
    if options.external_data == "auto" and weights_bytes(model) + GRAPH_ALLOWANCE < PROTOBUF_LIMIT:
        tensors = tuple(PlannedTensor(name, file_name, None, item.nbytes, transfer_of(item)) for name, item in large)
        return GraphPlan(file_name, None, 0, tensors)
    tensors, end = _lay_out(large, data_file)
    return GraphPlan(file_name, data_file if tensors else None, end, tensors)


def weights_bytes(model: ir.Model) -> int:
    """Return the total size of a graph's initializers, in bytes."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def transfer_of(tensor: ir.TensorProtocol) -> Transfer:
    """Return the type of transfer that writes a tensor."""
    expression = expression_of(tensor)
    if expression is None or isinstance(expression, InMemory):
        return "memory"
    return "convert" if expression.contiguous is None else "copy"


def expression_of(tensor: ir.TensorProtocol) -> Expression | None:
    """Return the expression of a bound tensor; None for other tensors."""
    return tensor.expression if isinstance(tensor, BoundTensor) else None


def _large(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL_TENSOR and tensor.dtype != ir.DataType.STRING:
            yield name, tensor


def _position(tensor: ir.TensorProtocol) -> tuple[bool, str, int]:
    """Return a sort key by position in the checkpoint, so that its files are read sequentially."""
    expression = expression_of(tensor)
    first = next(expression.stored(), None) if expression is not None else None
    return (True, "", 0) if first is None else (False, first.file, first.begin)


def _lay_out(tensors: Iterable[tuple[str, ir.TensorProtocol]], data_file: str) -> tuple[tuple[PlannedTensor, ...], int]:
    """Assign offsets; tensors with equal expressions share one. Returns the plan and the size of the file in bytes."""
    planned: list[PlannedTensor] = []
    offsets: dict[object, int] = {}
    end = 0
    for name, tensor in tensors:
        expression = expression_of(tensor)
        key = id(tensor) if expression is None else expression
        if key not in offsets:
            alignment = PAGE if tensor.nbytes >= LARGE_TENSOR else CACHE_LINE
            offsets[key] = -(-end // alignment) * alignment
            end = offsets[key] + tensor.nbytes
        planned.append(PlannedTensor(name, data_file, offsets[key], tensor.nbytes, transfer_of(tensor)))
    return tuple(planned), end


def _plan_links(large: list[tuple[str, ir.TensorProtocol]], file_name: str, options: OutputOptions) -> GraphPlan:
    linked: list[PlannedTensor] = []
    others: list[tuple[str, ir.TensorProtocol]] = []
    links: dict[str, str] = {}
    for name, tensor in large:
        byte_range = linkable(tensor)
        if byte_range is None:
            others.append((name, tensor))
            continue
        target = _name_of_link(byte_range.file)
        if links.setdefault(target, byte_range.file) != byte_range.file:
            raise OutputError(
                f"{byte_range.file} and {links[target]} of the checkpoint would both be linked as {target}; "
                "leave --weights link out"
            )
        linked.append(PlannedTensor(name, target, byte_range.offset, byte_range.nbytes, "link"))
    data_file = file_name + EXTERNAL_SUFFIX
    tensors, end = _lay_out(others, data_file)
    _check_linked(linked, others, options)
    return GraphPlan(file_name, data_file if tensors else None, end, (*linked, *tensors), tuple(sorted(links.items())))


def _name_of_link(file: str) -> str:
    """Return the link's name; weights of sentence-transformers modules share one file name and keep their directory."""
    path = PurePosixPath(file)
    folders = list(takewhile(MODULE_FOLDER.fullmatch, reversed(path.parent.parts)))
    return "/".join((*reversed(folders), path.name))


def linkable(tensor: ir.TensorProtocol) -> ByteRange | None:
    """Return the aligned byte range of the checkpoint with exactly a tensor's data; None if there is none."""
    expression = expression_of(tensor)
    byte_range = expression.contiguous if expression is not None else None
    return None if byte_range is None or byte_range.offset % max(1, int(tensor.dtype.itemsize)) else byte_range


def _check_linked(
    linked: list[PlannedTensor], others: list[tuple[str, ir.TensorProtocol]], options: OutputOptions
) -> None:
    bound = [(name, tensor) for name, tensor in others if expression_of(tensor) is not None]
    converted, linked_bytes = sum(tensor.nbytes for _, tensor in bound), sum(item.nbytes for item in linked)
    if converted * LINKED_SHARE <= linked_bytes:
        return
    name, tensor = max(bound, key=lambda item: item[1].nbytes)
    expression = expression_of(tensor)
    assert expression is not None
    raise OptionError(
        f"--weights link: {converted} bytes of weights aren't in the checkpoint in the form of the graph, and only "
        f"{linked_bytes} are; the largest is {name}, {_reason(expression, options)}; leave --weights link out"
    )


def _reason(expression: Expression, options: OutputOptions) -> str:
    if isinstance(expression, InMemory):
        return "which isn't in a safetensors file"
    dtypes = sorted({stored.dtype.name for stored in expression.stored() if stored.dtype != expression.dtype})
    if dtypes:
        return (
            f"which is {', '.join(dtypes)} in the checkpoint and {expression.dtype.name} with --dtype {options.dtype}"
        )
    inner = expression.operand if isinstance(expression, Cast) else expression
    return f"which is computed from {len(list(expression.stored()))} tensors ({type(inner).__name__})"
