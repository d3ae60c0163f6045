"""Adapters beside an export: files of the inputs that a graph has for them, which ONNX Runtime loads.

A file has A [in_features, rank] and B [rank, out_features], with the adapter's scale in B. Any number of them use one
graph, if they change no other layers than it has inputs for. Each of several graphs has a file of its own, since ONNX
Runtime refuses values for inputs that a graph lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.bundles.adapter_names import SUFFIX, adapter_file
from onnxport.bundles.manifest import TensorDescription, open_manifest
from onnxport.checkpoint.adapters import CONFIG_NAME, Adapter, open_adapter
from onnxport.checkpoint.reading import Reader, list_tensors
from onnxport.errors import OptionError, OutputError, UnsupportedError, WeightsMismatchError
from onnxport.passes.adapter_inputs import DOWN, UP

if TYPE_CHECKING:
    import onnx_ir as ir
    from numpy.typing import NDArray

_SHOWN = 5
_EMBEDDING = "lora_embedding_"


def file_name(adapter: Adapter) -> str:
    """Return the name of an adapter's file: the last part of its path or repository id."""
    return (Path(adapter.name).name or adapter.directory.name) + SUFFIX


def adapted_weights(adapter: Adapter, names: Collection[str]) -> dict[str, str]:
    """Map the modules that an adapter changes to the names of their weights in the model.

    Args:
        adapter: the adapter.
        names: names of the model's parameters, or of those that are linear layers' weights with inputs.

    Raises:
        UnsupportedError: the adapter changes more than the weights of layers with LoRA factors.
        WeightsMismatchError: a module isn't in the model.
    """
    tables = [f"factors of the embeddings {name}" for name, keys in adapter.factors.items() if _EMBEDDING in keys.down]
    others = [*adapter.replacements, *adapter.tokens, *tables]
    if others or adapter.config.get("use_dora"):
        what = ", ".join(others[:_SHOWN]) if others else "DoRA's magnitudes"
        raise UnsupportedError(
            f"{adapter.name}: the adapter has {what}, and only LoRA factors of linear layers can be inputs of a graph; "
            "merge it, without --adapter-inputs"
        )
    found = {module: _weight_of(module, names) for module in adapter.factors}
    unknown = [module for module, name in found.items() if name is None]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise WeightsMismatchError(
            f"{adapter.name}: the adapter changes {', '.join(unknown[:_SHOWN])}{more}, which the graph has no weights "
            f"or inputs for; check the base model, and the adapter's {CONFIG_NAME}"
        )
    return {module: name for module, name in found.items() if name is not None}


def _weight_of(module: str, names: Collection[str]) -> str | None:
    """Return the name of a module's weight, whose path may have another prefix in the adapter."""
    weight = f"{module}.weight"
    if weight in names:
        return weight
    found = [name for name in names if f".{name}".endswith(f".{weight}") or f".{weight}".endswith(f".{name}")]
    return found[0] if len(found) == 1 else None


def adapter_inputs_of(model: ir.Model) -> tuple[TensorDescription, ...]:
    """Return the optional inputs of a graph, those with a default: the matrices of adapters.

    Args:
        model: the graph.
    """
    optional = [value for value in model.graph.inputs if value.name in model.graph.initializers]
    return tuple(
        TensorDescription(
            str(value.name),
            _DTYPES[str(value.dtype)],
            tuple(axis if isinstance(axis, int) else str(axis.value) for axis in value.shape or ()),
        )
        for value in optional
    )


