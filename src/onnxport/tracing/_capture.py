"""Run the engine, `transformers.exporters`, which captures and lowers a model. Only this module calls it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from onnxport.tracing._steps import begin_step
from onnxport.tracing.scope import capturing
from onnxport.weights.parameters import ParameterTensor

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Captured:
    """Hold a lowered graph, and up to which sizes it is valid.

    Attributes:
        graph: the graph.
        max_sizes: input name and axis to the largest size for which the model's code takes the traced branches, of axes
            that have one.
        min_sizes: input name and axis to the smallest such size.
    """

    graph: onnx_ir.Model
    max_sizes: Mapping[tuple[str, int], int]
    min_sizes: Mapping[tuple[str, int], int]


def capture(
    model: PreTrainedModel,
    inputs: Mapping[str, torch.Tensor],
    dynamic: Mapping[str, tuple[int, ...]],
    opset: int | None,
) -> Captured:
    """Capture a model's forward.

    Args:
        model: module whose forward takes `inputs` by name and returns a mapping of names to tensors.
        inputs: example inputs; names are Python identifiers.
        dynamic: the dynamic axes of each input.
        opset: ONNX opset version; None for the engine's default.

    Returns:
        The lowered graph, with inputs and outputs in their original order. The model's parameters and persistent
        buffers are replaced by `ParameterTensor`s with their fully qualified names.
    """
    from torch.export import Dim
    from transformers.exporters.exporter_onnx import OnnxConfig as EngineConfig

    shapes = {name: dict.fromkeys(dynamic[name], Dim.AUTO) for name in inputs}
    config = EngineConfig(dynamic_shapes=shapes, opset_version=opset, optimize=False)
    begin_step("capture the graph")
    with capturing(model):
        exporter = _exporter_class()()
        program = exporter.export(model, dict(inputs), config).program
    _name_parameters(program, model)
    return Captured(program, exporter.max_sizes, exporter.min_sizes)


@cache
def _exporter_class() -> Any:
    """Return a subclass of the engine that keeps the largest sizes of the inputs' axes.

    The engine lowers the captured program to ONNX and drops it. `super()` in the engine's class calls the class that
    precedes its base in the order of the subclass's bases.
    """
    from transformers.exporters.exporter_dynamo import DynamoExporter
    from transformers.exporters.exporter_onnx import OnnxExporter

    class Recorder(DynamoExporter):  # type: ignore[misc]  # Transformers' exporters aren't typed
        max_sizes: Mapping[tuple[str, int], int]
        min_sizes: Mapping[tuple[str, int], int]

        def export_program(self, *arguments: Any, **named: Any) -> Any:
            exported, metadata = super().export_program(*arguments, **named)
            begin_step("convert it to ONNX")
            limits = dict(_limits(exported))
            self.min_sizes = {axis: lower for axis, (lower, _) in limits.items()}
            self.max_sizes = {axis: upper for axis, (_, upper) in limits.items() if upper < _UNLIMITED}
            return exported, metadata

    class RecordingExporter(OnnxExporter, Recorder):  # type: ignore[misc]  # see above
        """The engine, with the largest sizes of its last export."""

    return RecordingExporter


def _limits(exported: torch.export.ExportedProgram) -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
    """Yield the dynamic input axes, each with the smallest and the largest size for which the graph is valid.

    PyTorch's own lower bounds aren't kept: it assumes that every dynamic axis has at least 2 elements, and derives
    others from it that don't hold for the model, such as 4 for a sum of two axes.
    """
    guarded: dict[object, tuple[int, int]] = {}  # by symbol, which several inputs share
    for node in exported.graph.nodes:
        if node.op != "placeholder" or node.name not in exported.graph_signature.user_inputs:
            continue
        for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
            limits = None if isinstance(size, int) else exported.range_constraints.get(size.node.expr)
            if limits is None:
                continue
            symbol = size.node.expr
            if symbol not in guarded:
                guarded[symbol] = _guarded_range(size) if symbol.is_symbol else (0, _UNLIMITED)
            lower, upper = guarded[symbol]
            yield (str(node.name), axis), (lower, int(min(limits.upper, upper)))


def _guarded_range(size: torch.SymInt) -> tuple[int, int]:
    """Return for which values of a dynamic size the branches that were taken for the example are taken.

    `range_constraints` has only what PyTorch can solve for the size: not that of `(size - 33) // 48 == 0`.

    Args:
        size: a symbol. Guards that relate it to other symbols aren't considered.

    Returns:
        The smallest and the largest value; 0 and `2**31 - 1` if the guards hold for all fractions and multiples of the
        example's that were tried.
    """
    import sympy

    symbol, example = size.node.expr, size.node.hint
    known = (guard for guard in size.node.shape_env.guards if guard.expr.free_symbols == {symbol})
    known = (guard for guard in known if isinstance(guard.expr, sympy.Eq) or _STRIDES not in str(guard.sloc))
    guards = {guard.expr for guard in known if not isinstance(guard.expr, sympy.Ne)}  # a size of 1 is broadcast

    def fails(guard: sympy.Basic, value: int) -> bool:
        try:
            return bool(guard.xreplace({symbol: sympy.Integer(value)}) == sympy.false)
        except (ZeroDivisionError, AssertionError):  # a remainder by a size that is 0 for this value, or of a negative
            return True

    lower, upper = 0, _UNLIMITED
    for guard in guards:  # multiples of the example are as divisible
        if fails(guard, example * 2**_DOUBLINGS):
            last = next(n for n in range(_DOUBLINGS) if fails(guard, example * 2 ** (n + 1)))
            values = range(example * 2**last, example * 2 ** (last + 1))
            upper = min(upper, values[bisect_left(values, True, key=lambda value: fails(guard, value)) - 1])
        if fails(guard, 2):
            values = range(2, example + 1)
            lower = max(lower, values[bisect_left(values, True, key=lambda value: not fails(guard, value))])
    return lower, upper


_STRIDES = "_prims_common"
"""Module of PyTorch whose inequalities of sizes compare strides, which a graph doesn't have."""
_DOUBLINGS = 12
_UNLIMITED = 2**31 - 1


def default_opset() -> int:
    """Return the opset version that the engine produces by default."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def _name_parameters(exported: onnx_ir.Model, model: PreTrainedModel) -> None:
    """Replace each initializer that a checkpoint provides with its name, dtype and shape."""
    names = set(model.state_dict(keep_vars=True))
    for graph in exported.graphs():
        for name, value in graph.initializers.items():
            tensor = value.const_value
            if name in names and tensor is not None:
                value.const_value = ParameterTensor(name, tensor.dtype, tensor.shape.numpy())
