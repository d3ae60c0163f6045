"""Safetensors files and graphs for tests, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from safetensors.numpy import save_file

from onnxport.binding.bound_graphs import BoundTensor
from onnxport.checkpoint.reading import Inventory, Reader, list_tensors
from onnxport.weights.expressions import Expression, Reads

Array = np.ndarray[Any, Any]


def checkpoint(directory: Path, **shards: Mapping[str, Array]) -> tuple[Inventory, Reader]:
    """Write shards (file name without suffix to tensors) and open them."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, tensors in shards.items():
        save_file(dict(tensors), directory / f"{name}.safetensors")
    paths = sorted(directory.glob("*.safetensors"))
    inventory = list_tensors(directory, paths)
    return inventory, Reader(directory, inventory.files)


def graph(tensors: Mapping[str, Expression | Array], reader: Reads) -> ir.Model:
    """Return a model that adds each initializer to an input of its shape."""
    inputs, outputs, nodes, initializers = [], [], [], []
    for name, made in tensors.items():
        tensor = ir.tensor(made, name=name) if isinstance(made, np.ndarray) else BoundTensor(name, made, reader)
        shape, tensor_type = ir.Shape(tuple(tensor.shape.numpy())), ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, shape=shape, type=tensor_type, const_value=tensor)
        source = ir.Value(name=f"{name}_in", shape=shape, type=tensor_type)
        node = ir.node("Add", [source, value])
        node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = f"{name}_out", shape, tensor_type
        inputs.append(source)
        outputs.append(node.outputs[0])
        nodes.append(node)
        initializers.append(value)
    built = ir.Graph(inputs, outputs, nodes=nodes, initializers=initializers, opset_imports={"": 20}, name="test")
    return ir.Model(built, ir_version=10, producer_name="test")
