"""Write graphs with other names of inputs and outputs, or with their external data in several files.

The files may be hard links to those of another export, so they are replaced instead of modified.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.writing.planning import PAGE

if TYPE_CHECKING:
    import onnx_ir as ir

_BUFFER = 1 << 24


def rename_values(file: Path, names: Mapping[str, str]) -> None:
    """Rename inputs and outputs of a graph; its external data stays as it is.

    Args:
        file: the graph.
        names: the old names, to the new ones.
    """
    import onnx_ir as ir

    model = ir.load(file)
    for value in (*model.graph.inputs, *model.graph.outputs):
        new_name = names.get(str(value.name))
        if new_name is not None:
            value.name = new_name
    replace_graph(file, model)


def rename_data(file: Path, names: Mapping[str, str]) -> None:
    """Refer to files of external data by other names; the files aren't renamed.

    Args:
        file: the graph.
        names: the old names, to the new ones.
    """
    import onnx_ir as ir

    model = ir.load(file)
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and tensor.location in names:
                value.const_value = ir.ExternalTensor(
                    names[str(tensor.location)], tensor.offset, tensor.length, tensor.dtype,
                    shape=tensor.shape, name=tensor.name, base_dir=file.parent,
                )  # fmt: skip
    replace_graph(file, model)


def leave_out_inputs(file: Path, names: Collection[str], fill: int = 0) -> None:
    """Replace inputs of a graph with constant tensors of the sizes of its other inputs.

        input_boxes [batch_size, prompts, box_coordinates]   →   zeros of [batch_size, prompts, 0]

    Args:
        file: the graph.
        names: the inputs; axes that no other input has get the size 0, so that tensors without elements stand for
            inputs that aren't passed.
        fill: the value of all elements.
    """
    import onnx_ir as ir

    model = ir.load(file)
    graph = model.graph
    kept = [value for value in graph.inputs if value.name not in names]
    for value in [value for value in graph.inputs if value.name in names]:
        sizes = [_size_node(axis, kept) for axis in value.shape or ()]
        shape = ir.node("Concat", [node.outputs[0] for node in sizes], {"axis": 0})
        dtype = value.dtype or ir.DataType.FLOAT
        filling = ir.tensor(np.full(1, fill, dtype.numpy()))
        constant = ir.node("ConstantOfShape", [shape.outputs[0]], {"value": filling})
        graph.insert_before(graph[0], [*sizes, shape, constant])
        constant.outputs[0].name, constant.outputs[0].dtype, constant.outputs[0].shape = value.name, dtype, value.shape
        ir.convenience.replace_all_uses_with(value, constant.outputs[0])
        graph.inputs.remove(value)
    replace_graph(file, model)


def _size_node(axis: int | ir.SymbolicDim, inputs: Sequence[ir.Value]) -> ir.Node:
    """Return a node whose output [1] is the size of an axis: that of an input that has it as well, otherwise 0."""
    import onnx_ir as ir

    shared = ((value, value.shape.dims.index(axis)) for value in inputs if value.shape and axis in value.shape.dims)
    found = None if isinstance(axis, int) else next(shared, None)
    if found is None:
        return ints(axis if isinstance(axis, int) else 0)
    value, index = found
    return ir.node("Shape", [value], {"start": index, "end": index + 1})


def mask_padding(file: Path, pad_token_id: int) -> None:
    """Compute the mask of token ids instead of taking it: 1 for what isn't the padding token.

        attention_mask [batch_size, sequence]   →   Cast(Not(Equal(input_ids, pad_token_id)))

    Args:
        file: the graph; it has the inputs `input_ids` and `attention_mask`, of the same shape.
        pad_token_id: id of the padding token.
    """
    import onnx_ir as ir

    model = ir.load(file)
    tokens, mask = (input_named(model.graph, name) for name in ("input_ids", MASK))
    padding = ir.node("Constant", [], {"value": ir.tensor(np.array(pad_token_id, np.int64))})
    is_padding = ir.node("Equal", [tokens, padding.outputs[0]])
    is_token = ir.node("Not", [is_padding.outputs[0]])
    cast = ir.node("Cast", [is_token.outputs[0]], {"to": ir.DataType.INT64})
    replace_input(model.graph, mask, [padding, is_padding, is_token, cast])
    model.graph.inputs.remove(mask)
    replace_graph(file, model)


def keep_all(file: Path, mask: str) -> None:
    """Keep all features, instead of those of a mask.

        audio_features = GatherND(features, Transpose(NonZero(mask)))   →   Reshape(features, [-1, hidden_size])

    Args:
        file: the graph.
        mask: the input with the mask, which is removed.
    """
    import onnx_ir as ir

    model = ir.load(file)
    value = input_named(model.graph, mask)
    (found,) = (use.node for use in value.uses())
    (positions,) = (use.node for use in found.outputs[0].uses())
    (taken,) = (use.node for use in positions.outputs[0].uses())
    assert (found.op_type, positions.op_type, taken.op_type) == ("NonZero", "Transpose", "GatherND"), file
    output = taken.outputs[0]
    assert output.shape is not None and isinstance(output.shape[-1], int)
    shape = ints(-1, output.shape[-1])
    kept = ir.node("Reshape", [taken.inputs[0], shape.outputs[0]])
    replace_output(model.graph, output, [shape, kept], output.shape)
    model.graph.remove([taken, positions, found], safe=True)
    model.graph.inputs.remove(value)
    replace_graph(file, model)


def unbatch_inputs(file: Path, names: Collection[str]) -> None:
    """Take inputs without the batch axis, which is of size 1 in the graph.

        spectrogram [frames, mel_bins]   →   Unsqueeze   →   [1, frames, mel_bins]

    Args:
        file: the graph.
        names: the inputs.
    """
    import onnx_ir as ir

    model = ir.load(file)
    for name in names:
        value = input_named(model.graph, name)
        axis = ints(0)
        batched = ir.node("Unsqueeze", [value, axis.outputs[0]])
        replace_input(model.graph, value, [axis, batched])
        value.shape = ir.Shape(value.shape.dims[1:]) if value.shape else None
    replace_graph(file, model)


MASK = "attention_mask"
"""Name of the mask of token ids."""


def ints(*values: int) -> ir.Node:
    """Return a node whose output is a constant of int64, [values]."""
    import onnx_ir as ir

    return ir.node("Constant", [], {"value_ints": values})


def input_named(graph: ir.Graph, name: str) -> ir.Value:
    """Return the input of a name."""
    return next(value for value in graph.inputs if value.name == name)


def output_named(graph: ir.Graph, name: str) -> ir.Value:
    """Return the output of a name."""
    return next(value for value in graph.outputs if value.name == name)


def replace_input(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    """Insert nodes at the start of a graph, and let all others take the last one's output instead of an input."""
    output = nodes[-1].outputs[0]
    output.type, output.shape = value.type, value.shape
    for use in [use for use in value.uses() if use.node not in nodes]:
        use.node.replace_input_with(use.idx, output)
    graph.insert_before(graph[0], list(nodes))


