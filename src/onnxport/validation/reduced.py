"""Validate what can be validated of a model that can't be run: every type of layer, and every tensor.

A model with few layers, one of each type at least, with the checkpoint's own weights, is compared with the graph that
was traced of it; and every tensor that was written is compared with the checkpoint's. That is less than a
validation of the whole, so its status is `partial`, and the note has what is missing.
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
    """Name what is validated in the place of a whole model.

    Attributes:
        request: the model with few layers and real weights, and its graph with the same tensors.
        layers_validated: names in the full model of the layers that it has.
        layers: how many the full model has.
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
    """Compare the reduced model with its graph, and judge it together with the tensors.

    Args:
        proof: see `ReducedProof`.
        digests: of the tensors of the whole graph.
        level: `full` for every case, `quick` for the traced sizes alone.
        tolerance: bounds of the comparison.
        progress: called with a stage and the share that is done.

    Returns:
        A report that is `partial`, or `failed` where an output or a tensor differs; never `passed`.

    Raises:
        ValidationError: ONNX Runtime can't load or run the graph.
    """
    found = prove(replace(proof.request, mapped=True), level, tolerance, progress)
    cases = (*found.cases, *_tensor_case(proof.request.name, digests))
    status = "partial" if all(case.passed for case in cases) else "failed"
    return replace(found, status=status, cases=cases, note=_note(proof, digests))


def at_reduced_depth(binding: Binding, kept: Mapping[str, tuple[int, ...]]) -> Binding:
    """Return the binding of a model that has only some layers of the full one, renumbered from zero.

    Args:
        binding: of the full model.
        kept: name of a stack, such as `model.layers` → numbers of the layers that stay, in order.
    """
    names: dict[str, str] = {}
    for name in (*binding.expressions, *binding.tied):
        renamed = _renamed(name, kept)
        if renamed is not None:
            names[name] = renamed
    tied: dict[str, str] = {}
    expressions = {names[name]: made for name, made in binding.expressions.items() if name in names}
    for name, other in binding.tied.items():
        if name not in names:
            continue
        if other in names:
            tied[names[name]] = names[other]
        else:  # the layer that has the tensor is gone, and this one needs it
            expressions[names[name]] = binding.expressions[other]
    return replace(binding, expressions=expressions, tied=tied)


def _renamed(name: str, kept: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return a parameter's name in the reduced model, None where its layer isn't there."""
    for stack, layers in kept.items():
        if name.startswith(f"{stack}."):
            number, _, rest = name[len(stack) + 1 :].partition(".")
            if not number.isdigit():
                return name
            return f"{stack}.{layers.index(int(number))}.{rest}" if int(number) in layers else None
    return name


def kept_layers(traced: tuple[int, ...], full: tuple[int, ...]) -> tuple[int, ...]:
    """Choose for each traced layer one of the full model that is of the same type: the first, the second, ….

    Args:
        traced: type of each traced layer, see `tracing.reduction.TracedStack`.
        full: type of each layer of the full model.
    """
    of_type = {layer: [index for index, other in enumerate(full) if other == layer] for layer in set(traced)}
    return tuple(of_type[layer][traced[:index].count(layer)] for index, layer in enumerate(traced))


def _tensor_case(component: str, digests: TensorDigests) -> tuple[Case, ...]:
    """Report tensors that differ as a case of their own."""
    outputs = tuple(
        OutputDifference(name, "", (), None, None, False, "what was written differs from the checkpoint")
        for name in digests.differing
    )
    return (Case(component, "tensors", {}, outputs),) if outputs else ()


def _note(proof: ReducedProof, digests: TensorDigests) -> str:
    same = digests.tensors - len(digests.differing)
    return (
        f"validated: {len(proof.layers_validated)} of {proof.layers} layers ({', '.join(proof.layers_validated)}), "
        f"among them each type of layer, run with their own weights; and {same} of {digests.tensors} weights "
        f"({digests.bytes} bytes, SHA-256 {digests.sha256}), byte for byte those of the checkpoint. Not validated: "
        "what the whole model returns, which wasn't run"
    )
