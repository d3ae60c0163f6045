"""A graph in ONNX Runtime. Outputs may stay on the device, where the next run reads them without a copy."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._onnxruntime import load_error, runtime_errors
from onnxport.bundles.inspection import check_graph
from onnxport.description.axes import LOGITS_TO_KEEP
from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MissingInputError,
    NoKernelError,
    OptionError,
    SizeLimitError,
)
from onnxport.runtime.exact import comparable_form
from onnxport.runtime.settings import RunSettings

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import ArrayLike, NDArray

    from onnxport.runtime.token_embedding import TokenEmbedding

Feed = Mapping[str, "ArrayLike | onnxruntime.OrtValue"]
"""Input name to array or `OrtValue`."""

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's names of element types to NumPy's."""
_LOG_FATAL_ONLY = 4
_DEFAULT_GRAPH = ("gpu_graph_id", "0")
"""The default of a run option, which ONNX Runtime reads in each run, in 0.1 ms if it isn't set (in 1.32)."""
_SLOW_ON_CPU = ("SkipLayerNormFusion",)
"""Optimizations of ONNX Runtime that make graphs slower on the CPU.

The CPU kernel of SkipLayerNormalization takes seven times as long as Add and LayerNormalization (measured in 1.32), a
tenth of the time of BERT. No issue is known; this can go when the kernel is as fast.
"""


