"""Compare the original's and the graph's outputs on the same inputs, also at sizes that weren't traced."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport._onnxruntime import runtime_errors
from onnxport.description.arguments import Layout
from onnxport.description.axes import LOGITS_TO_KEEP, PAST_INPUTS, present_name, symbols_of
from onnxport.description.examples import Examples
from onnxport.description.image_processing import HEIGHT, WIDTH
from onnxport.description.lengths import long_length, positions_of
from onnxport.description.signature import sizes_of
from onnxport.description.tolerances import RANDOM_CACHE_RTOL, Tolerance
from onnxport.errors import ValidationError
from onnxport.options import Progress, ValidationLevel
from onnxport.tracing.originals import RefusedSizesError, to_array, try_sizes
from onnxport.validation.compare import compare_all, like
from onnxport.validation.mapped import open_mapped
from onnxport.validation.own_rounding import allowed_in_any_case
from onnxport.validation.report import Case, ValidationReport
from onnxport.validation.sessions import AdaptedSession, RenamedSession, Session, open_session, run_graph

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.runtime.directory import Directory


@dataclass(frozen=True)
class ProofRequest:
    """Hold a graph file and the original model to compare it with.

    Attributes:
        name: the component's name.
        file: the graph.
        model: the original, a Transformers model in evaluation mode.
        examples: generates the inputs; its signature has the graph's axis labels.
        traced: symbol to size at which the graph was traced.
        max_sizes: label of an input axis to the largest size that the graph is valid for, of axes that have one.
        branch_sizes: label of an input axis to a size for which the model's code takes another branch than in the
            trace, of axes that have one.
        cast_outputs: whether the graph casts its floating-point outputs.
        mapped: whether ONNX Runtime memory-maps the graph's weights.
        export: the export, whose session of the graph is used; None to open one.
        adapter: file of the adapter that the graph runs with, and that is merged into the original; None without one.
        results: names of outputs that the original doesn't have, which are computed of its outputs.
        model_names: name in the graph to the model's name, of inputs and outputs that a layout names otherwise.
    """

    name: str
    file: Path
    model: PreTrainedModel
    examples: Examples
    traced: Mapping[str, int]
    max_sizes: Mapping[str, int] = field(default_factory=dict)
    branch_sizes: Mapping[str, int] = field(default_factory=dict)
    cast_outputs: bool = False
    mapped: bool = False
    export: Directory | None = None
    adapter: Path | None = None
    results: tuple[str, ...] = ()
    model_names: Mapping[str, str] = field(default_factory=dict)


def prove(
    request: ProofRequest, level: ValidationLevel, tolerance: Tolerance, progress: Progress | None = None
) -> ValidationReport:
    """Compare a graph with its original.

    Args:
        request: the graph and the original.
        level: `full` for every case, `quick` for the traced sizes alone.
        tolerance: bounds of the comparison.
        progress: called with a stage and its completed fraction.

    Returns:
        The report; its status is `failed` if any output of any case differs.

    Raises:
        ValidationError: ONNX Runtime can't load or run the graph.
    """
    session = _session(request)
    equal = _equal_axes(session, request)
    plan = (
        [case.with_equal(equal) for case in _plan(session, request)]
        if level == "full"
        else [_PlannedCase("traced", dict(request.traced))]
    )
    cases = []
    for index, planned in enumerate(plan):
        if progress:
            progress(f"validate {request.name}: {planned.name}", index / len(plan))
        cases.extend(_cases(request, session, planned, tolerance))
    status = "passed" if all(case.passed for case in cases) else "failed"
    return ValidationReport(status, level, tolerance.atol, tolerance.rtol, tuple(cases))


def _session(request: ProofRequest) -> Session:
    if request.export is not None:
        session: Session = request.export.graph(request.name).session
    else:
        opened = open_mapped(request.file) if request.mapped else open_session(request.file)
        session = opened if request.adapter is None else AdaptedSession(opened, request.adapter)
    is_arranged = request.model_names or any(value.name == LOGITS_TO_KEEP for value in session.get_inputs())
    return RenamedSession(session, request.model_names) if is_arranged else session


def dynamic_symbols(session: Session) -> set[str]:
    """Return the symbols of the dynamic axes of a graph's inputs."""
    labels = [dim for value in session.get_inputs() for dim in value.shape if isinstance(dim, str)]
    return {symbol for label in labels for symbol in symbols_of(label)}


