"""Measure which inputs of linear layers matter, while the original reads a text, and quantize for them.

The error of a layer's output is the sum over its inputs of the weights' errors times the input. Scales that are chosen
with the mean square of each input lose less at the same size: the importance matrices of llama.cpp (pull request 4861).
With the second moments of all pairs of inputs, later columns of a matrix compensate for the errors of those before:
GPTQ (`weights.compensation`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx_ir.tensor_adapters import TorchTensor

from onnxport._foreign_errors import translating
from onnxport._transformers_api import call_forward
from onnxport.blueprints.original import Original
from onnxport.description.examples import ordinary_tokens
from onnxport.description.lengths import window_of
from onnxport.errors import OptionError
from onnxport.options import ExportOptions, Progress
from onnxport.passes.quantization_plan import QuantizedMatrix
from onnxport.validation.memory import Strategy, choose_strategy, weights_of
from onnxport.validation.on_demand import as_tensor
from onnxport.validation.original import original_model
from onnxport.validation.samples import tokenizer_of
from onnxport.weights.compensation import compensated
from onnxport.weights.expressions import NO_FILES, Array
from onnxport.weights.quantization import BlockScheme, Dequantized, Part, quantized_already

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WINDOW, _MAX_TOKENS = 512, 4096
"""Tokens that the original reads at once, and in all."""
_RANDOM_WINDOW, _RANDOM_TOKENS = 16, 512
"""The same, of random ones. Of windows of 16 to 512, shorter ones lost less in most of five models in 8 bits."""
_NO_TEXT = "--calibration is for models of text, and {} didn't read it: leave it out"


def measure_importance(
    original: Original, text: str | None, options: ExportOptions, report: Progress
) -> dict[str, Array]:
    """Return the mean square of each input of the linear layers, while the original reads a text.

    Args:
        original: the checkpoint.
        text: the text; half of its tokens are read, since the loss is measured on the others. None for random tokens.
        options: memory, and how the checkpoint is read.
        report: called with the stage.

    Returns:
        Full name of a weight to float32 `[inputs]`, of layers that were run.

    Raises:
        OptionError: the model can't read tokens alone, or its checkpoint has no tokenizer.
    """
    report("calibrate", None)
    with _reading(original, text, options) as (model, rows):
        with _sums(model) as sums, torch.no_grad(), translating(partial(_unread, model)):
            for batch in _batches(model, rows):
                _read(model, batch)
        count = sum(len(row) for row in rows)
    if not sums or not all(torch.isfinite(total).all() for total in sums.values()):
        raise OptionError(_NO_TEXT.format(type(model).__name__))
    return {name: (total / count).float().numpy() for name, total in sums.items()}


def compensate(
    original: Original,
    text: str,
    options: ExportOptions,
    plan: Mapping[str, QuantizedMatrix],
    directory: Path,
    report: Progress,
) -> dict[str, Dequantized]:
    """Quantize the weights of linear layers with GPTQ, in the order in which the original uses them.

    The inputs of a layer are those that it gets from quantized layers before. All texts are read in one forward, so
    that the moments of one layer are in memory at a time. Weights with several names, such as an embedding that is
    tied to the head, are left out.

    Args:
        original: the checkpoint.
        text: the text; half of its tokens are read.
        options: memory, and how the checkpoint is read.
        plan: full name of a parameter to how it is quantized.
        directory: directory for the quantized weights, which stay in files.
        report: called with the stage, and the fraction of the weights that have been quantized.

    Returns:
        Full name of a weight to its quantized matrix.

    Raises:
        OptionError: the model doesn't read text, or its checkpoint has no tokenizer.
    """
    with _reading(original, text, options) as (model, rows), torch.no_grad():
        whole = [row for row in rows if len(row) == len(rows[0])]
        compensation = _Compensation(model, plan, directory, report)
        with compensation.hooked():
            _read(model, torch.stack(whole))
    return compensation.rounded


@contextmanager
def _reading(
    original: Original, text: str | None, options: ExportOptions
) -> Iterator[tuple[PreTrainedModel, tuple[torch.Tensor, ...]]]:
    """Yield the original, and the token ids of a text in windows, [tokens] each."""
    tokenizer = tokenizer_of(original.preprocessor)
    if tokenizer is None and text is not None:
        raise OptionError(
            "--calibration FILE needs a tokenizer, and the checkpoint has none: leave it out, or pass --calibration "
            "random"
        )
    if text is None and weights_of(original.checkpoint, options.validation).on_disk:
        strategy = Strategy("on disk")
    else:
        strategy = choose_strategy(original.checkpoint, options.validation, reducible=False)
    subject = original.subject
    with original_model(original.checkpoint, subject.model_class, options.checkpoint, strategy, original.draft) as (
        model,
        _,
    ):
        if text is None:
            vocabulary = torch.tensor(ordinary_tokens(model.config, getattr(tokenizer, "all_special_ids", ())))
            if not len(vocabulary):
                raise OptionError(_NO_TEXT.format(type(model).__name__))
            chosen = torch.randint(len(vocabulary), (_RANDOM_TOKENS,), generator=torch.Generator().manual_seed(0))
            ids, window = vocabulary[chosen], _RANDOM_WINDOW
        else:
            ids, window = tokenizer(text, return_tensors="pt")["input_ids"][0], _WINDOW
            ids = ids[: min(_MAX_TOKENS, -(-len(ids) // 2))]
        rows = torch.split(ids, window_of(model, window))
        yield model, rows if text is not None else _ended(model, rows)


def _ended(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return token ids that end as the inputs of an encoder: classifiers with a decoder read its state there."""
    end = getattr(model.config, "eos_token_id", None) if model.config.is_encoder_decoder else None
    return tuple(torch.cat([row[:-1], torch.tensor([end])]) for row in rows) if isinstance(end, int) else tuple(rows)


