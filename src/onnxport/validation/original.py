"""Get the original to compare with: in memory, or with weights that stay on disk."""

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
    """Give the original in a block.

    Args:
        checkpoint: where its weights are.
        model_class: a model class of Transformers.
        options: dtype, device, whether code may run.
        strategy: `whole` reads the weights at once; others read them on demand, and run on the CPU.
        draft: what was made for tracing, if anything was. Where it has no weights, its model is given them.

    Yields:
        The model, and the note of the strategy for the report.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed when the block ends.
    """
    from onnxport.binding.bind import bind
    from onnxport.checkpoint.reading import Reader
    from onnxport.loading.load import load_config, load_model

    bound = draft.bound if draft else None
    if strategy.kind == "whole":
        # A model that was traced may differ from the original: RWKV rescales its weights when it is run.
        is_whole = bound is not None and not bound.binding.files
        model = bound.model if bound and is_whole else load_model(checkpoint, model_class, options)
        yield model, strategy.note
        return
    bound = bound or bind(checkpoint, model_class, load_config(checkpoint, options), options)
    if not bound.binding.files:  # all of it is in memory already
        yield (
            bound.model,
            f"the graph's weights stayed on disk, and the original's were in memory: {bound.binding.note}",
        )
        return
    from onnxport.validation.on_demand import read_on_demand

    with Reader(checkpoint.directory, bound.binding.files) as reader:
        yield read_on_demand(bound.model, bound.binding, reader, strategy.keep), strategy.note
        reader.verify()