def write_adapter_files(adapter: Adapter, file: Path, inputs: Mapping[str, Sequence[TensorDescription]]) -> list[Path]:
    """Write an adapter as files that ONNX Runtime loads, one for each graph.

    Args:
        adapter: the adapter.
        file: the file to write; see `adapter_file`.
        inputs: component name to the graph's inputs for adapters, of graphs that have some.

    Returns:
        The files.

    Raises:
        UnsupportedError: see `adapted_weights`.
        WeightsMismatchError: a module has no input, or its matrices have other sizes.
        CorruptCheckpointError: a tensor can't be read.
        OutputError: the file can't be written.
    """
    described = {value.name: value for values in inputs.values() for value in values}
    weights = {name.removesuffix(DOWN) + ".weight" for name in described if name.endswith(DOWN)}
    values: dict[str, Any] = {}
    for name, array in _matrices(adapter, adapted_weights(adapter, weights)).items():
        expected = described[name]
        if any(isinstance(axis, int) and axis != size for axis, size in zip(expected.axes, array.shape, strict=True)):
            raise WeightsMismatchError(
                f"{adapter.name}: {name} is {list(array.shape)}, and the graph takes {list(expected.axes)}; give the "
                "base model that the adapter was trained with"
            )
        values[name] = _ort_value(array, expected.dtype)
    files = {component: adapter_file(file, component, inputs) for component in inputs}
    for component, target in files.items():
        names = {value.name for value in inputs[component]}
        _write({name: value for name, value in values.items() if name in names}, target)
    return list(files.values())


def _write(values: Mapping[str, Any], file: Path) -> None:
    import onnxruntime

    written = onnxruntime.AdapterFormat()
    written.set_adapter_version(1)
    written.set_model_version(1)
    written.set_parameters(dict(values))
    try:
        written.export_adapter(str(file))
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"{file}: the adapter can't be written ({error}); check the path and its permissions"
        ) from error


def convert_adapter(path: Path, directory: Path, output: Path | None = None) -> list[Path]:
    """Write an adapter as a file for an exported directory that keeps adapters apart.

    Args:
        path: directory of the adapter.
        directory: the exported directory.
        output: the file to write; None for one in the exported directory, named like the adapter.

    Returns:
        The path of the file, or of that for each graph.

    Raises:
        CheckpointError: the adapter or the export can't be read.
        OptionError: the export has no inputs for adapters.
        UnsupportedError: the adapter has more than LoRA factors of linear layers.
        WeightsMismatchError: the graph has no inputs for a layer, or the sizes differ.
        OutputError: the file can't be written.
    """
    components = open_manifest(directory).components
    inputs = {component.name: component.adapter_inputs for component in components if component.adapter_inputs}
    if not inputs:
        raise OptionError(f"{directory} has no inputs for adapters: export it with --adapter-inputs")
    adapter = open_adapter(str(path), path.expanduser())
    return write_adapter_files(adapter, output or directory / file_name(adapter), inputs)


def _matrices(adapter: Adapter, weights: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """Return A and B of each module in float32, by the names of the graph's inputs."""
    inventory = list_tensors(adapter.directory, [adapter.file])
    found = {}
    with Reader(adapter.directory, inventory.files) as reader:
        for module, weight in weights.items():
            factors = adapter.factors[module]
            down, up = (
                inventory.tensors[key].evaluate(reader).astype(np.float32) for key in (factors.down, factors.up)
            )
            path = weight.removesuffix(".weight")
            found[path + DOWN] = np.ascontiguousarray(down.T)
            found[path + UP] = np.ascontiguousarray(up.T) * np.float32(adapter.scale_of(module))
        reader.verify()
    return found


def _ort_value(array: NDArray[np.float32], dtype: str) -> Any:
    """Return a value of ONNX Runtime; NumPy has no bfloat16, which is passed as its bits."""
    import onnx_ir as ir
    from onnxruntime import OrtValue

    data_type = ir.DataType[next(name for name, value in _DTYPES.items() if value == dtype)]
    cast = array.astype(data_type.numpy())
    if dtype == "bfloat16":
        return OrtValue.ortvalue_from_numpy_with_onnx_type(cast.view(np.uint16), int(data_type))
    return OrtValue.ortvalue_from_numpy(cast)


_DTYPES = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}