@dataclass(frozen=True)
class TensorSpec:
    """Describe an input or output of a graph.

    Attributes:
        name: its name.
        dtype: NumPy's name of its element type.
        axes: for each axis its size, or its symbolic name if it is dynamic.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]

    def empty(self, batch_size: int) -> NDArray[Any]:
        """Return an array for an empty cache: the batch axis has `batch_size`, all other dynamic axes have size 0."""
        shape = [axis if isinstance(axis, int) else (batch_size if "batch" in axis else 0) for axis in self.axes]
        return np.zeros(shape, dtype=self.dtype)


class Graph:
    """Run a graph.

    Args:
        file: the `.onnx` file.
        settings: device, execution providers and session options.
        max_sizes: label of an input axis to the largest size that the graph computes as the model.
        positions: numbers of positions that the model has, for the message of an error.
        defaults: of the manifest.
        model_names: name of an input or output in the graph to the model's name, where they differ.

    Attributes:
        defaults: name of an input to what the model takes if it isn't passed, where that isn't the usual value.
        embedding: makes its `inputs_embeds` of token ids; None if it takes none, or the export has no token embeddings.
        inputs: input name to its element type and axes.
        outputs: output name to its element type and axes.
        shares_cache: whether past and present of its cache may be one buffer that is longer than the cache.
        seconds: time spent inside ONNX Runtime, over all runs.

    Raises:
        CheckpointError: a file is truncated, damaged or lacking.
        ValidationError: ONNX Runtime can't load the graph; `NoKernelError` if it lacks a kernel, or an input or output
            has an element type that NumPy lacks.
        OptionError: an execution provider isn't installed.
    """

    def __init__(
        self,
        file: Path,
        settings: RunSettings,
        max_sizes: Mapping[str, int] | None = None,
        positions: Sequence[int] = (),
        defaults: Mapping[str, str] | None = None,
        model_names: Mapping[str, str] | None = None,
    ) -> None:
        import onnxruntime

        providers, options = settings.resolve_providers(), settings.resolve_session_options()
        try:
            model = comparable_form(file, options) if settings.exact else file
            is_cpu = providers == ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(
                model, options, providers=providers, disabled_optimizers=_SLOW_ON_CPU if is_cpu else ()
            )
        except runtime_errors() as error:
            if find_spec("onnx_ir") is not None:  # of onnxport[export]; its errors are more specific
                check_graph(file)
            raise load_error(file, error) from error
        self.file = file
        self._max_sizes = dict(max_sizes or {})
        self._positions = tuple(positions)
        self.defaults = dict(defaults or {})
        self.embedding: TokenEmbedding | None = None
        self.shares_cache = False
        self.seconds = 0.0
        names = model_names or {}
        self._graph_names = {name: graph_name for graph_name, name in names.items()}
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        self.inputs = {names.get(value.name, value.name): _tensor_spec(value, file) for value in inputs}
        self.outputs = {names.get(value.name, value.name): _tensor_spec(value, file) for value in outputs}
        self._adapter = _read_adapter(settings.adapter, self.session) if settings.adapter else {}
        self._device = (settings.device_type, settings.device_index)
        self._run_options = onnxruntime.RunOptions()
        self._run_options.log_severity_level = _LOG_FATAL_ONLY  # errors are raised, and reported by the caller
        self._run_options.add_run_config_entry(*_DEFAULT_GRAPH)

    def run(
        self,
        feed: Feed,
        outputs: Collection[str] | None = None,
        *,
        on_device: Collection[str] = (),
        into: Mapping[str, onnxruntime.OrtValue] = MappingProxyType({}),
    ) -> dict[str, onnxruntime.OrtValue]:
        """Run the graph once.

        Args:
            feed: every input of the graph; arrays are cast to the input's element type.
            outputs: names of the outputs to compute; defaults to all.
            on_device: outputs that stay on the device for a later run; others are copied to the host.
            into: output name to the value that it is written into.

        Returns:
            The outputs by name, without those in `into`.

        Raises:
            MissingInputError: an input is missing.
            SizeLimitError: an axis is longer than the graph's limit, or has another size than the graph fixes.
            OptionError: an input has an unsupported shape or value.
        """
        import onnxruntime

        if LOGITS_TO_KEEP in self.inputs and LOGITS_TO_KEEP not in feed:
            feed = {**feed, LOGITS_TO_KEEP: np.zeros((), np.int64)}
        self._check_sizes(feed)
        batch = self._batch_of_other_size(feed)
        if batch is not None:
            return self._run_in_parts(feed, batch, outputs)
        self._check_fixed_sizes(feed)
        missing = [name for name in self.inputs if name not in feed]
        if missing:
            raise MissingInputError(f"{self.file.name} requires the inputs {', '.join(missing)}, which are missing")
        names = list(self.outputs) if outputs is None else list(outputs)
        binding = self.session.io_binding()
        for name, spec in self.inputs.items():
            value, graph_name = feed[name], self._graph_names.get(name, name)
            if isinstance(value, onnxruntime.OrtValue):
                binding.bind_ortvalue_input(graph_name, value)
            else:
                binding.bind_cpu_input(graph_name, np.ascontiguousarray(value, dtype=spec.dtype))
        for name, value in self._adapter.items():  # a binding ignores the adapters of the run options
            binding.bind_ortvalue_input(name, value)
        for name in names:
            graph_name = self._graph_names.get(name, name)
            if name in into:
                binding.bind_ortvalue_output(graph_name, into[name])
            else:
                binding.bind_output(graph_name, *(self._device if name in on_device else ()))
        start = time.perf_counter()
        try:
            self.session.run_with_iobinding(binding, self._run_options)
        except runtime_errors() as error:
            raise self._run_error(feed, error) from error
        self.seconds += time.perf_counter() - start
        if not into:
            return dict(zip(names, binding.get_outputs(), strict=True))
        values = binding.get_outputs_as_ortvaluevector()  # objects of Python for these alone take less time
        return {name: onnxruntime.OrtValue(values[i]) for i, name in enumerate(names) if name not in into}

    @cached_property
    def _fixed_batch(self) -> int | None:
        """The batch size that the first axis of all inputs has; None if it is dynamic."""
        sizes = {next(iter(spec.axes), None) for spec in self.inputs.values()}
        size = sizes.pop() if len(sizes) == 1 else None
        return size if isinstance(size, int) and size else None

    def _batch_of_other_size(self, feed: Feed) -> int | None:
        """Return the batch size of a feed if the graph computes batches of another size."""
        if self._fixed_batch is None:
            return None
        arrays = [feed[name] for name in self.inputs if name in feed]
        sizes = {value.shape[0] if isinstance(value, np.ndarray) and value.ndim else None for value in arrays}
        return sizes.pop() if len(sizes) == 1 and sizes.isdisjoint({None, 0, self._fixed_batch}) else None

    def _run_in_parts(self, feed: Feed, batch: int, outputs: Collection[str] | None) -> dict[str, onnxruntime.OrtValue]:
        """Run the graph for some samples at a time, and concatenate its outputs, padded with zeros if one is a mask.

        The last sample is repeated where samples are lacking.
        """
        size = self._fixed_batch or 1
        rows = np.minimum(np.arange(-(-batch // size) * size), batch - 1).reshape(-1, size)
        given = {name: np.asarray(feed[name]) for name in self.inputs if name in feed}
        results = [self.run({name: value[part] for name, value in given.items()}, outputs) for part in rows]
        arrays = {name: [to_array(result[name]) for result in results] for name in results[0]}
        for name, values in arrays.items():
            shapes = [value.shape[1:] for value in values]
            if len(set(shapes)) > 1 and "mask" not in arrays:
                raise OptionError(
                    f"{self.file.name} computes batches of {size}, and their shapes of {name} differ "
                    f"({', '.join(str(list(shape)) for shape in shapes)}): pass {size} at a time"
                )
            largest = np.max(shapes, axis=0)
            padding = [[(0, 0), *((0, most - size) for most, size in zip(largest, s, strict=True))] for s in shapes]
            arrays[name] = [np.pad(value, pad) for value, pad in zip(values, padding, strict=True)]
        return {name: _owned_value(np.concatenate(values)[:batch]) for name, values in arrays.items()}

    def _check_sizes(self, feed: Feed) -> None:
        for name, spec in self.inputs.items() if self._max_sizes else ():
            value = feed.get(name)
            for label, size in zip(spec.axes, value.shape if isinstance(value, np.ndarray) else (), strict=False):
                limit = self._max_sizes.get(str(label), size)
                if size > limit:
                    raise SizeLimitError(
                        f"the {label} of {name} is {size}, and {self.file.name} computes what the model does up to "
                        f"{limit}; shorten the input"
                    )

    def _check_fixed_sizes(self, feed: Feed) -> None:
        for name, spec in self.inputs.items():
            value = feed.get(name)
            if not isinstance(value, np.ndarray):  # a cache that an earlier run returned
                continue
            shape = value.shape
            fits = [not isinstance(axis, int) or axis == size for axis, size in zip(spec.axes, shape, strict=False)]
            if len(shape) != len(spec.axes) or not all(fits):
                raise OptionError(
                    f"{name} is {list(shape)}, and {self.file.name} takes [{', '.join(map(str, spec.axes))}]: pad "
                    "(as onnxport.pipeline does; a tokenizer with padding='max_length', max_length=…), cut or resize "
                    "it, or export the model with another size"
                )

    def _run_error(self, feed: Feed, error: Exception) -> OptionError:
        """Return the error for inputs that ONNX Runtime can't run: contradicting sizes, too long, or its own words."""
        sizes: dict[str, tuple[str, int]] = {}
        for name, spec in self.inputs.items():
            value = feed[name]
            for label, size in zip(spec.axes, value.shape if isinstance(value, np.ndarray) else (), strict=False):
                other, other_size = sizes.setdefault(str(label), (name, size))
                if size != other_size:
                    return OptionError(f"the {label} of {other} is {other_size}, and that of {name} is {size}")
        lengths = (size for label, (_, size) in sizes.items() if "sequence" in label and "audio" not in label)
        tokens = max(lengths, default=0)
        limit = max((number for number in self._positions if number < tokens), default=None)
        if limit is not None:
            return SizeLimitError(f"the sequence is {tokens} long, and the model has {limit} positions; shorten it")
        return OptionError(f"ONNX Runtime can't run {self.file.name}: {error}")


