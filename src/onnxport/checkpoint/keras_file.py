"""Read the variables of a Keras HDF5 file by their Keras names; external links are rejected.

Transformers 4 wrote two layouts: groups listed in `layer_names` whose `weight_names` list the variables (single file),
and top-level variables that are listed in `layer_names` directly (shards of a tf_model.h5.index.json).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, MissingDependencyError

if TYPE_CHECKING:
    import h5py

_TOP_LEVEL = "top_level_model_weights"
_DAMAGED = "The file is truncated or malformed; download it again."


def read_variables(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read every variable of a TensorFlow checkpoint.

    Args:
        path: `tf_model.h5`, or the `tf_model.h5.index.json` of a sharded checkpoint.

    Returns:
        Arrays in Keras layout by Keras variable name (`tf_bert_model/bert/…/kernel:0`).

    Raises:
        MissingDependencyError: h5py isn't installed.
        CheckpointNotFoundError: the file or a shard is missing.
        CorruptCheckpointError: a file is truncated, malformed, or has two different variables with the same name.
    """
    variables: dict[str, np.ndarray[Any, Any]] = {}
    for file in _files(path):
        for name, array in _read_file(file):
            known = variables.setdefault(name, array)
            if known is not array and not np.array_equal(known, array, equal_nan=array.dtype.kind == "f"):
                raise CorruptCheckpointError(
                    f"{file} has two different tensors named {name!r}, shapes {known.shape} and {array.shape}. "
                    "Save the checkpoint again."
                )
    if not variables:
        raise CorruptCheckpointError(f"{path} has no Keras variables. {_DAMAGED}")
    return variables


def _files(path: Path) -> list[Path]:
    if not path.is_file():
        raise CheckpointNotFoundError(f"There is no TensorFlow checkpoint at {path}.")
    if path.suffix != ".json":
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"{path} is not an index of shards: {error}. {_DAMAGED}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CorruptCheckpointError(f"{path} names the shard {name!r}, which is not a file beside it.")
        if not (path.parent / name).is_file():
            raise CheckpointNotFoundError(f"{path} names the shard {name!r}, which is not beside it.")
    return [path.parent / name for name in names]


def _read_file(path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    try:
        import h5py
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading {path} needs h5py, which isn't installed: pip install 'onnxport[tf]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if "model_weights" in file and "layer_names" not in file.attrs else file
            layers = _names(root, "layer_names")
            if _TOP_LEVEL in root and _TOP_LEVEL not in layers:
                layers = [*layers, _TOP_LEVEL]
            for layer in layers:
                yield from _read_layer(root, layer, path)
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(f"{path} can't be read as a Keras HDF5 file: {error}. {_DAMAGED}") from error


def _read_layer(root: h5py.Group, layer: str, path: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    node = root[layer]
    if hasattr(node, "shape"):
        yield layer, _read_dataset(node, root, path)
        return
    for name in _names(node, "weight_names"):
        yield name, _read_dataset(node[name], root, path)


def _names(node: h5py.Group, attribute: str) -> list[str]:
    """Return an attribute that lists names. Keras splits a long list into `attribute0`, `attribute1` and so on."""
    if attribute in node.attrs:
        values = list(node.attrs[attribute])
    else:
        values, index = [], 0
        while f"{attribute}{index}" in node.attrs:
            values += list(node.attrs[f"{attribute}{index}"])
            index += 1
        if not index:
            raise KeyError(f"no attribute {attribute!r} at {node.name!r}")
    return [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values]


def _read_dataset(dataset: h5py.Dataset, root: h5py.Group, path: Path) -> np.ndarray[Any, Any]:
    # An HDF5 dataset can refer to any file on the machine; only data in the checkpoint's files is read.
    if dataset.external or dataset.is_virtual or dataset.file.filename != root.file.filename:
        raise CorruptCheckpointError(f"{path}: {dataset.name!r} points outside of the file, which isn't allowed.")
    if dataset.compression is None and dataset.id.get_storage_size() < dataset.nbytes:
        raise CorruptCheckpointError(
            f"{path}: {dataset.name!r} declares {dataset.nbytes} bytes and stores {dataset.id.get_storage_size()}. "
            f"{_DAMAGED}"
        )
    if dataset.dtype.kind not in "fiub":
        raise CorruptCheckpointError(f"{path}: {dataset.name!r} has dtype {dataset.dtype}, which isn't numeric.")
    return np.asarray(dataset[()])
