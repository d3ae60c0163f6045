"""Load an exported directory: as a Transformers model if torch is installed, otherwise as a NumPy model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.errors import MissingDependencyError, ReplacedExportError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.settings import Provider, RunSettings

if TYPE_CHECKING:
    import onnxruntime
    import torch
    from transformers import Pipeline

    from onnxport.runtime.models import OnnxModel


_ATTEMPTS = 5
"""How often a directory is loaded if an export with `--force` replaces it meanwhile."""


def load(
    directory: str | Path,
    *,
    device: str = "cpu",
    providers: Sequence[Provider] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    threads: int | None = None,
    adapter: str | Path | None = None,
    dtype: str | None = None,
) -> OnnxModel | LightModel:
    """Load an exported directory.

    Args:
        directory: the exported directory.
        device: `cpu`, or an accelerator type with an optional index, such as `cuda:0`.
        providers: ONNX Runtime execution providers; defaults to those of `device`.
        session_options: ONNX Runtime session options.
        threads: number of intra-op threads; defaults to the number of cores.
        adapter: file of an adapter for an export with `--adapter-inputs`, `*.onnx_adapter`; None for the base model.
        dtype: precision of the graphs, a name that `--dtype` had; defaults to the first.

    Returns:
        A model that is called with the tensors or arrays of the tokenizer or processor and, if it was exported with a
        generation task, has `generate`. Without torch, a `LightModel`, whose inputs are NumPy arrays.

    Raises:
        CheckpointNotFoundError: the directory wasn't written by onnxport.
        OptionError: the device, an execution provider or the precision isn't available.
        ValidationError: ONNX Runtime can't load a graph.
        CheckpointError: a file of a graph is truncated, damaged or lacking; `ReplacedExportError` if other exports
            replace the directory again and again.
    """
    has_torch = find_spec("torch") is not None and find_spec("transformers") is not None
    file = None if adapter is None else Path(adapter)
    settings = RunSettings(
        device, providers, session_options, threads, spinning=not has_torch, adapter=file, dtype=dtype
    )
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(ReplacedExportError):
            return _load(directory, settings, has_torch=has_torch)
    return _load(directory, settings, has_torch=has_torch)


def _load(directory: str | Path, settings: RunSettings, *, has_torch: bool) -> OnnxModel | LightModel:
    opened = Directory(directory, settings)
    with opened.unreplaced():
        if not has_torch:
            return LightModel(opened)
        from onnxport.runtime.torch_model import torch_model

        return torch_model(opened)


def pipeline(task: str, directory: str | Path, **arguments: Any) -> Pipeline:
    """Build a Transformers pipeline over an exported directory.

    Args:
        task: a task of Transformers' pipelines.
        directory: the exported directory, with the checkpoint's tokenizer or processor.
        **arguments: `device`, `providers`, `session_options`, `threads`, `adapter` and, as a name, `dtype`, as in
            `load`; all others are passed on to `transformers.pipeline`.

    Raises:
        MissingDependencyError: torch or Transformers isn't installed.
        UnsupportedError: Transformers has no such pipeline, or the directory was exported for another task.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor that the pipeline requires.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingDependencyError("pipelines need torch and transformers: pip install 'onnxport[export]'")
    from onnxport.runtime.pipelines import make_pipeline

    names = ("device", "providers", "session_options", "threads", "adapter", "dtype")
    settings = {
        name: arguments.pop(name)
        for name in names
        if name in arguments and (name != "dtype" or isinstance(arguments[name], str))
    }
    if "device" in settings:
        settings["device"] = _device_name(settings["device"])
    model = load(directory, **settings)
    if isinstance(model, LightModel):
        raise UnsupportedError(f"{directory} can't be run as a pipeline")
    return make_pipeline(task, model, arguments)


def _device_name(device: int | str | torch.device | None) -> str:
    """Return the device string for a pipeline's `device`: a CUDA index (-1 for the CPU), a string or a torch device."""
    if isinstance(device, int):
        return "cpu" if device < 0 else f"cuda:{device}"
    return str(device or "cpu")
