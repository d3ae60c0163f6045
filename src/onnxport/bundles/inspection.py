"""Describe a directory of ONNX graphs without loading their weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.bundles.manifest import TensorDescription, read_manifest
from onnxport.containment import files_inside, inside
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class GraphInspection:
    """Description of one ONNX file.

    Attributes:
        file: path relative to the directory.
        opset: opset version of the default domain.
        nodes: number of nodes, including those of subgraphs.
        operators: operator to number of nodes, the most frequent first.
        parameters: number of elements of all initializers.
        bytes: size of the file and its external data files, in bytes.
        external_data: names of its external data files.
        inputs: graph inputs, in order.
        outputs: graph outputs, in order.
        component: name of the component, if there is a manifest.
    """

    file: str
    opset: int
    nodes: int
    operators: dict[str, int]
    parameters: int
    bytes: int
    external_data: tuple[str, ...]
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    component: str | None = None


@dataclass(frozen=True)
class Inspection:
    """Description of a directory.

    Attributes:
        graphs: its ONNX files, sorted by name.
        model: the exported checkpoint, if there is a manifest.
        task: the task, if there is a manifest.
        validation: the validation status, if there is a manifest.
    """

    graphs: tuple[GraphInspection, ...]
    model: str | None = None
    task: str | None = None
    validation: str | None = None


def inspect(path: str | Path) -> Inspection:
    """Describe a directory of ONNX files, or a single file.

    Args:
        path: directory or file.

    Raises:
        CheckpointNotFoundError: there is no ONNX file.
        CorruptCheckpointError: a file can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointNotFoundError(f"{path} doesn't exist; pass an exported directory or a graph")
    files = [path] if path.is_file() else files_inside(path, "*.onnx", "onnx/*.onnx")
    if not files:
        raise CheckpointNotFoundError(f"{path} has no .onnx file; pass an exported directory or a graph")
    root = path if path.is_dir() else path.parent
    manifest = read_manifest(path) if path.is_dir() else None
    components = {item.file: item.name for item in manifest.components} if manifest else {}
    graphs = tuple(_inspect_graph(file, str(file.relative_to(root)), components) for file in files)
    if manifest is None:
        return Inspection(graphs)
    return Inspection(graphs, manifest.source.get("model"), manifest.task, manifest.validation.get("status"))


def check_graph(file: Path) -> None:
    """Check that a graph can be read and that its external data is complete; tensor data isn't read.

    Raises:
        CheckpointNotFoundError: an external data file is missing.
        CorruptCheckpointError: a file is truncated or damaged.
    """
    model = _load(file)
    _external_files(
        file, [v.const_value for g in model.graphs() for v in g.initializers.values() if v.const_value is not None]
    )


def _inspect_graph(file: Path, name: str, components: Mapping[str, str]) -> GraphInspection:
    model = _load(file)
    tensors = [v.const_value for g in model.graphs() for v in g.initializers.values() if v.const_value is not None]
    external = _external_files(file, tensors)
    operators = Counter(_operator(node) for node in model.graph.all_nodes())
    return GraphInspection(
        file=name,
        opset=model.opset_imports.get("", 0),
        nodes=sum(operators.values()),
        operators=dict(operators.most_common()),
        parameters=sum(tensor.size for tensor in tensors),
        bytes=sum((file.parent / part).stat().st_size for part in (file.name, *external)),
        external_data=external,
        inputs=tuple(describe_value(value) for value in model.graph.inputs),
        outputs=tuple(describe_value(value) for value in model.graph.outputs),
        component=components.get(name),
    )


def _load(file: Path) -> ir.Model:
    """Load a graph without its external data."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    try:
        model = ir.load(str(file))
    except (DecodeError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise CorruptCheckpointError(f"{file} isn't a readable ONNX file: {error}") from error
    if not model.opset_imports:
        # Protobuf decodes an empty file, and many others, as a ModelProto without any field.
        raise CorruptCheckpointError(f"{file} isn't an ONNX file: it imports no opset")
    return model


def _external_files(file: Path, tensors: Iterable[ir.TensorProtocol]) -> tuple[str, ...]:
    import onnx_ir as ir

    external = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    names = tuple(sorted({str(tensor.location) for tensor in external}))
    paths = {name: inside(file.parent, name, file) for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise CheckpointNotFoundError(f"{file} has its weights in {', '.join(missing)}, which doesn't exist")
    for tensor in external:
        end, size = (tensor.offset or 0) + tensor.nbytes, paths[str(tensor.location)].stat().st_size
        if end > size:
            raise CorruptCheckpointError(
                f"{paths[str(tensor.location)]} is truncated: it has {size} bytes, and {tensor.name} of {file.name} "
                f"ends at byte {end}; export the model again"
            )
    return names


def _operator(node: ir.Node) -> str:
    """Return a node's operator type, prefixed with its domain unless that is ONNX's."""
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def describe_value(value: ir.Value) -> TensorDescription:
    """Describe a graph input or output."""
    dims = [getattr(dim, "value", dim) for dim in value.shape or ()]
    axes = tuple(dim if isinstance(dim, int) else str(dim or "?") for dim in dims)
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    return TensorDescription(str(value.name), _DTYPES.get(dtype, dtype), axes)


_DTYPES = {"float": "float32", "double": "float64"}