@dataclass(frozen=True)
class _PlannedCase:
    """Hold the sizes of one run.

    Attributes:
        name: name of the case.
        sizes: symbol to size.
        padding: whether sequences are padded.
    """

    name: str
    sizes: dict[str, int]
    padding: bool = False

    def with_equal(self, symbols: Mapping[str, str]) -> _PlannedCase:
        """Return the case with the sizes of symbols that equal others; see `_equal_axes`."""
        return replace(self, sizes={**self.sizes, **{name: self.sizes[other] for name, other in symbols.items()}})


def _equal_axes(session: Session, request: ProofRequest) -> dict[str, str]:
    """Map symbols to those that their axes have in the graph: the height, if a graph takes square images only."""
    labels = request.examples.signature.inputs
    pairs = (
        (labels[value.name].get(axis, ""), dim)
        for value in session.get_inputs()
        for axis, dim in enumerate(value.shape)
        if value.name in labels
    )
    return {label: dim for label, dim in pairs if {label, dim} <= request.traced.keys() and label != dim}


@dataclass(frozen=True)
class _CaseRule:
    """Derive the sizes of a case from the traced sizes.

    Attributes:
        name: name of the case.
        changes: type of an axis, see `_axis_type`, to a function from the traced size to the case's.
        padding: whether sequences are padded; such a case is only for graphs with an attention mask.
        requires: type of a dynamic axis that the graph must have; empty if the case applies to every graph.
    """

    name: str
    changes: Mapping[str, Callable[[int], int]]
    padding: bool = False
    requires: str = ""


def _plan(session: Session, request: ProofRequest) -> Iterator[_PlannedCase]:
    """Yield the cases, as docs/cli.md lists them."""
    dynamic = dynamic_symbols(session)
    inputs = [value.name for value in session.get_inputs()]
    has_mask = any(name.endswith("attention_mask") for name in inputs)
    traced = dict(request.traced)
    yield _PlannedCase("traced", traced)
    for rule in _CASES:
        first_step = rule.name == "no past" and "encoder_hidden_states" in inputs
        changes = {**rule.changes, "cross": rule.changes.get("past" if first_step else "encoder", _unchanged)}
        sizes = {
            symbol: min(changes.get(_axis_type(symbol), _unchanged)(size), _limit(symbol, request))
            for symbol, size in traced.items()
            if symbol in dynamic
        }
        applies = not rule.requires or any(_axis_type(symbol) == rule.requires for symbol in sizes)
        differs = rule.padding or any(size != traced[symbol] for symbol, size in sizes.items())
        if (has_mask or not rule.padding) and applies and differs:
            yield _PlannedCase(rule.name, {**traced, **sizes}, rule.padding)
    for name, image in (
        ("preprocessor's image size", _dummy_image(request)),
        ("other image size", _other_image(traced)),
        ("odd image size", _odd_image(traced)),
    ):
        sizes = {symbol: min(size, _limit(symbol, request)) for symbol, size in image.items() if symbol in dynamic}
        if any(size != traced[symbol] for symbol, size in sizes.items()):
            batch = {symbol: 1 for symbol in dynamic if _axis_type(symbol) == "batch"}
            yield _PlannedCase(name, {**traced, **batch, **sizes})
    branches = {
        symbol: size
        for symbol, size in request.branch_sizes.items()
        if symbol in dynamic and size <= min(_limit(symbol, request), _MOST_TIMES * request.traced.get(symbol, 0))
    }
    if branches:
        yield _PlannedCase("another branch", {**traced, **branches})
    long = _long_sizes(request, dynamic)
    if long:
        yield _PlannedCase("long", {**traced, **long})


