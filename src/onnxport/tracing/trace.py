"""Trace a model to an `onnx_ir.Model` with its description: check the axis relations, capture, and name the graph.

Every dynamic axis is left to the engine (`Dim.AUTO`). The description's relations, such as two axes of equal size or an
axis that is the sum of two others, become `torch._check` calls at the top of forward. The engine itself determines
which axes are dynamic, and its symbols are renamed to the description's labels afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport.description.arguments import Layout, call, overridden
from onnxport.description.axes import is_fixed, symbols_of, today_label
from onnxport.description.requirements import MIXED_DTYPES
from onnxport.description.signature import Signature, solve
from onnxport.errors import TraceError
from onnxport.passes.cleanup import CleanUpPass
from onnxport.passes.logic import ChooseByLogicPass
from onnxport.passes.rounding import RoundAfterwardsPass
from onnxport.passes.sizes import ReadSizesFromFirstInputPass
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import evaluating, patching
from onnxport.tracing._capture import capture
from onnxport.tracing._names import name_graph
from onnxport.tracing._steps import begin_step

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig


def trace(
    model: PreTrainedModel,
    config: OnnxConfig,
    layout: Layout,
    signature: Signature,
    *,
    opset: int | None = None,
    fixed: Mapping[str, int] | None = None,
) -> Traced:
    """Capture a model as an ONNX graph.

    Args:
        model: a Transformers model; it is traced in evaluation mode, and its settings are restored afterwards.
        config: description of the graph.
        layout: example inputs; every dynamic axis must have at least two elements.
        signature: the labels of the graph's axes.
        opset: ONNX opset version to produce; None for the engine's default.
        fixed: symbol to size, of symbols whose axes are static in the graph; `layout` has these sizes.

    Returns:
        A clean graph, and up to which sizes it is valid. It has the signature's inputs and outputs, in order. An axis
        that the model can't vary is an integer. Parameters are `ParameterTensor`s with names, dtypes and shapes, but no
        values.

    Raises:
        TraceError: the engine couldn't capture the model.
    """
    signature = signature.for_inputs(layout.flat)
    aliases = {f"input_{index}": name for index, name in enumerate(layout.flat)}
    relations = _relations(signature, layout.flat, config.multiples)
    of_instance = vars(model).get("forward")

    def described_forward(**inputs: Any) -> dict[str, Any]:
        flat = {aliases[alias]: value for alias, value in inputs.items()}
        _check_relations(relations, flat)
        forward = of_instance or MethodType(type(model).forward, model)  # with the patches of the trace
        return call(forward, config, layout, flat)

    def untraceable(error: Exception) -> TraceError | None:
        if isinstance(error, TraceError):
            return None
        remedy = "; PyTorch mixes types there: export with --dtype fp32" if MIXED_DTYPES.search(str(error)) else ""
        return TraceError(f"{type(model).__name__} couldn't be captured as a graph: {_first_line(error)}{remedy}")

    inputs = {alias: layout.flat[name] for alias, name in aliases.items()}
    dynamic = {  # an axis of size 1 would be fixed with a warning
        alias: tuple(
            axis
            for axis, label in signature.inputs[name].items()
            if layout.flat[name].shape[axis] != 1 and not is_fixed(label, fixed or {})
        )
        for alias, name in aliases.items()
    }
    described = patching(Replacement(model, "forward", described_forward))
    with translating(untraceable), evaluating(model), described, overridden(model, config):
        config.patch_ops()
        try:
            captured = capture(model, inputs, dynamic, opset)
        finally:
            config.restore_ops()
    begin_step("simplify it")
    graph_model = captured.graph
    name_graph(graph_model.graph, signature, list(layout.flat))
    ReadSizesFromFirstInputPass()(graph_model)
    CleanUpPass()(graph_model)
    RoundAfterwardsPass()(graph_model)
    ChooseByLogicPass()(graph_model)
    clone = graph_model.clone()  # the engine's values overload ==; their copies are plain `ir.Value`s
    chosen = ((captured.max_sizes, min), (captured.min_sizes, max), (captured.branch_sizes, min))
    named = (({(aliases[alias], axis): size for (alias, axis), size in sizes.items()}, how) for sizes, how in chosen)
    return Traced(clone, *(_by_label(signature, sizes, how) for sizes, how in named))


@dataclass(frozen=True)
class Traced:
    """Hold a captured graph, and up to which sizes it is valid.

    Attributes:
        graph: the graph.
        max_sizes: label of an input axis to the largest size for which the model's code takes the traced branches, of
            axes that have one.
        min_sizes: label of an input axis to the smallest such size.
        branch_sizes: label of an input axis to a size between these for which it takes another branch, of axes that
            have one.
    """

    graph: onnx_ir.Model
    max_sizes: Mapping[str, int]
    min_sizes: Mapping[str, int]
    branch_sizes: Mapping[str, int]


def _by_label(
    signature: Signature, limits: Mapping[InputAxis, int], stricter: Callable[[int, int], int]
) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for (name, axis), size in limits.items():
        label = today_label(signature.inputs[name][axis])
        sizes[label] = stricter(size, sizes.get(label, size))
    return sizes


InputAxis = tuple[str, int]
"""An axis of an input: flat name and axis index."""


def _relations(
    signature: Signature, flat: Mapping[str, torch.Tensor], multiples: Collection[str]
) -> list[tuple[InputAxis, list[InputAxis], int]]:
    """List the relations between input axes: an axis, the axes that first have its label's symbols, and a factor.

    The size of the axis is the sum of those axes times the factor, which is 1 except for the inputs in `multiples`.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in flat.items()}
    sizes = solve(signature, shapes)
    first: dict[str, InputAxis] = {}
    labeled = [((name, axis), label) for name, axes in signature.inputs.items() for axis, label in axes.items()]
    for (name, axis), label in labeled:
        if label in sizes and shapes[name][axis] == sizes[label]:
            first.setdefault(label, (name, axis))
    relations = []
    for (name, axis), label in labeled:
        symbols = symbols_of(label)
        known = [first[symbol] for symbol in symbols if symbol in first]
        total = sum(sizes.get(symbol, 0) for symbol in symbols)
        times, rest = divmod(shapes[name][axis], max(total, 1))
        is_exact = times == 1 or name in multiples
        if len(known) == len(symbols) and known != [(name, axis)] and is_exact and times and not rest:
            relations.append(((name, axis), known, times))
    return relations


def _check_relations(relations: list[tuple[InputAxis, list[InputAxis], int]], flat: Mapping[str, torch.Tensor]) -> None:
    import torch

    for (name, axis), parts, times in relations:
        total: Any = sum(flat[part].shape[index] for part, index in parts)
        torch._check(flat[name].shape[axis] == (total if times == 1 else times * total))  # type: ignore[no-untyped-call]


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