def replace_output(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], shape: ir.Shape) -> None:
    """Append nodes to a graph, and return the last one's output, of a shape, under the name of an output."""
    output = nodes[-1].outputs[0]
    output.name, output.type, output.shape = value.name, value.type, shape
    value.name = f"{value.name}/{len(graph)}"  # unique, since the graph grows
    graph.extend(nodes)
    graph.outputs[graph.outputs.index(value)] = output


def split_data(file: Path, data: Sequence[Path], limit: int) -> list[Path]:
    """Split the external data of a graph into files of limited size, by copying it.

    Args:
        file: the graph.
        data: its files of external data, in the directory of the graph.
        limit: largest size of a file, in bytes; a larger tensor gets a file of its own.

    Returns:
        The new files: `NAME`, `NAME_1`, `NAME_2`, … for the first file's name.
    """
    import onnx_ir as ir

    model, name = ir.load(file), data[0].name
    values = [value for value in model.graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)]
    chunks: list[Path] = []
    end = limit
    for value in sorted(values, key=_position):
        tensor = value.const_value
        assert isinstance(tensor, ir.ExternalTensor)
        start = -(-end // PAGE) * PAGE
        if start + tensor.nbytes > limit:
            chunks.append(file.with_name(f".{name}.{len(chunks)}"))
            start = 0
        _copy(Path(tensor.path), tensor.offset or 0, tensor.nbytes, chunks[-1], start)
        location = name + (f"_{len(chunks) - 1}" if len(chunks) > 1 else "")
        value.const_value = ir.ExternalTensor(
            location, start, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=tensor.name, base_dir=file.parent
        )
        end = start + tensor.nbytes
    for path in data:
        path.unlink()
    files = [chunk.rename(file.with_name(name + (f"_{index}" if index else ""))) for index, chunk in enumerate(chunks)]
    replace_graph(file, model)
    return files


def _position(value: ir.Value) -> tuple[str, int]:
    """Return file and offset of an external tensor."""
    tensor = value.const_value
    return str(getattr(tensor, "location", "")), int(getattr(tensor, "offset", 0) or 0)


def _copy(source: Path, offset: int, nbytes: int, target: Path, start: int) -> None:
    """Copy a byte range of a file to a position of another one, which is created."""
    with source.open("rb") as opened, target.open("r+b" if target.exists() else "wb") as written:
        opened.seek(offset)
        written.seek(start)
        while nbytes and (part := opened.read(min(nbytes, _BUFFER))):
            written.write(part)
            nbytes -= len(part)


def replace_graph(file: Path, model: ir.Model) -> None:
    """Write a graph under a temporary name, and rename it."""
    import onnx_ir as ir

    partial = file.with_name(f".{file.name}.partial")
    ir.save(model, partial)
    partial.replace(file)
