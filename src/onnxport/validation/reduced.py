"""Validate a model that is too large to run: every type of layer is run, and every tensor compared.

A model with few layers, at least one of each type, and the checkpoint's weights is compared with the graph that was
traced from it; and every written tensor is compared with the checkpoint. That is less than a validation of the full
model, so its status is `partial`, and the note names what wasn't validated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnxport.binding.bind import Binding
from onnxport.description.tolerances import Tolerance
from onnxport.options import Progress, ValidationLevel
from onnxport.validation.digests import TensorDigests
from onnxport.validation.prove import ProofRequest, prove
from onnxport.validation.report import Case, OutputDifference, ValidationReport


@dataclass(frozen=True)
class ReducedProof:
    """Hold the reduced model that is validated instead of the full model.

    Attributes:
        request: the model with few layers and the checkpoint's weights, and its graph with the same weights.
        layers_validated: names of its layers in the full model.
        layers: number of layers of the full model.
    """

    request: ProofRequest
    layers_validated: tuple[str, ...]
    layers: int


def prove_reduced(
    proof: ReducedProof,
    digests: TensorDigests,
    level: ValidationLevel,
    tolerance: Tolerance,
    progress: Progress | None = None,
) -> ValidationReport:
    """Compare the reduced model with its graph, and report it together with the comparison of the tensors.

    Args:
        proof: see `ReducedProof`.
        digests: the comparison of the full graph's tensors.
        level: `full` for every case, `quick` for the traced sizes alone.
        tolerance: bounds of the comparison.
        progress: called with a stage and its completed fraction.

    Returns:
        A report with the status `partial`, or `failed` if an output or a tensor differs; never `passed`.

    Raises:
        ValidationError: ONNX Runtime can't load or run the graph.
    """
    validation = prove(replace(proof.request, mapped=True), level, tolerance, progress)
    cases = (*validation.cases, *_tensor_case(proof.request.name, digests))
    status = "partial" if all(case.passed for case in cases) else "failed"
    return replace(validation, status=status, cases=cases, note=_note(proof, digests))


def at_reduced_depth(binding: Binding, selected: Mapping[str, tuple[int, ...]]) -> Binding:
    """Return the binding of a model with some layers of the full model, which are renumbered from zero.

    Args:
        binding: the binding of the full model.
        selected: name of a layer stack, such as `model.layers`, to the indices of its selected layers, in order.
    """
    names: dict[str, str] = {}
    for name in (*binding.expressions, *binding.tied):
        renamed = _renamed(name, selected)
        if renamed is not None:
            names[name] = renamed
    tied: dict[str, str] = {}
    expressions = {names[name]: item for name, item in binding.expressions.items() if name in names}
    for name, other in binding.tied.items():
        if name not in names:
            continue
        if other in names:
            tied[names[name]] = names[other]
        else:  # the layer with the tensor isn't selected
            expressions[names[name]] = binding.expressions[other]
    return replace(binding, expressions=expressions, tied=tied)


def _renamed(name: str, selected: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return a parameter's name in the reduced model; None if its layer isn't selected."""
    for stack, layers in selected.items():
        if name.startswith(f"{stack}."):
            index, _, rest = name[len(stack) + 1 :].partition(".")
            if not index.isdigit():
                return name
            return f"{stack}.{layers.index(int(index))}.{rest}" if int(index) in layers else None
    return name


def select_layers(traced: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    """Select for each traced layer a layer of the same type of the full model: the first, the second, ….

    Args:
        traced: type of each traced layer, see `tracing.reduction.TracedStack`.
        full: type of each layer of the full model.
    """
    of_type = {layer: [index for index, other in enumerate(full) if other == layer] for layer in set(traced)}
    return tuple(of_type[layer][traced[:index].count(layer)] for index, layer in enumerate(traced))


def _tensor_case(component: str, digests: TensorDigests) -> tuple[Case, ...]:
    """Return a case with the tensors that differ; empty if there are none."""
    outputs = tuple(
        OutputDifference(name, "", (), None, None, False, "the written tensor differs from the checkpoint's")
        for name in digests.differing
    )
    return (Case(component, "tensors", {}, outputs),) if outputs else ()


def _note(proof: ReducedProof, digests: TensorDigests) -> str:
    identical = digests.tensors - len(digests.differing)
    return (
        f"validated: {len(proof.layers_validated)} of {proof.layers} layers ({', '.join(proof.layers_validated)}), "
        f"including each type of layer, run with the checkpoint's weights; and {identical} of {digests.tensors} "
        f"weights ({digests.bytes} bytes, SHA-256 {digests.sha256}), byte for byte those of the checkpoint. Not "
        "validated: the outputs of the full model, which wasn't run"
    )