def _read_adapter(file: Path, session: onnxruntime.InferenceSession) -> dict[str, onnxruntime.OrtValue]:
    """Return the matrices of an adapter by input name; empty for a graph without inputs for adapters.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CorruptCheckpointError: it isn't an adapter of ONNX Runtime.
        OptionError: the adapter changes layers that the graph has no inputs for.
    """
    import onnxruntime

    optional = {value.name for value in session.get_overridable_initializers()}
    if not file.is_file():
        raise CheckpointNotFoundError(f"{file}: there is no such adapter; write it with onnxport adapter")
    try:
        found = onnxruntime.AdapterFormat.read_adapter(str(file)).get_parameters()
    except runtime_errors() as error:
        raise CorruptCheckpointError(
            f"{file} isn't an adapter that ONNX Runtime reads ({error}); write it with onnxport adapter"
        ) from error
    unknown = [name for name in found if name not in optional]
    if optional and unknown:
        raise OptionError(f"{file}: the graph has no inputs for {', '.join(unknown[:5])}; it belongs to another export")
    return dict(found) if optional else {}


def _owned_value(array: NDArray[Any]) -> onnxruntime.OrtValue:
    """Return a value with a copy of an array; `ortvalue_from_numpy` would refer to the array's memory."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type)
    if array.size:
        value.update_inplace(np.ascontiguousarray(array))
    return value


def missing_shapes(specs: Mapping[str, TensorSpec], feed: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs that a feed lacks; -1 for an axis whose size no input of the feed has.

    Their batch size is the feed's, also of a graph with a fixed batch size.
    """
    sizes: dict[int | str, int] = {
        axis: size for name in feed for axis, size in zip(specs[name].axes, feed[name].shape, strict=False)
    }
    batches = {specs[name].axes[0]: feed[name].shape[0] for name in feed if specs[name].axes and feed[name].ndim}

    def size_of(position: int, axis: int | str) -> int:
        if isinstance(axis, int):
            return axis if position else batches.get(axis, axis)
        return sizes.get(axis, -1)

    return {
        name: tuple(size_of(position, axis) for position, axis in enumerate(spec.axes))
        for name, spec in specs.items()
        if name not in feed
    }


def to_array(value: onnxruntime.OrtValue) -> NDArray[Any]:
    """Return a value as an array, without a copy if it is on the host."""
    return np.asarray(value.numpy())


def _tensor_spec(value: onnxruntime.NodeArg, file: Path) -> TensorSpec:
    if value.type not in DTYPES:
        raise NoKernelError(
            f"{file.name}: {value.name} is a {value.type}, which NumPy has no element type for; export with "
            "--io-dtype fp32"
        )
    return TensorSpec(value.name, DTYPES[value.type], tuple(value.shape))
