"""Load graphs in ONNX Runtime, and run them on flat inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from onnxport._onnxruntime import load_error, runtime_errors
from onnxport.bundles.inspection import check_graph
from onnxport.description.arguments import Layout
from onnxport.description.axes import LOGITS_TO_KEEP
from onnxport.errors import ValidationError
from onnxport.runtime.exact import comparable_form
from onnxport.tracing.originals import to_array

if TYPE_CHECKING:
    from typing import Any

    import onnxruntime
    from numpy.typing import NDArray


def few_runs() -> onnxruntime.SessionOptions:
    """Return the options of a session without pre-packed weights.

    For a Llama with 0.55 B parameters, pre-packing takes 2.2 s and the size of the weights again in memory, and saves
    0.1 s in each short run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its error is raised, and printed once
    options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def open_session(file: Path) -> onnxruntime.InferenceSession:
    """Load a graph on ONNX Runtime's CPU provider, in its comparable form, for few runs.

    Args:
        file: the graph.

    Raises:
        CheckpointError: a file is truncated, damaged or lacking.
        ValidationError: ONNX Runtime can't load the graph; `NoKernelError` if it lacks a kernel.
    """
    import onnxruntime
    from google.protobuf.message import DecodeError

    options = few_runs()
    try:
        return onnxruntime.InferenceSession(comparable_form(file, options), options, providers=["CPUExecutionProvider"])
    except (*runtime_errors(), LookupError, DecodeError) as error:
        check_graph(file)
        raise load_error(file.name, error) from error


class AdaptedSession:
    """A session whose runs use an adapter.

    Args:
        session: a session of a graph with inputs for adapters.
        file: the adapter's file.
    """

    def __init__(self, session: onnxruntime.InferenceSession, file: Path) -> None:
        import onnxruntime

        self._session, self._adapter = session, onnxruntime.LoraAdapter()
        self._adapter.Load(str(file))

    def get_inputs(self) -> list[onnxruntime.NodeArg]:
        """Return the inputs that have no default."""
        return list(self._session.get_inputs())

    def get_outputs(self) -> list[onnxruntime.NodeArg]:
        """Return the outputs."""
        return list(self._session.get_outputs())

    def run(self, names: list[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph with the adapter, and return the outputs of these names."""
        import onnxruntime

        options = onnxruntime.RunOptions()
        options.add_active_adapter(self._adapter)
        return list(self._session.run(names, feed, options))


@dataclass(frozen=True)
class NamedTensor:
    """Describe an input or output as ONNX Runtime does, with another name.

    Attributes:
        name: the model's name.
        type: element type, such as `tensor(float)`.
        shape: its axes; the symbol of a dynamic one.
    """

    name: str
    type: str
    shape: list[int | str]


class RenamedSession:
    """A session of a graph in a client's layout, with the model's names of inputs and outputs, and all logits.

    Args:
        session: the session.
        model_names: name in the graph to the model's name, where they differ.
    """

    def __init__(self, session: onnxruntime.InferenceSession | AdaptedSession, model_names: Mapping[str, str]) -> None:
        self._session, self._model_names = session, model_names
        self._graph_names = {name: graph_name for graph_name, name in model_names.items()}
        names = [value.name for value in session.get_inputs()]
        self._added = {LOGITS_TO_KEEP: np.zeros((), np.int64)} if LOGITS_TO_KEEP in names else {}

    def get_inputs(self) -> list[NamedTensor]:
        """Return the inputs."""
        return [self._named(value) for value in self._session.get_inputs() if value.name not in self._added]

    def get_outputs(self) -> list[NamedTensor]:
        """Return the outputs."""
        return [self._named(value) for value in self._session.get_outputs()]

    def run(self, names: list[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph, and return the outputs of these names."""
        feed = {**self._added, **{self._graph_names.get(name, name): value for name, value in feed.items()}}
        return list(self._session.run([self._graph_names.get(name, name) for name in names], feed))

    def _named(self, value: onnxruntime.NodeArg) -> NamedTensor:
        return NamedTensor(self._model_names.get(value.name, value.name), value.type, list(value.shape))


Session: TypeAlias = "onnxruntime.InferenceSession | AdaptedSession | RenamedSession"
"""What runs a graph."""


def run_graph(session: Session, layout: Layout) -> dict[str, NDArray[Any]]:
    """Run a graph on flat inputs and return its outputs by name; names that the graph lacks are ignored.

    Raises:
        ValidationError: an input of the graph is missing.
    """
    missing = [value.name for value in session.get_inputs() if value.name not in layout.flat]
    if missing:
        raise ValidationError(
            f"the graph requires the inputs {', '.join(missing)}, and the original's are {', '.join(layout.flat)}"
        )
    feed = {}
    for value in session.get_inputs():
        array = to_array(layout.flat[value.name])
        feed[value.name] = array.astype(_NUMPY.get(value.type, array.dtype))
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


_NUMPY = {
    **{"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"},
    **{"tensor(int64)": "int64", "tensor(int32)": "int32"},
}
"""Element types of inputs that may differ from those of the original's."""
