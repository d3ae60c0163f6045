"""Read the tensors of a checkpoint that was checked: mapped from safetensors, unpickled as tensors only."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.errors import CheckpointError, CorruptCheckpointError, UntrustedCodeError

if TYPE_CHECKING:
    import torch


def read_state(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors or PyTorch checkpoint, on the CPU, with the dtypes they were saved in.

    Raises:
        CorruptCheckpointError: a file can't be read, or holds something that isn't a tensor.
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
        own = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
        state |= {prefix + name: tensor for name, tensor in own.items()}
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
    return _only_tensors(path, content)


def _unpickle(path: Path) -> Any:
    """Unpickle tensors and nothing else; zip files are mapped, so tensors that aren't used stay on disk."""
    import torch

    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    except Exception as error:  # torch raises nearly everything on damaged files
        raise _unreadable(path, error) from error


def _refused(path: Path, error: Exception) -> CheckpointError:
    """Say what torch refused, without its advice to unpickle everything."""
    told = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(told.split())[:300]
    if "Unsupported operand" in reason:
        return CorruptCheckpointError(
            f"{path} is pickled in a way that torch doesn't read as tensors only ({reason}: usually a pickle protocol "
            f"above 2); save its state dict as safetensors, or with `torch.save` as it is by default"
        )
    if "GLOBAL" in reason or "class" in reason or "persistent" in reason:
        return UntrustedCodeError(
            f"{path} holds more than tensors, so reading it stopped ({reason}). If you trust where it comes from, "
            f"load it yourself and save its state dict as safetensors; otherwise don't use the file"
        )
    return _unreadable(path, error)


def _only_tensors(path: Path, content: Any) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(content, Mapping):
        raise CorruptCheckpointError(
            f"{path} holds a {type(content).__name__}, not a state dict of tensors; save `model.state_dict()`"
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
        raise CorruptCheckpointError(f"{path} holds no tensors; save the checkpoint again")
    return state


def _unreadable(path: Path, error: Exception) -> CorruptCheckpointError:
    # torch's first sentence advises weights_only=False: what it found comes after it.
    told = str(error).rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(told.split())[:300] or type(error).__name__
    return CorruptCheckpointError(
        f"{path}: the tensors can't be read ({reason}): the file is truncated or damaged; download or save it again"
    )
