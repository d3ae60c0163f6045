"""Read the tensors of a checked checkpoint: memory-map safetensors, or unpickle with `weights_only=True`."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, CorruptCheckpointError, UntrustedCodeError
from onnxport.loading.failures import UNPICKLING_FAILURES

if TYPE_CHECKING:
    import torch


def read_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors or PyTorch checkpoint, on the CPU and in their stored dtypes.

    Raises:
        CorruptCheckpointError: a file can't be read, or has a value that isn't a tensor.
        UntrustedCodeError: a pickled file refers to more than tensors.
    """
    read: Callable[[Path], dict[str, torch.Tensor]]
    read = _read_safetensors if checkpoint.format == "safetensors" else _read_pickled
    state: dict[str, torch.Tensor] = {}
    for path in checkpoint.weight_files:
        for name, tensor in read(path).items():
            if name in state:
                raise CorruptCheckpointError(
                    f"{checkpoint.name}: tensor {name!r} is in {path.name} and in a shard before it; "
                    f"save the checkpoint again, each tensor once"
                )
            state[name] = tensor
    for prefix, path in checkpoint.module_weights.items():
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        state |= {prefix + name: tensor for name, tensor in tensors.items()}
    return state


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptCheckpointError(
            f"{path}: the tensors can't be read ({error}); download or save the file again"
        ) from error


def _read_pickled(path: Path) -> dict[str, torch.Tensor]:
    content = _unpickle(path)
    nested = content.get("state_dict") if isinstance(content, Mapping) else None
    if isinstance(nested, Mapping):
        content = nested
    return _check_tensors(path, content)


def _unpickle(path: Path) -> object:
    """Unpickle tensors only; zip files are memory-mapped, so unused tensors stay on disk."""
    import torch

    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content: object = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _rejected(path, error) from error
    except UNPICKLING_FAILURES as error:
        raise _unreadable(path, error) from error
    return content


def _rejected(path: Path, error: Exception) -> CheckpointError:
    """Return the error for an object that torch rejects, without torch's advice to set `weights_only=False`."""
    detail = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(detail.split())[:300]
    if "Unsupported operand" in reason:
        return CorruptCheckpointError(
            f"{path} is pickled in a way that torch can't read as tensors only ({reason}: usually a pickle "
            f"protocol above 2); save its state dict as safetensors, or with `torch.save` and its default protocol"
        )
    if "GLOBAL" in reason or "class" in reason or "persistent" in reason:
        return UntrustedCodeError(
            f"{path} has more than tensors, so reading it stopped ({reason}). If you trust where it comes from, "
            f"load it yourself and save its state dict as safetensors; otherwise don't use the file"
        )
    return _unreadable(path, error)


def _check_tensors(path: Path, content: object) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(content, Mapping):
        raise CorruptCheckpointError(
            f"{path} contains a {type(content).__name__}, not a state dict of tensors; save `model.state_dict()`"
        )
    state: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CorruptCheckpointError(
                f"{path}: {name!r} is a {type(value).__name__}, not a tensor; save `model.state_dict()`, "
                f"without the optimizer or other values"
            )
        state[name] = value
    if not state:
        raise CorruptCheckpointError(f"{path} has no tensors; save the checkpoint again")
    return state


def _unreadable(path: Path, error: Exception) -> CorruptCheckpointError:
    # torch's message begins with advice to set weights_only=False; the cause comes after it.
    detail = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(detail.split())[:300] or type(error).__name__
    return CorruptCheckpointError(
        f"{path}: the tensors can't be read ({reason}): the file is truncated or damaged; download or save it again"
    )
