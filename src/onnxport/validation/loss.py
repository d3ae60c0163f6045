"""Measure what quantization loses: outputs of the graphs as they run, against those of the original.

Whether a graph is right is another question, which the comparison with the quantized weights answers
(`quantized_original`). What is measured depends on the outputs: logits of a language model by perplexity and by the
share of tokens whose most probable successor stays the same, other logits by the share of the largest ones that stay
and their mean difference, and any other output by the cosine of its last axis.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._transformers_api import call_forward
from onnxport.description.lengths import window_of
from onnxport.description.tasks import Task
from onnxport.errors import MissingInputError, NoKernelError, SizeLimitError, UnsupportedError
from onnxport.runtime.torch_model import torch_model
from onnxport.tracing.originals import to_array
from onnxport.validation.report import Loss
from onnxport.validation.samples import sample_inputs, tokenizer_of
from onnxport.weights.precision import Precision
from onnxport.weights.quantization import BlockScheme, RowScheme

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from onnxport.runtime.directory import Directory

logger = logging.getLogger(__name__)

_WINDOW, _MAX_TOKENS = 512, 2048
"""Tokens that a language model reads at once, and in all."""
_OUTPUTS = ("logits", "sentence_embedding")
"""Outputs that are measured; the first one of a model that has neither."""
_LEAST = {"top-1 agreement": 0.9, "cosine": 0.99}
"""Measures below which a warning names the loss."""


@dataclass(frozen=True)
class LossRequest:
    """Hold what a loss is measured with.

    Attributes:
        model: the original.
        preprocessor: of the checkpoint; None if it has none.
        task: the exported task.
        text: the text that a language model reads.
        is_calibrated: whether the first half of the text was used to quantize.
    """

    model: PreTrainedModel
    preprocessor: Any
    task: Task
    text: str
    is_calibrated: bool = False


def measure_loss(request: LossRequest, directory: Directory, precision: Precision, calibration: str) -> Loss | None:
    """Compare an export's outputs with the original's on samples.

    Args:
        request: the original, and the samples.
        directory: the export, with the graphs of one precision.
        precision: the precision.
        calibration: the option that calibrates with more than was used, which a warning names; empty if there is none.

    Returns:
        What is lost; None if nothing can be run, for want of a preprocessor or of a class for the graphs.
    """
    try:
        loaded = torch_model(directory)
    except (NoKernelError, UnsupportedError):
        return None
    if request.task.name == "text-generation" and tokenizer_of(request.preprocessor) is not None:
        loss = _of_language_model(request, loaded, precision.name)
    else:
        loss = _of_samples(request, directory, loaded, precision.name)
    if loss is None:
        return None
    finite = {name: value for name, value in loss.measures.items() if math.isfinite(value)}
    for name in loss.measures.keys() - finite.keys():
        logger.warning("%s: the %s on %s is infinite or NaN", loss.precision, name, loss.sample)
    loss = replace(loss, measures=finite)
    _warn(loss, precision, calibration)
    return loss


def _of_language_model(request: LossRequest, loaded: Any, precision: str) -> Loss | None:
    """Return perplexities and agreement over windows of a text."""
    ids = tokenizer_of(request.preprocessor)(request.text, return_tensors="pt")["input_ids"][0][-_MAX_TOKENS:]
    ids = ids[len(ids) // 2 :] if request.is_calibrated else ids
    window = window_of(request.model, _WINDOW)
    totals, count = np.zeros(3), 0
    for row in ids.split(window):
        if len(row) < 2:
            continue
        wanted, actual = (_logits(run, {"input_ids": row[None]})[0, :-1] for run in (_original(request.model), loaded))
        if wanted.shape != actual.shape:  # the graph returns the last logits alone
            return None
        following = row[1:].numpy()
        totals += (
            _negative_log_likelihood(wanted, following),
            _negative_log_likelihood(actual, following),
            float((wanted.argmax(-1) == actual.argmax(-1)).sum()),
        )
        count += len(following)
    if not count:
        return None
    with np.errstate(over="ignore"):  # `measure_loss` warns of it
        original, quantized = np.exp(totals[:2] / count)
    measures = {
        "perplexity of the original": float(original),
        "perplexity": float(quantized),
        "top-1 agreement": float(totals[2] / count),
    }
    return Loss(precision, f"{count} tokens of text", measures)


def _of_samples(request: LossRequest, directory: Directory, loaded: Any, precision: str) -> Loss | None:
    """Return agreement or cosine over what the preprocessor makes of the package's samples."""
    names, agreeing, differences, cosines = [], [], [], []
    for name, inputs, given in sample_inputs(request.model, directory, loaded, request.preprocessor):
        try:
            wanted, actual = _outputs(_original(request.model), inputs), _outputs(loaded, given)
        except (MissingInputError, SizeLimitError):  # which the validation reports
            continue
        output = next((key for key in (*_OUTPUTS, *wanted) if key in wanted and key in actual), "")
        if output not in actual or wanted[output].shape != actual[output].shape or not wanted[output].ndim:
            continue
        one, other = (_without_padding(values[output], inputs).astype(np.float64) for values in (wanted, actual))
        names.append(name)
        if output == "logits":
            agreeing.append((one.argmax(-1) == other.argmax(-1)).mean())
            differences.append(np.abs(one - other).mean())
        else:
            cosines.append(_cosine(one, other))
    if not names:
        return None
    if cosines:
        return Loss(precision, ", ".join(names), {"cosine": float(np.min(cosines))})
    measures = {"top-1 agreement": float(np.mean(agreeing)), "mean difference of logits": float(np.mean(differences))}
    return Loss(precision, ", ".join(names), measures)