def _dummy_image(request: ProofRequest) -> dict[str, int]:
    """Return the size of images as the preprocessor makes them; empty without images."""
    if "height" not in request.traced:
        return {}
    layout = request.examples.at()
    signature = request.examples.signature.for_inputs(layout.flat)
    sizes = sizes_of(signature, layout.flat)
    return {symbol: size for symbol, size in sizes.items() if symbol in ("height", "width")}


def _image_symbols(traced: Mapping[str, int]) -> tuple[str, str]:
    return (HEIGHT, WIDTH) if HEIGHT in traced else ("height", "width")


def _other_image(traced: Mapping[str, int]) -> dict[str, int]:
    """Return another size of images: larger, or with the sides swapped if that takes too long; empty without images."""
    names = _image_symbols(traced)
    height, width = (traced.get(name, 0) for name in names)
    if height * width > _LARGE_IMAGE:
        sizes = (width, height) if height != width else ()
    else:
        sizes = (height * 2, width * 3) if height and width else ()
    return dict(zip(names, sizes, strict=False))


def _odd_image(traced: Mapping[str, int]) -> dict[str, int]:
    """Return a size that no patch, stride or window divides; many models pad such images, others refuse them."""
    return {
        name: traced[name] // 2 * 2 + added
        for name, added in zip(_image_symbols(traced), (13, 7), strict=True)
        if name in traced
    }


