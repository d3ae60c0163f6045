"""One graph in ONNX Runtime: arrays go in, its own values come out, and what stays there is never copied."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._onnxruntime import runtime_errors
from onnxport.errors import OptionError, UnsupportedError, ValidationError
from onnxport.runtime.settings import RunSettings

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

Feed = Mapping[str, Any]
"""Input name to array, or to a value of ONNX Runtime."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's names of element types to numpy's."""


@dataclass(frozen=True)
class Place:
    """Describe an input or output.

    Attributes:
        name: its name.
        dtype: numpy's name of its element type.
        axes: per axis its size, or its label where it may vary.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]

    def empty(self, batch: int) -> NDArray[Any]:
        """Return zeros: the axis that is labelled as the batch as it is given, all other open axes 0."""
        shape = [axis if isinstance(axis, int) else (batch if "batch" in axis else 0) for axis in self.axes]
        return np.zeros(shape, dtype=self.dtype)


class Graph:
    """Run a graph.

    Args:
        file: the graph.
        settings: where and how.

    Attributes:
        seconds: how long ONNX Runtime has run it, all in all.

    Raises:
        ValidationError: ONNX Runtime refuses the graph.
        OptionError: the settings ask for what isn't installed.
        UnsupportedError: an input has an element type that numpy lacks.
    """

    def __init__(self, file: Path, settings: RunSettings) -> None:
        import onnxruntime

        providers, options = settings.chosen_providers(), settings.chosen_options()
        try:
            self.session = onnxruntime.InferenceSession(file, options, providers=providers)
        except runtime_errors() as error:
            raise ValidationError(f"ONNX Runtime can't load {file}: {error}") from error
        self.file = file
        self.seconds = 0.0
        self.inputs = {value.name: _place(value, file) for value in self.session.get_inputs()}
        self.outputs = {value.name: _place(value, file) for value in self.session.get_outputs()}
        self._device = (settings.kind, settings.index)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = 4  # its errors come as exceptions

    def run(
        self, feed: Feed, outputs: Collection[str] | None = None, *, stay: Collection[str] = ()
    ) -> dict[str, onnxruntime.OrtValue]:
        """Run the graph once.

        Args:
            feed: every input of the graph; arrays take its element types.
            outputs: those that are wanted, all without.
            stay: outputs that stay on the device, where a later run takes them from; others come to the host.

        Returns:
            The wanted outputs by name.

        Raises:
            OptionError: an input is missing, or has a wrong shape.
        """
        missing = [name for name in self.inputs if name not in feed]
        if missing:
            raise OptionError(f"{self.file.name} needs {', '.join(missing)}, which wasn't given")
        wanted = list(self.outputs) if outputs is None else list(outputs)
        binding = self.session.io_binding()
        for name, place in self.inputs.items():
            value = feed[name]
            if hasattr(value, "bind_input") or hasattr(value, "data_ptr"):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value, dtype=place.dtype))
        for name in wanted:
            if name in stay:
                binding.bind_output(name, *self._device)
            else:
                binding.bind_output(name)
        start = time.perf_counter()
        try:
            self.session.run_with_iobinding(binding, self._run_options)
        except runtime_errors() as error:
            raise OptionError(f"ONNX Runtime can't run {self.file.name}: {error}") from error
        self.seconds += time.perf_counter() - start
        return dict(zip(wanted, binding.get_outputs(), strict=True))


def to_array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """Return a value as an array, without a copy where it lies on the host."""
    return np.asarray(value.numpy())


def _place(value: Any, file: Path) -> Place:
    if value.type not in DTYPES:
        raise UnsupportedError(f"{file.name}: {value.name} is a {value.type}, which numpy has no element type for")
    return Place(value.name, DTYPES[value.type], tuple(value.shape))
