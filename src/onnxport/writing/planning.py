"""Plan where every tensor of a graph will be: a pure value, made without reading a tensor or touching the disk.

Small tensors stay in the graph, where shape inference reads them. Large ones go into the graph too, or into a file
beside it, or stay in the checkpoint's files, which are linked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import onnx_ir as ir

from onnxport.binding.bound_graphs import BoundTensor
from onnxport.checkpoint.sentence_transformers import MODULE_FOLDER
from onnxport.errors import OptionError, OutputError
from onnxport.options import OutputOptions
from onnxport.weights.expressions import ByteRange, Cast, Expression, InMemory

How = Literal["copy", "convert", "link", "memory"]

PROTOBUF_LIMIT = 2 * 1024**3
"""Bytes that a protobuf message can't reach (its lengths are signed 32-bit numbers)."""
GRAPH_ALLOWANCE = 64 * 1024**2
"""Bytes kept for the graph itself when weights are weighed against the limit."""
SMALL_TENSOR = 1024
"""Bytes up to which a tensor stays in the graph: ONNX Runtime's shape inference reads axes and shapes only there."""
EXTERNAL_SUFFIX = "_data"
"""Appended to the graph's file name: the name that clients of the optimum layout look for."""
PAGE = 4096
"""Offsets of large tensors are multiples of it: they can be mapped one by one, and copied by reference."""
CACHE_LINE = 64
"""Offsets of other tensors are multiples of it, as of memory that is allocated."""
LARGE_TENSOR = 1 << 16
"""Bytes from which a tensor begins on a page: at most a sixteenth of the file is padding."""
LINKED_SHARE = 4
"""Tensors that must be converted may be one part in so many of those that are linked."""


@dataclass(frozen=True)
class PlannedTensor:
    """Say where a tensor goes, and how it gets there.

    Attributes:
        name: the initializer.
        file: path inside the output directory.
        offset: its first byte there; None inside the graph's file, where only writing tells.
        nbytes: its bytes.
        how: `copy` an unchanged range of the checkpoint, `convert` what is read, `link` the checkpoint's file, or
            write what is in `memory`.
    """

    name: str
    file: str
    offset: int | None
    nbytes: int
    how: How


@dataclass(frozen=True)
class GraphPlan:
    """Say what writing a graph will write.

    Attributes:
        graph_file: path of the graph inside the output directory.
        data_file: path of the file for weights beside it; None where there is none.
        data_bytes: its size.
        tensors: every tensor above `SMALL_TENSOR`, in the order in which they are written.
        links: path inside the output directory → file of the checkpoint that it is a link to.
    """

    graph_file: str
    data_file: str | None
    data_bytes: int
    tensors: tuple[PlannedTensor, ...]
    links: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> tuple[tuple[str, int | None], ...]:
        """The files that writing makes, with their bytes; the graph's size is known after writing, a link has none."""
        data = [(self.data_file, self.data_bytes)] if self.data_file else []
        return ((self.graph_file, None), *data, *((name, 0) for name, _ in self.links))

    def bytes_of(self, how: How) -> int:
        """Return the bytes of the tensors that are handled in a way."""
        return sum(tensor.nbytes for tensor in self.tensors if tensor.how == how)


def plan_graph(model: ir.Model, file_name: str, options: OutputOptions) -> GraphPlan:
    """Plan how a graph is written.

    Args:
        model: graph whose initializers hold tensors, bound or in memory.
        file_name: path of the graph inside the output directory.
        options: `external_data` and `weights`.

    Raises:
        OptionError: `weights` is `link`, and too many tensors aren't in the checkpoint as the graph needs them.
        OutputError: two files of the checkpoint would be linked under one name.
    """
    large = sorted(_large(model), key=lambda item: _position(item[1]))
    data_file = file_name + EXTERNAL_SUFFIX
    if options.weights == "link":
        return _plan_links(large, file_name, options)
    if options.external_data == "auto" and weights_bytes(model) + GRAPH_ALLOWANCE < PROTOBUF_LIMIT:
        tensors = tuple(PlannedTensor(name, file_name, None, item.nbytes, how(item)) for name, item in large)
        return GraphPlan(file_name, None, 0, tensors)
    tensors, end = _lay_out(large, data_file)
    return GraphPlan(file_name, data_file if tensors else None, end, tensors)


