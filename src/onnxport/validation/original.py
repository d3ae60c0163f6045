"""Load the original model for a comparison: in memory, or with weights that stay on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.options import CheckpointOptions
from onnxport.validation.memory import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.blueprints.draft import Draft


@contextmanager
def original_model(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    options: CheckpointOptions,
    strategy: Strategy,
    draft: Draft | None = None,
) -> Iterator[tuple[PreTrainedModel, str]]:
    """Yield the original model.

    Args:
        checkpoint: the checkpoint.
        model_class: a model class of Transformers.
        options: dtype, device, `trust_remote_code`.
        strategy: `whole` loads the weights into memory; others read them on demand, and run on the CPU.
        draft: the draft that was created for tracing, if any; its model gets the weights if it has none.

    Yields:
        The model, and the note of the strategy for the report.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed when the block ends.
    """
    from onnxport.binding.bind import bind
    from onnxport.checkpoint.reading import Reader
    from onnxport.loading.load import load_config, load_model

    bound = draft.bound if draft else None
    if strategy.name == "whole":
        # A traced model may differ from the original: RWKV rescales its weights in its forward.
        in_memory = bound is not None and not bound.binding.files
        model = bound.model if bound and in_memory else load_model(checkpoint, model_class, options)
        yield model, strategy.note
        return
    bound = bound or bind(checkpoint, model_class, load_config(checkpoint, options), options)
    if not bound.binding.files:  # all weights are in memory already
        yield (
            bound.model,
            f"the graph's weights stayed on disk, and the original's were in memory: {bound.binding.note}",
        )
        return
    from onnxport.validation.on_demand import read_on_demand

    with Reader(checkpoint.directory, bound.binding.files) as reader:
        yield read_on_demand(bound.model, bound.binding, reader, strategy.cache_bytes), strategy.note
        reader.verify()
