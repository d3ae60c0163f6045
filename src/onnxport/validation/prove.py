"""Run the original and the graph on the same inputs, at sizes that the graph was never traced at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.bundles.inspection import check_graph
from onnxport.description.arguments import Layout
from onnxport.description.axes import symbols_of
from onnxport.description.examples import Examples
from onnxport.description.signature import solve
from onnxport.errors import NoKernelError, ValidationError
from onnxport.options import Progress
from onnxport.tracing.originals import run_original, to_array
from onnxport.validation.compare import compare
from onnxport.validation.mapped import open_mapped
from onnxport.validation.report import Case, ValidationReport
from onnxport.validation.tolerances import Tolerance

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Subject:
    """Name what is proved: a graph file and the model that it came from.

    Attributes:
        name: the component's name.
        file: the graph.
        model: the original, a Transformers model in evaluation mode.
        examples: where inputs come from; its signature has the graph's labels.
        traced: symbol to size at which the graph was traced.
        mapped: whether ONNX Runtime leaves the graph's weights on disk.
    """

    name: str
    file: Path
    model: Any
    examples: Examples
    traced: Mapping[str, int]
    mapped: bool = False


def prove(subject: Subject, level: str, tolerance: Tolerance, progress: Progress | None = None) -> ValidationReport:
    """Compare a graph with its original.

    Args:
        subject: the graph and the original.
        level: `full` for every case, `quick` for the traced sizes alone.
        tolerance: bounds of the comparison.
        progress: called with a stage and the share that is done.

    Returns:
        A report; it is failed where one output of one case differs.

    Raises:
        ValidationError: ONNX Runtime can't load or run the graph.
    """
    session = open_mapped(subject.file) if subject.mapped else open_session(subject.file, few_runs=True)
    plan = list(_plan(session, subject)) if level == "full" else [("traced", dict(subject.traced), False)]
    cases = []
    for index, (name, sizes, padding) in enumerate(plan):
        if progress:
            progress(f"validate {subject.name}: {name}", index / len(plan))
        layout = subject.examples.at(sizes, padding=padding)
        cases.append(_run_case(subject, session, (name, layout), tolerance))
    status = "passed" if all(case.passed for case in cases) else "failed"
    return ValidationReport(status, level, tolerance.atol, tolerance.rtol, tuple(cases))


def open_session(file: Path, *, few_runs: bool = False) -> onnxruntime.InferenceSession:
    """Load a graph on ONNX Runtime's CPU provider.

    Args:
        file: the graph.
        few_runs: leave weights as they are stored. For a Llama with 0.55 B parameters, packing them for faster products
            costs 2.2 s and their size again, and saves 0.1 s in each short run.

    Raises:
        CheckpointError: a file is truncated, damaged or lacking.
        ValidationError: ONNX Runtime refuses the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its error is raised, and told once
    if few_runs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        check_graph(file)
        kind = NoKernelError if "NOT_IMPLEMENTED" in str(error) else ValidationError
        raise kind(f"ONNX Runtime can't load {file.name}: {error}") from error


def dynamic_symbols(session: onnxruntime.InferenceSession) -> set[str]:
    """Return the symbols on the axes of a graph's inputs."""
    labels = [dim for value in session.get_inputs() for dim in value.shape if isinstance(dim, str)]
    return {symbol for label in labels for symbol in symbols_of(label)}


def _plan(session: onnxruntime.InferenceSession, subject: Subject) -> Iterator[tuple[str, dict[str, int], bool]]:
    """Yield (name, sizes, padding): the traced sizes, batch 1, odd lengths, padding, and no past where there is one."""
    free = dynamic_symbols(session)
    inputs = [value.name for value in session.get_inputs()]
    masked = any(name.endswith("attention_mask") for name in inputs)
    traced = dict(subject.traced)
    yield "traced", traced, False
    for name, changes, padding in _CASES:
        first_step = name == "no past" and "encoder_hidden_states" in inputs
        changes = {**changes, "known": changes.get("past" if first_step else "encoder", _same)}
        sizes = {symbol: changes.get(_kind(symbol), _same)(size) for symbol, size in traced.items() if symbol in free}
        needed = _NEEDED.get(name)
        if (masked or not padding) and (needed is None or any(_kind(symbol) == needed for symbol in sizes)):
            yield name, {**traced, **sizes}, padding


def _same(size: int) -> int:
    return size


def _kind(symbol: str) -> str:
    """Sort a symbol into what its size counts."""
    if symbol.startswith("past_encoder"):
        return "known"
    for kind in ("audio", "batch", "past", "decoder", "encoder", "sequence", "choice", "height", "width"):
        if kind in symbol:
            return kind
    return symbol


_NEEDED = {"no past": "past", "other picture": "height"}
"""Cases that make sense only where an axis of that kind is free."""
_LENGTHS_11 = {"sequence": lambda _: 11, "encoder": lambda _: 11, "decoder": lambda _: 5, "past": lambda _: 7}
_CASES: tuple[tuple[str, dict[str, Callable[[int], int]], bool], ...] = (
    ("batch 1", {"batch": lambda _: 1}, False),
    (
        "odd lengths",
        {
            **_LENGTHS_11,
            "batch": lambda _: 3,
            "audio": lambda size: size * 3 // 4 + 1,
            "choice": lambda _: 3,
        },
        False,
    ),
    ("other picture", {"batch": lambda _: 1, "height": lambda size: size * 2, "width": lambda size: size * 3}, False),
    ("padding", {**_LENGTHS_11, "batch": lambda _: 3}, True),
    ("no past", {**_LENGTHS_11, "batch": lambda _: 3, "past": lambda _: 0}, False),
)


def _run_case(
    subject: Subject,
    session: onnxruntime.InferenceSession,
    case: tuple[str, Layout],
    tolerance: Tolerance,
) -> Case:
    name, layout = case
    signature = subject.examples.signature.for_inputs(layout.flat)
    sizes = solve(signature, {key: tuple(tensor.shape) for key, tensor in layout.flat.items()})
    try:
        original = run_original(subject.model, subject.examples, layout)
    except Exception as error:
        if name == "traced":
            raise ValidationError(f"the original doesn't run on its own example inputs: {error}") from error
        return Case(subject.name, name, sizes, (), f"the original refuses these sizes: {type(error).__name__}: {error}")
    try:
        graph = run_graph(session, layout)
    except Exception as error:
        raise ValidationError(f"{subject.file.name} doesn't run, {name} ({sizes}): {error}") from error
    outputs = tuple(compare(key, original[key], graph[key], tolerance) for key in graph)
    return Case(subject.name, name, sizes, outputs)


def run_graph(session: onnxruntime.InferenceSession, layout: Layout) -> dict[str, Any]:
    """Run a graph on flat inputs and return its outputs by name; inputs that the graph lacks are left out."""
    feed = {}
    for value in session.get_inputs():
        array = to_array(layout.flat[value.name])
        feed[value.name] = array.astype(_NUMPY[value.type]) if array.dtype.kind == "f" else array
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


_NUMPY = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
