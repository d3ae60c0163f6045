"""Choose the model that is described and traced: with fake parameters and few layers, if that is possible."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from onnxport._needs import WeightsNeededError, translating_missing_values
from onnxport.binding.bind import Bound, bind
from onnxport.blueprints.subject import Subject, subject_of
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.depth import LayerTypes
from onnxport.loading.load import dtype_of, load_model
from onnxport.options import CheckpointOptions, ExportOptions, Progress
from onnxport.tracing.fake import build_fake, like_full
from onnxport.tracing.reduction import Build, Reduction, reduce

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Draft:
    """Hold the bound model, and the model to describe and trace.

    Attributes:
        subject: task, model class, configuration and preprocessor.
        bound: the model at full depth, and its binding.
        reduction: the model to describe and trace.
        build: constructs the model with fake parameters from a configuration; None if the model to trace has weights.
    """

    subject: Subject
    bound: Bound
    reduction: Reduction
    build: Build | None

    def at_full_depth(self, reason: str) -> Self:
        """Return the draft of the same model with all its layers.

        Args:
            reason: why few layers aren't sufficient.
        """
        assert self.build is not None, "layers are left out of models without weights"
        note = f"traced at full depth: {reason}"
        return replace(self, reduction=Reduction(self.build(self.bound.model.config), notes=(note,)))

    def with_all_layers_of(self, stacks: frozenset[str]) -> Self:
        """Return the draft of the same model with all layers of the named stacks."""
        assert self.build is not None, "layers are left out of models without weights"
        return replace(self, reduction=reduce(self.bound.model, self.build, stacks))

    def with_weights(self, checkpoint: Checkpoint, reason: str, options: CheckpointOptions) -> Self:
        """Return the draft of the same model with its weights in memory.

        Args:
            checkpoint: the checkpoint.
            reason: why its weights are needed.
            options: dtype, device, `trust_remote_code`.
        """
        loaded = load_model(checkpoint, self.subject.model_class, options)
        note = f"traced with its weights in memory: {reason}"
        return replace(self, build=None, reduction=Reduction(loaded, notes=(note,)))

    def layers_beyond(self, other: Draft) -> tuple[LayerTypes, ...]:
        """Return the layer types of each stack, in this draft's model and in that of a draft with more layers."""
        deeper = {stack.path: stack.traced for stack in other.reduction.stacks}
        return tuple(
            LayerTypes(stack.path, stack.traced, deeper.get(stack.path, stack.full)) for stack in self.reduction.stacks
        )


def make_draft(checkpoint: Checkpoint, options: ExportOptions, report: Progress) -> Draft:
    """Bind a checkpoint and choose the model to trace.

    Raises:
        CheckpointError: it can't be read, or its tensors don't match the model.
        UnsupportedError: Transformers has no class for it and the task.
    """
    subject = subject_of(checkpoint, options)
    report("bind the weights", None)
    bound = bind(checkpoint, subject.model_class, subject.config, options.checkpoint)

    def build(config: PreTrainedConfig) -> PreTrainedModel:
        return like_full(build_fake(subject.model_class, config, dtype_of(options.checkpoint)), bound.model)

    draft = Draft(subject, bound, Reduction(bound.model), build)
    try:
        with translating_missing_values():
            if not options.stamping:
                return replace(draft, reduction=Reduction(build(bound.model.config), notes=("--no-stamping",)))
            return draft.with_all_layers_of(frozenset())
    except WeightsNeededError as error:
        return draft.with_weights(checkpoint, f"building it requires their values ({error})", options.checkpoint)