def _long_sizes(request: ProofRequest, dynamic: set[str]) -> dict[str, int]:
    """Return the sizes of the longest sequences that are validated, in a batch of 1; empty without sequences.

    Tokens follow as many cached ones as in the trace; their positions are those after a cache that is longer than them.
    """
    sequences = [symbol for symbol in request.traced if _axis_type(symbol) in _SEQUENCES and symbol in dynamic]
    past = sum(size for symbol, size in request.traced.items() if _axis_type(symbol) == "past")
    parameters = sum(parameter.numel() for parameter in request.model.parameters())
    config = request.examples.config._config
    length = long_length(config, parameters) - past
    if any(_axis_type(symbol) == "past" for symbol in request.traced):
        length = min(length, (min(positions_of(config), default=sys.maxsize) - 2) // 2)
    sizes = {symbol: min(length, _limit(symbol, request)) for symbol in sequences}
    if not any(size > request.traced[symbol] for symbol, size in sizes.items()):
        return {}
    return sizes | {symbol: 1 for symbol in dynamic if _axis_type(symbol) == "batch"}


def _limit(symbol: str, request: ProofRequest) -> int:
    """Return the largest size of a symbol's axes, with the traced sizes of the symbols that it is added to."""
    limits = [
        size - sum(request.traced.get(other, 0) for other in symbols_of(label) if other != symbol)
        for label, size in request.max_sizes.items()
        if symbol in symbols_of(label)
    ]
    return min(limits, default=sys.maxsize)


_MOST_TIMES = 16
"""Largest multiple of a traced size at which another branch is tried: 193 images took 15 GB (Hunyuan VL)."""


def _unchanged(size: int) -> int:
    return size


def _axis_type(symbol: str) -> str:
    """Return the type of the axis with a symbol; `cross` for the encoder's sequence in cached cross-attention keys."""
    if symbol.startswith("past_encoder"):
        return "cross"
    for axis_type in ("audio", "batch", "past", "decoder", "encoder", "sequence", "choice", "height", "width"):
        if axis_type in symbol:
            return axis_type
    return symbol


_LENGTHS_11 = {"sequence": lambda _: 11, "encoder": lambda _: 11, "decoder": lambda _: 5, "past": lambda _: 7}
_ODD = {
    **_LENGTHS_11,
    "batch": lambda _: 3,
    "audio": lambda size: size * 3 // 4 + 1,
    "choice": lambda _: 3,
    "num_masks": lambda _: 3,  # one for each sample of the batch
}
_LARGE_IMAGE = 512 * 512
"""Pixels above which larger images aren't validated."""
_SEQUENCES = ("sequence", "encoder", "decoder", "cross")
_CASES = (
    _CaseRule("batch 1", {"batch": lambda _: 1, "num_masks": lambda _: 1}),
    _CaseRule("one token", {"sequence": lambda _: 1, "decoder": lambda _: 1}, requires="past"),
    _CaseRule("odd lengths", _ODD),
    _CaseRule("padding", {**_LENGTHS_11, "batch": lambda _: 3}, padding=True),
    _CaseRule("no past", {**_LENGTHS_11, "batch": lambda _: 3, "past": lambda _: 0}, requires="past"),
)


def _cases(request: ProofRequest, session: Session, planned: _PlannedCase, tolerance: Tolerance) -> list[Case]:
    """Compare at some sizes; if values differ with a random cache, with the original's own as well.

    A trained decoder enlarges rounding errors where the cache isn't one that it made: the 30 layers of SmolLM2-135M do
    by a factor of up to 100, since no token is the one that heads attend to by default. See `RANDOM_CACHE_RTOL`.
    """
    layout = request.examples.at(planned.sizes, padding=planned.padding)
    case = _run_case(request, session, planned, layout, tolerance)
    repeats = not case.passed and tolerance.own_rounding and tolerance.rtol < RANDOM_CACHE_RTOL
    cache = _own_cache(request, planned, layout) if repeats else {}
    if not cache:
        return [case]
    loosened = _run_case(request, session, planned, layout, replace(tolerance, rtol=RANDOM_CACHE_RTOL))
    layout.flat = {**layout.flat, **cache}
    own = replace(planned, name=f"{planned.name}, own cache")
    return [loosened, _run_case(request, session, own, layout, tolerance)]


def _own_cache(request: ProofRequest, planned: _PlannedCase, layout: Layout) -> dict[str, torch.Tensor]:
    """Return the cache that the original computes of as many tokens as the inputs have; empty if it can't."""
    names = [name for name in layout.flat if name.startswith(PAST_INPUTS)]
    length = max((size for symbol, size in planned.sizes.items() if _axis_type(symbol) == "past"), default=0)
    if not names or not length:
        return {}
    changes = {"past": 0, "sequence": length, "decoder": length}
    sizes = {symbol: changes.get(_axis_type(symbol), size) for symbol, size in planned.sizes.items()}
    try:
        outputs = try_sizes(request.model, request.examples, request.examples.at(sizes))
    except RefusedSizesError:
        return {}
    cache = {name: outputs[present_name(name)] for name in names if present_name(name) in outputs}
    fits = [value.shape for value in cache.values()] == [layout.flat[name].shape for name in names]
    return cache if fits else {}


def _run_case(
    request: ProofRequest, session: Session, planned: _PlannedCase, layout: Layout, tolerance: Tolerance
) -> Case:
    signature = request.examples.signature.for_inputs(layout.flat)
    sizes = sizes_of(signature, layout.flat)
    try:
        tensors = try_sizes(request.model, request.examples, layout)
    except RefusedSizesError as error:
        if planned.name == "traced":
            raise ValidationError(f"the original model fails on its example inputs: {error}") from error
        return Case(request.name, planned.name, sizes, (), f"the original refuses these sizes: {error}")
    original = {name: to_array(tensor) for name, tensor in tensors.items()}
    try:
        graph = run_graph(session, layout)
    except runtime_errors() as error:
        raise ValidationError(
            f"ONNX Runtime can't run {request.file.name}, {planned.name} ({sizes}): {error}"
        ) from error
    if request.cast_outputs:
        original = {name: like(array, graph[name]) for name, array in original.items()}

    def run(flat: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        layout.flat = flat
        return try_sizes(request.model, request.examples, layout)

    arrays = {key: (original[key], graph[key]) for key in graph if key not in request.results}
    least = partial(allowed_in_any_case, request.model, layout.flat, run, tensors, tolerance)
    return Case(request.name, planned.name, sizes, compare_all(arrays, tolerance, least))
