"""Load the original model for a comparison: in memory, or with weights that stay on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.options import CheckpointOptions
from onnxport.validation.memory import Strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.blueprints.draft import Draft
    from onnxport.passes.quantization_plan import QuantizedMatrix


@contextmanager
def original_model(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    options: CheckpointOptions,
    strategy: Strategy,
    draft: Draft | None = None,
    quantized: Mapping[str, QuantizedMatrix] | None = None,
) -> Iterator[tuple[PreTrainedModel, str]]:
    """Yield the original model.

    Args:
        checkpoint: the checkpoint.
        model_class: a model class of Transformers.
        options: dtype, device, `trust_remote_code`.
        strategy: `whole` loads the weights into memory; others read them on demand, and run on the CPU.
        draft: the draft that was created for tracing, if any; its model gets the weights if it has none.
        quantized: parameters that are replaced by what quantized ones stand for, by full name.

    Yields:
        The model, and the note of the strategy for the report.

    Raises:
        CheckpointError: the checkpoint can't be read, or has changed when the block ends.
    """
    from onnxport.binding.bind import bind
    from onnxport.checkpoint.reading import Reader
    from onnxport.loading.load import load_config, load_model
    from onnxport.validation.quantized_original import quantized_binding, quantized_weights

    bound, plan = draft.bound if draft else None, quantized or {}
    if strategy.name == "whole":
        # A traced model may differ from the original: RWKV rescales its weights in its forward.
        in_memory = bound is not None and not bound.binding.files
        model = bound.model if bound and in_memory else load_model(checkpoint, model_class, options)
        with quantized_weights(model, plan):
            yield model, strategy.note
        return
    bound = bound or bind(checkpoint, model_class, load_config(checkpoint, options), options)
    if not bound.binding.files:  # all weights are in memory already
        note = f"the graph's weights stayed on disk, and the original's were in memory: {bound.binding.note}"
        with quantized_weights(bound.model, plan):
            yield bound.model, note
        return
    from onnxport.validation.on_demand import read_on_demand

    with Reader(checkpoint.directory, bound.binding.files) as reader:
        binding = quantized_binding(bound.binding, plan)
        yield read_on_demand(bound.model, binding, reader, strategy.cache_bytes), strategy.note
        reader.verify()