def weights_bytes(model: ir.Model) -> int:
    """Return the bytes of all initializers of a graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def how(tensor: ir.TensorProtocol) -> How:
    """Tell how a tensor gets into a file."""
    made = expression_of(tensor)
    if made is None or isinstance(made, InMemory):
        return "memory"
    return "convert" if made.contiguous is None else "copy"


def expression_of(tensor: ir.TensorProtocol) -> Expression | None:
    """Return what a bound tensor is made of, None for one that isn't bound."""
    return tensor.expression if isinstance(tensor, BoundTensor) else None


def _large(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL_TENSOR and tensor.dtype != ir.DataType.STRING:
            yield name, tensor


def _position(tensor: ir.TensorProtocol) -> tuple[bool, str, int]:
    """Order tensors as they are in the checkpoint, so that it is read from the beginning to the end."""
    made = expression_of(tensor)
    first = next(made.stored(), None) if made is not None else None
    return (True, "", 0) if first is None else (False, first.file, first.begin)


def _lay_out(tensors: Iterable[tuple[str, ir.TensorProtocol]], data_file: str) -> tuple[tuple[PlannedTensor, ...], int]:
    """Give each tensor its offset; those with one expression share it."""
    planned: list[PlannedTensor] = []
    places: dict[object, int] = {}
    end = 0
    for name, tensor in tensors:
        made = expression_of(tensor)
        key = id(tensor) if made is None else made
        if key not in places:
            step = PAGE if tensor.nbytes >= LARGE_TENSOR else CACHE_LINE
            places[key] = -(-end // step) * step
            end = places[key] + tensor.nbytes
        planned.append(PlannedTensor(name, data_file, places[key], tensor.nbytes, how(tensor)))
    return tuple(planned), end


def _plan_links(large: list[tuple[str, ir.TensorProtocol]], file_name: str, options: OutputOptions) -> GraphPlan:
    linked: list[PlannedTensor] = []
    others: list[tuple[str, ir.TensorProtocol]] = []
    links: dict[str, str] = {}
    for name, tensor in large:
        where = linkable(tensor)
        if where is None:
            others.append((name, tensor))
            continue
        target = _name_of_link(where.file)
        if links.setdefault(target, where.file) != where.file:
            raise OutputError(
                f"{where.file} and {links[target]} of the checkpoint would both be linked as {target}; "
                "leave --weights link out"
            )
        linked.append(PlannedTensor(name, target, where.offset, where.nbytes, "link"))
    data_file = file_name + EXTERNAL_SUFFIX
    tensors, end = _lay_out(others, data_file)
    _check_linked(linked, others, options)
    return GraphPlan(file_name, data_file if tensors else None, end, (*linked, *tensors), tuple(sorted(links.items())))


def _name_of_link(file: str) -> str:
    """Return the name that a file of a checkpoint gets; the weights of modules, being namesakes, keep directories."""
    folder, name = PurePosixPath(file).parent.name, PurePosixPath(file).name
    return f"{folder}/{name}" if MODULE_FOLDER.fullmatch(folder) else name


def linkable(tensor: ir.TensorProtocol) -> ByteRange | None:
    """Return where a tensor is in the checkpoint as it is in the graph, None where that isn't so."""
    made = expression_of(tensor)
    where = made.contiguous if made is not None else None
    return None if where is None or where.offset % max(1, int(tensor.dtype.itemsize)) else where


def _check_linked(
    linked: list[PlannedTensor], others: list[tuple[str, ir.TensorProtocol]], options: OutputOptions
) -> None:
    bound = [(name, tensor) for name, tensor in others if expression_of(tensor) is not None]
    converted, kept = sum(tensor.nbytes for _, tensor in bound), sum(item.nbytes for item in linked)
    if converted * LINKED_SHARE <= kept:
        return
    name, tensor = max(bound, key=lambda item: item[1].nbytes)
    made = expression_of(tensor)
    assert made is not None
    raise OptionError(
        f"--weights link: {converted} bytes of weights aren't in the checkpoint as the graph needs them, and only "
        f"{kept} are; the largest is {name}, {_reason(made, options)}; leave --weights link out"
    )


def _reason(made: Expression, options: OutputOptions) -> str:
    if isinstance(made, InMemory):
        return "which isn't in a safetensors file"
    found = sorted({stored.dtype.name for stored in made.stored() if stored.dtype != made.dtype})
    if found:
        return f"which is {', '.join(found)} there and {made.dtype.name} with --dtype {options.dtype}"
    inner = made.of if isinstance(made, Cast) else made
    return f"which is made of {len(list(made.stored()))} tensors ({type(inner).__name__})"
