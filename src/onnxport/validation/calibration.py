"""Measure which inputs of linear layers matter: the mean square of each, while the original reads a text.

The error of a layer's output is the sum over its inputs of the weights' errors times the input. Scales that are chosen
with these weights lose less at the same size: the importance matrices of llama.cpp (pull request 4861).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onnxport._transformers_api import call_forward
from onnxport.blueprints.original import Original
from onnxport.description.lengths import positions_of
from onnxport.errors import OptionError
from onnxport.options import ExportOptions, Progress
from onnxport.validation.memory import choose_strategy
from onnxport.validation.original import original_model
from onnxport.validation.samples import tokenizer_of
from onnxport.weights.expressions import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOW, _MAX_TOKENS = 512, 4096
"""Tokens that the original reads at once, and in all."""


def measure_importance(original: Original, text: str, options: ExportOptions, report: Progress) -> dict[str, Array]:
    """Return the mean square of each input of the linear layers, while the original reads a text.

    Args:
        original: the checkpoint.
        text: the text; half of its tokens are read, since the loss is measured on the others.
        options: memory, and how the checkpoint is read.
        report: called with the stage.

    Returns:
        Full name of a weight to float32 `[inputs]`, of layers that were run.

    Raises:
        OptionError: the model doesn't read text, or its checkpoint has no tokenizer.
    """
    report("calibrate", None)
    tokenizer = tokenizer_of(original.preprocessor)
    if tokenizer is None:
        raise OptionError("--calibration needs a tokenizer, and the checkpoint has none: leave it out")
    ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
    ids = ids[: min(_MAX_TOKENS, -(-len(ids) // 2))]
    strategy = choose_strategy(original.checkpoint, options.validation, reducible=False)
    subject = original.subject
    with original_model(original.checkpoint, subject.model_class, options.checkpoint, strategy, original.draft) as (
        model,
        _,
    ):
        window = min((_WINDOW, *positions_of(model.config)))
        with _sums(model) as sums, torch.no_grad():
            for row in ids.split(window):
                inputs = {"input_ids": row[None]}
                if model.config.is_encoder_decoder:
                    inputs["decoder_input_ids"] = row[None]
                call_forward(model, inputs)
        if not sums:
            raise OptionError(
                f"--calibration is for models of text, and {type(model).__name__} didn't read it: leave it out"
            )
        return {name: (total / len(ids)).float().numpy().astype(np.float32) for name, total in sums.items()}


@contextmanager
def _sums(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the sums of squares of the inputs of linear layers, by the names of their weights."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    sums: dict[str, torch.Tensor] = {}

    def add(module: torch.nn.Module, inputs: Any) -> None:
        squares = inputs[0].detach().double().square()
        total = squares.reshape(-1, squares.shape[-1]).sum(0).cpu()
        for name in names.get(id(module.weight), ()):
            sums[name] = sums[name] + total if name in sums else total

    layers = [module for module in model.modules() if _is_linear(module)]
    handles = [layer.register_forward_pre_hook(add) for layer in layers]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)
