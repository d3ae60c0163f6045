"""Read what a directory with ONNX graphs holds, without loading their weights."""

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
    """Describe one ONNX file.

    Attributes:
        file: path of the file inside the directory.
        opset: opset of the default domain.
        nodes: number of nodes, those of subgraphs included.
        operators: operator to how often it occurs, the most frequent first.
        parameters: number of elements of all initializers.
        bytes: bytes of the file and of the files with its weights.
        external_data: names of the files with its weights.
        inputs: in the graph's order.
        outputs: in the graph's order.
        component: the component's name, where a manifest says it.
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
    """Describe a directory.

    Attributes:
        graphs: its ONNX files, by name.
        model: the checkpoint that it came from, where a manifest says it.
        task: its task, where a manifest says it.
        validation: status of its validation, where a manifest says it.
    """

    graphs: tuple[GraphInspection, ...]
    model: str | None = None
    task: str | None = None
    validation: str | None = None


def inspect(path: str | Path) -> Inspection:
    """Describe a directory with ONNX files, or one such file.

    Args:
        path: directory or file.

    Raises:
        CheckpointNotFoundError: there is no ONNX file.
        CorruptCheckpointError: a file can't be read.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointNotFoundError(f"{path} isn't there; give an exported directory or a graph")
    files = [path] if path.is_file() else files_inside(path, "*.onnx", "onnx/*.onnx")
    if not files:
        raise CheckpointNotFoundError(f"{path} holds no .onnx file; give an exported directory or a graph")
    root = path if path.is_dir() else path.parent
    manifest = read_manifest(path) if path.is_dir() else None
    components = {item.file: item.name for item in manifest.components} if manifest else {}
    graphs = tuple(_inspect_graph(file, str(file.relative_to(root)), components) for file in files)
    if manifest is None:
        return Inspection(graphs)
    return Inspection(graphs, manifest.source.get("model"), manifest.task, manifest.validation.get("status"))


def check_graph(file: Path) -> None:
    """Check that a graph can be read and that its weights are there and whole; no tensor is read.

    Raises:
        CheckpointNotFoundError: the file with its weights isn't there.
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
    """Read a graph; weights outside the file stay there."""
    import onnx_ir as ir
    from google.protobuf.message import DecodeError

    try:
        model = ir.load(str(file))
    except (DecodeError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptCheckpointError(f"{file} isn't a readable ONNX file: {error}") from error
    if not model.opset_imports:
        # Protobuf reads an empty or foreign file as a model with nothing set.
        raise CorruptCheckpointError(f"{file} isn't an ONNX file: it names no opset")
    return model


def _external_files(file: Path, tensors: Iterable[ir.TensorProtocol]) -> tuple[str, ...]:
    import onnx_ir as ir

    outside = [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    names = tuple(sorted({str(tensor.location) for tensor in outside}))
    paths = {name: inside(file.parent, name, file) for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise CheckpointNotFoundError(f"{file} has its weights in {', '.join(missing)}, which isn't there")
    for tensor in outside:
        end, size = (tensor.offset or 0) + tensor.nbytes, paths[str(tensor.location)].stat().st_size
        if end > size:
            raise CorruptCheckpointError(
                f"{paths[str(tensor.location)]} is truncated: it has {size} bytes, and {tensor.name} of {file.name} "
                f"ends at byte {end}; export the model again"
            )
    return names


def _operator(node: ir.Node) -> str:
    """Name a node's operator, with its domain unless that is ONNX's own."""
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def describe_value(value: ir.Value) -> TensorDescription:
    """Describe an input or output of a graph."""
    dims = [getattr(dim, "value", dim) for dim in value.shape or ()]
    axes = tuple(dim if isinstance(dim, int) else str(dim or "?") for dim in dims)
    dtype = value.dtype.name.lower() if value.dtype is not None else "unknown"
    return TensorDescription(str(value.name), _DTYPES.get(dtype, dtype), axes)


_DTYPES = {"float": "float32", "double": "float64"}