def _batches(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return token ids in batches, [batch, tokens], so that weights that stay on disk are read a few times."""
    is_classifier = type(model).__name__.endswith("ForSequenceClassification")
    if is_classifier and getattr(model.config, "pad_token_id", None) is None:  # then it refuses batches
        return [row[None] for row in rows]
    groups = itertools.groupby(rows, len)
    return [torch.stack(list(group)) for _, group in groups]


def _read(model: PreTrainedModel, ids: torch.Tensor) -> None:
    """Run the forward of a model up to its logits."""
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(_finish) if isinstance(head, torch.nn.Module) else None
    try:
        call_forward(model, inputs)
    except _FinishedError:
        pass
    finally:
        if handle is not None:
            handle.remove()


def _unread(model: PreTrainedModel, error: Exception) -> Exception:
    """Return the error for a model that raises one when it reads tokens alone."""
    return OptionError(f"{_NO_TEXT.format(type(model).__name__)} ({type(error).__name__}: {error})")


class _FinishedError(Exception):
    """End a forward before its logits, which have more elements than all hidden states."""


def _finish(module: torch.nn.Module, inputs: Any) -> None:
    raise _FinishedError


class _Compensation:
    """Quantize the weight of each linear layer when its inputs are known, and let the layer compute with it.

    Args:
        model: the original, which isn't changed.
        plan: full name of a parameter to how it is quantized.
        directory: directory for the quantized weights.
        report: called with the fraction of the weights that have been quantized.

    Attributes:
        layers: the layers that are quantized, with the full names of their weights.
        rounded: full name of a parameter to its quantized matrix.
    """

    def __init__(
        self, model: PreTrainedModel, plan: Mapping[str, QuantizedMatrix], directory: Path, report: Progress
    ) -> None:
        self.rounded: dict[str, Dequantized] = {}
        self.layers: dict[torch.nn.Module, str] = {}
        self._plan, self._directory, self._report = plan, directory, report
        names = _names_of_parameters(model)
        for layer in _linear_layers(model):
            (name, *others) = names.get(id(layer.weight), [""])
            matrix = plan.get(name)
            if not others and matrix is not None and matrix.takes_compensation:
                self.layers[layer] = name

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Quantize the weights of layers that are called in this block."""
        handles = [layer.register_forward_pre_hook(self._quantize) for layer in self.layers]
        handles += [layer.register_forward_hook(self._replace) for layer in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _quantize(self, layer: Any, inputs: Any) -> None:
        name = self.layers[layer]
        if name in self.rounded:  # the layer is called several times
            return
        given = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()
        # Each token counts the same: a few, such as the first one, have states that are a thousand times as large.
        given = torch.nn.functional.normalize(given, dim=-1)
        moments = ((given.T @ given) / len(given)).double().cpu().numpy()
        weight: torch.Tensor = layer.weight.detach().clone()
        dtype = TorchTensor(weight).dtype.numpy()
        rows = (weight.T if self._plan[name].by_columns else weight).float().cpu().contiguous().numpy()
        scheme = self._plan[name].scheme
        assert isinstance(scheme, BlockScheme)
        parts = compensated(rows, moments, scheme, dtype)
        mapped = {part: self._mapped(part, array) for part, array in parts.items()}
        self.rounded[name] = quantized_already(mapped, scheme, rows.shape[1])
        self._report("quantize for the text", len(self.rounded) / len(self.layers))

    def _replace(self, layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        name = self.layers[layer]
        weight = as_tensor(self.rounded[name], NO_FILES).to(output)
        return torch.nn.functional.linear(inputs[0], weight, layer.bias)

    def _mapped(self, part: Part, array: Array) -> Array:
        """Write an array to a file, and return it mapped into memory."""
        file = self._directory / f"{len(self.rounded)}.{part}.npy"
        np.save(file, array)
        mapped: Array = np.load(file, mmap_mode="r")
        return mapped


def _names_of_parameters(model: PreTrainedModel) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


@contextmanager
def _sums(model: PreTrainedModel) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the sums of squares of the inputs of a model's linear layers, by the names of their weights."""
    names = _names_of_parameters(model)
    sums: dict[str, torch.Tensor] = {}

    def add(module: torch.nn.Module, inputs: Any) -> None:
        squares = inputs[0].detach().double().square()
        total = squares.reshape(-1, squares.shape[-1]).sum(0).cpu()
        for name in names.get(id(module.weight), ()):
            sums[name] = sums[name] + total if name in sums else total

    handles = [layer.register_forward_pre_hook(add) for layer in _linear_layers(model)]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def _linear_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return [module for module in model.modules() if isinstance(module, torch.nn.Linear | Conv1D)]
