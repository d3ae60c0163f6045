"""Load an exported directory: as a model of Transformers where torch is installed, else as one of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.errors import MissingDependencyError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.settings import RunSettings

if TYPE_CHECKING:
    import onnxruntime

    from onnxport.runtime.models import OnnxModel


def load(
    directory: str | Path,
    *,
    device: str = "cpu",
    providers: Sequence[Any] | None = None,
    session_options: onnxruntime.SessionOptions | None = None,
    threads: int | None = None,
) -> OnnxModel | LightModel:
    """Load what an export wrote.

    Args:
        directory: the directory.
        device: `cpu`, or a kind of accelerator with an optional number, such as `cuda:0`.
        providers: ONNX Runtime's execution providers; those of the device without.
        session_options: ONNX Runtime's session options.
        threads: threads of one operator, as many as there are cores without.

    Returns:
        A model that is called with the tokenizer's or processor's tensors or arrays and, where it was exported for
        generating, has `generate`. Without torch, a `LightModel`, which takes arrays.

    Raises:
        CheckpointNotFoundError: it isn't a directory that onnxport wrote.
        OptionError: the device or a provider isn't there.
        ValidationError: ONNX Runtime refuses a graph.
    """
    beside_torch = find_spec("torch") is not None and find_spec("transformers") is not None
    settings = RunSettings(device, providers, session_options, threads, spinning=not beside_torch)
    opened = Directory(directory, settings)
    if not beside_torch:
        return LightModel(opened)
    from onnxport.runtime.models import torch_model

    return torch_model(opened)


def pipeline(task: str, directory: str | Path, **arguments: Any) -> Any:
    """Return the pipeline of Transformers for a task, over an exported directory.

    Args:
        task: a task of Transformers' pipelines.
        directory: what an export wrote, with the checkpoint's tokenizer or processor.
        **arguments: `device`, `providers`, `session_options` and `threads` as for `load`; all others go to the
            pipeline.

    Raises:
        MissingDependencyError: torch or Transformers isn't installed.
        UnsupportedError: there is no such pipeline, or the directory was exported for another task.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor that the pipeline needs.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise MissingDependencyError("pipelines need torch and transformers: pip install 'onnxport[export]'")
    from onnxport.runtime.pipelines import make_pipeline

    names = ("device", "providers", "session_options", "threads")
    settings = {name: arguments.pop(name) for name in names if name in arguments}
    if "device" in settings:
        settings["device"] = _device(settings["device"])
    model = load(directory, **settings)
    if isinstance(model, LightModel):
        raise UnsupportedError(f"{directory} can't be run as a pipeline")
    return make_pipeline(task, model, arguments)


def _device(device: Any) -> str:
    """Return the name of a device as pipelines take it: a number, a name, or one of torch."""
    if isinstance(device, int):
        return "cpu" if device < 0 else f"cuda:{device}"
    return str(device or "cpu")