def _without_padding(values: NDArray[Any], inputs: Mapping[str, torch.Tensor]) -> NDArray[Any]:
    """Return the values of tokens that aren't padding, which nothing reads."""
    mask = inputs.get("attention_mask")
    has_tokens = mask is not None and values.ndim > 2 and values.shape[:2] == tuple(mask.shape)
    return values[to_array(mask) == 1] if mask is not None and has_tokens else values


def _original(model: PreTrainedModel) -> Any:
    return lambda **inputs: call_forward(model, inputs)


def _outputs(run: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, NDArray[Any]]:
    import torch

    with torch.no_grad():
        result = run(**inputs)
    return {name: to_array(value) for name, value in result.items() if isinstance(value, torch.Tensor)}


def _logits(run: Any, inputs: Mapping[str, torch.Tensor]) -> NDArray[Any]:
    return _outputs(run, inputs)["logits"].astype(np.float64)


def _negative_log_likelihood(logits: NDArray[Any], following: NDArray[Any]) -> float:
    """Return the sum over tokens of -log p(token)."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(-1))
    return float((log_sum - np.take_along_axis(shifted, following[:, None], -1)[:, 0]).sum())


def _cosine(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the mean cosine of the last axes."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float((np.einsum("...i,...i->...", one, other) / np.maximum(norms, np.finfo(np.float64).tiny)).mean())


def _warn(loss: Loss, precision: Precision, calibration: str) -> None:
    """Name a large loss, and what may lose less."""
    for name, least in _LEAST.items():
        value = loss.measures.get(name, 1.0)
        if value < least:
            remedies = _remedies(precision, calibration, of_language="perplexity" in loss.measures)
            better = f"; {' or '.join(remedies)} may lose less" if remedies else ""
            logger.warning("%s loses much: %s %.3f on %s%s", loss.precision, name, value, loss.sample, better)


def _remedies(precision: Precision, calibration: str, *, of_language: bool) -> list[str]:
    """Return the options that may lose less, without those that were used."""
    remedies, scheme = [calibration] if calibration else [], precision.scheme
    if isinstance(scheme, RowScheme):
        return [*remedies, "--quantize-options weight_only"]
    if isinstance(scheme, BlockScheme) and scheme == precision.head and scheme.bits < 8 and of_language:
        remedies.append("--quantize-options lm_head=8")
    if not isinstance(scheme, BlockScheme) or scheme.bits < 8:
        remedies.append("--dtype q8 --quantize-options weight_only")
    return remedies
