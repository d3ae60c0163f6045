"""Run the engine, `transformers.exporters`, which captures and lowers a model. Only this module calls it."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from onnxport.passes.scopes import scopes_of
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
        branch_sizes: input name and axis to a size between these for which it takes another branch, of axes that have
            one: of a size that fills all windows, for example, if the traced one doesn't.
    """

    graph: onnx_ir.Model
    max_sizes: Mapping[tuple[str, int], int]
    min_sizes: Mapping[tuple[str, int], int]
    branch_sizes: Mapping[tuple[str, int], int]


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
    return Captured(program, exporter.max_sizes, exporter.min_sizes, exporter.branch_sizes)


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
        branch_sizes: Mapping[tuple[str, int], int]

        def export_program(self, *arguments: Any, **named: Any) -> Any:
            exported, metadata = super().export_program(*arguments, **named)
            begin_step("convert it to ONNX")
            limits = dict(_limits(exported))
            self.min_sizes = {axis: limit.lower for axis, limit in limits.items()}
            self.max_sizes = {axis: limit.upper for axis, limit in limits.items() if limit.upper < _UNLIMITED}
            self.branch_sizes = {axis: limit.branch for axis, limit in limits.items() if limit.branch}
            return exported, metadata

    class RecordingExporter(OnnxExporter, Recorder):  # type: ignore[misc]  # see above
        """The engine, with the largest sizes of its last export."""

    return RecordingExporter


class _Limits(NamedTuple):
    """The smallest and the largest size for which a graph is valid, and one between that takes another branch, or 0."""

    lower: int
    upper: int
    branch: int


def _limits(exported: torch.export.ExportedProgram) -> Iterator[tuple[tuple[str, int], _Limits]]:
    """Yield the dynamic input axes, each with its limits.

    PyTorch's own lower bounds aren't kept: it assumes that every dynamic axis has at least 2 elements, and derives
    others from it that don't hold for the model, such as 4 for a sum of two axes.
    """
    guarded: dict[object, _Limits] = {}  # by symbol, which several inputs share
    for node in exported.graph.nodes:
        if node.op != "placeholder" or node.name not in exported.graph_signature.user_inputs:
            continue
        for axis, size in enumerate(getattr(node.meta["val"], "shape", ())):
            limits = None if isinstance(size, int) else exported.range_constraints.get(size.node.expr)
            if limits is None:
                continue
            symbol = size.node.expr
            if symbol not in guarded:
                guarded[symbol] = _guarded_range(size) if symbol.is_symbol else _Limits(0, _UNLIMITED, 0)
            found = guarded[symbol]
            yield (str(node.name), axis), found._replace(upper=int(min(limits.upper, found.upper)))


def _guarded_range(size: torch.SymInt) -> _Limits:
    """Return for which values of a dynamic size the branches that were taken for the example are taken.

    `range_constraints` has only what PyTorch can solve for the size: not that of `(size - 33) // 48 == 0`.

    Args:
        size: a symbol. Guards that relate it to other symbols aren't considered.

    Returns:
        The limits; 0 and `2**31 - 1` if the guards hold for all fractions and multiples of the example's that were
        tried.
    """
    import sympy

    symbol, example = size.node.expr, size.node.hint
    known = (guard for guard in size.node.shape_env.guards if guard.expr.free_symbols == {symbol})
    known = (guard for guard in known if isinstance(guard.expr, sympy.Eq) or _STRIDES not in str(guard.sloc))
    limits = _Limits(0, _UNLIMITED, 0)
    for guard in {guard.expr for guard in known}:
        found = _limits_of(guard, symbol, example)
        branches = filter(None, (limits.branch, found.branch))
        limits = _Limits(max(limits.lower, found.lower), min(limits.upper, found.upper), min(branches, default=0))
    return limits


def _limits_of(guard: Any, symbol: Any, example: int) -> _Limits:
    """Return the limits of one guard, an expression of SymPy that holds for the example."""
    import sympy

    def fails(value: int) -> bool:
        try:
            return bool(guard.xreplace({symbol: sympy.Integer(value)}) == sympy.false)
        except (ZeroDivisionError, AssertionError):  # a remainder by a size that is 0 for this value, or of a negative
            return True

    lower, upper, branch, period = 0, _UNLIMITED, 0, _period(guard)
    if not isinstance(guard, sympy.Eq):  # odd sizes are validated anyway
        branch = next((value for value in range(example + 1, example + period) if fails(value)), 0)
    if isinstance(guard, sympy.Ne):  # a size of 1 is broadcast
        return _Limits(lower, upper, branch)
    larger = [example + period * (2**n - 1) if period > 1 else example * 2**n for n in range(_DOUBLINGS + 1)]
    if fails(larger[-1]):  # multiples of the example are as divisible
        last = next(n for n in range(_DOUBLINGS) if fails(larger[n + 1]))
        values = range(larger[last], larger[last + 1], period)
        upper = values[bisect_left(values, True, key=fails) - 1]
    values = range(2 + (example - 2) % period, example + 1, period)
    if fails(values[0]):
        lower = values[bisect_left(values, True, key=lambda value: not fails(value))]
    return _Limits(lower, upper, branch)


def _period(guard: Any) -> int:
    """Return after how many sizes the remainders in a guard repeat; 1 if it has none."""
    from torch.utils._sympy.functions import FloorDiv, Mod, PythonMod

    remainders, quotients = guard.atoms(Mod, PythonMod), guard.atoms(FloorDiv)
    divisors = [[int(part.args[1]) for part in parts if part.args[1].is_Integer] for parts in (remainders, quotients)]
    period = math.lcm(*divisors[0]) * math.prod(divisors[1])
    return period if remainders and period <= _LONGEST_PERIOD else 1


_STRIDES = "_prims_common"
"""Module of PyTorch whose inequalities of sizes compare strides, which a graph doesn't have."""
_DOUBLINGS = 12
_LONGEST_PERIOD = 2048
_UNLIMITED = 2**31 - 1


def default_opset() -> int:
    """Return the opset version that the engine produces by default."""
    from torch.onnx import _constants

    return _constants.ONNX_DEFAULT_OPSET


def _name_parameters(exported: onnx_ir.Model, model: PreTrainedModel) -> None:
    """Replace each initializer that a checkpoint provides with its name, dtype and shape.

    A layer's parameter that is tied to those of other stacks (PE-AV's encoders) has its name in the stack that uses it.
    """
    tied: dict[int, list[str]] = {}
    names = {name: tied.setdefault(id(tensor), []) for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, group in names.items():
        group.append(name)
    for graph in exported.graphs():
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if name not in names or tensor is None:
                continue
            if len(names[name]) > 1 and _LAYER.search(name) and (used := _used_name(value, names[name])) != name:
                graph.initializers.pop(name)
                value.name = used
                graph.initializers[used] = value
            value.const_value = ParameterTensor(str(value.name), tensor.dtype, tensor.shape.numpy())


_LAYER = re.compile(r"\.\d+\.")
"""Index of a layer in the name of its parameter."""


def _used_name(value: onnx_ir.Value, names: Sequence[str]) -> str:
    """Return which of its names a tied parameter has in a module that uses it; its own if in any or in none."""
    scopes = {scope for node, _ in value.uses() for scope in scopes_of(node)}
    used = [name for name in names if name.rpartition(".")[0] in scopes]
    return str(value.name) if value.name in used or not used else used[0]
