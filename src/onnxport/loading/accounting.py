"""Check a loading report: no parameter may be randomly initialized, and no tensor silently ignored.

Missing parameters and mismatched shapes are always errors. An unexpected tensor is accepted if another class of the
same model type has a parameter of that name and rank: it belongs to another task's head, or to a pooler.
"""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.errors import WeightsMismatchError
from onnxport.loading.failures import construction_failures

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_SHOWN = 8
_HARMLESS_BUFFERS = re.compile(r"(^|\.)(num_batches_tracked|position_ids)$")
"""Buffers that a checkpoint may lack: the first is unused at inference, the second is computed."""
_OLD_BUFFERS = re.compile(
    r"(^|\.)(attn(ention)?\.(bias|masked_bias)|position_ids|inv_freq|rotary_emb\.(cos|sin)_cached)$"
)
"""Constants that Transformers < 4.31 saved with the parameters, and that are computed now."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a checkpoint matched the parameters of a model.

    Attributes:
        missing: parameters and buffers without a tensor.
        unexpected: tensors without a parameter.
        mismatched: name, shape in the checkpoint, and shape in the model.
        shapes: shapes of the checkpoint's tensors by name; None if unknown.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[tuple[str, tuple[int, ...], tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]] | None

    @classmethod
    def of(cls, info: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> LoadReport:
        """Create a report from the `loading_info` of `from_pretrained(..., output_loading_info=True)`."""
        mismatched = frozenset(
            (name, tuple(stored), tuple(expected)) for name, stored, expected in info.get("mismatched_keys", ())
        )
        return cls(frozenset(info["missing_keys"]), frozenset(info["unexpected_keys"]), mismatched, shapes)


def check_complete(report: LoadReport, model: PreTrainedModel, checkpoint: Checkpoint) -> frozenset[str]:
    """Check that every parameter and every tensor was loaded.

    Args:
        report: report of Transformers' loader.
        model: the loaded model.
        checkpoint: the checkpoint that the tensors come from.

    Returns:
        The unexpected tensors that were accepted.

    Raises:
        WeightsMismatchError: parameters have no tensor, tensors have no parameter, or shapes differ.
    """
    random = {n for n in report.missing if not _HARMLESS_BUFFERS.search(n) and not _is_computed(model, n)}
    missing = sorted({*random, *_unreported(report, model)})
    unused = {name for name in report.unexpected if not _OLD_BUFFERS.search(name)}
    unexplained = sorted(_unexplained(unused, report, model, checkpoint)) if unused else []
    if missing or unexplained or report.mismatched:
        raise WeightsMismatchError(_message(report, model, checkpoint, missing, unexplained))
    if unused:
        logger.info(
            "%s: %d tensors belong to another task's head and aren't used by %s: %s",
            checkpoint.name, len(unused), type(model).__name__, _names(sorted(unused)),
        )  # fmt: skip
    return frozenset(report.unexpected)


def remove_missing_poolers(report: LoadReport, model: PreTrainedModel) -> LoadReport:
    """Remove poolers that are missing from the checkpoint and that no head of the model requires.

    This has the effect of `add_pooling_layer=False` for a base model, and for the encoder of a composite
    encoder-decoder model, of which only the hidden states are used. In other models a head requires the pooler.

    Returns:
        The report without the removed parameters.
    """
    missing = set(report.missing)
    is_composite = model.config.is_encoder_decoder and hasattr(model, "encoder")
    prefixes = ("", "encoder.") if is_composite else ("",)
    for prefix in prefixes:
        owner = model.get_submodule(prefix.rstrip("."))
        names = {f"{prefix}pooler.{name}" for name in _parameter_names(getattr(owner, "pooler", None))}
        if names and names <= missing and "add_pooling_layer" in inspect.signature(type(owner).__init__).parameters:
            owner.pooler = None
            missing -= names
            logger.info("%s has no pooler in this checkpoint, and is loaded without one", type(owner).__name__)
    return replace(report, missing=frozenset(missing))


def _parameter_names(module: nn.Module | None) -> list[str]:
    return [] if module is None else [name for name, _ in module.named_parameters()]


def _unreported(report: LoadReport, model: PreTrainedModel) -> Iterator[str]:
    """Yield the randomly initialized parameters that `_keys_to_ignore_on_load_missing` hides from the loader's report.

    Parameters initialized to a constant (ones, zeros) or by a formula are ignored on purpose. Buffers are computed
    when the model is constructed, and tied parameters share the tensor of another.
    """
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    if report.shapes is None or not patterns:
        return
    ignorable = re.compile("|".join(f"({pattern})" for pattern in patterns))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for name, value in model.named_parameters():
        spellings = {name, name.removeprefix(prefix), prefix + name}
        if not ignorable.search(name) or name in tied or spellings & report.shapes.keys():
            continue
        if hasattr(value, "expression") or getattr(value, "_is_hf_initialized", False):  # loaded under a converted name
            continue
        is_constant = not value.is_meta and bool((value == value.flatten()[:1]).all())
        if not is_constant and not _is_computed(model, name):
            yield name


def _is_computed(model: PreTrainedModel, name: str) -> bool:
    """Return whether a parameter is a sinusoidal position embedding, absent from older checkpoints (Marian)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return any("Sinusoidal" in base.__name__ for base in type(owner).__mro__)


def _unexplained(unused: set[str], report: LoadReport, model: PreTrainedModel, checkpoint: Checkpoint) -> set[str]:
    """Return the unexpected tensors for which no other class of the same model type has a parameter."""
    remaining = set(unused)
    for model_class in _related_classes(model, checkpoint):
        if not remaining:
            break
        stored_shapes = {name: (report.shapes or {}).get(name) for name in remaining}
        config = _config_of_class(model_class, model.config, checkpoint)
        for name, shape in _expected_shapes(model_class, config, stored_shapes).items():
            stored = stored_shapes.get(name) or shape
            # The configuration doesn't have the num_labels of another head, so only the ranks are compared.
            if name in remaining and len(stored) == len(shape):
                remaining.discard(name)
    return remaining


def _related_classes(model: PreTrainedModel, checkpoint: Checkpoint) -> Iterator[type[PreTrainedModel]]:
    """Yield the model classes of the model type: those of `architectures` first, then those of the Auto classes."""
    import transformers
    from transformers.models.auto import modeling_auto

    yielded: set[type] = {type(model)}
    tables = [value for name, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL_(\w+_)?MAPPING", name)]
    names = list(checkpoint.architectures)
    for table in tables:
        for model_type in dict.fromkeys((model.config.model_type, checkpoint.model_type)):
            classes = table._model_mapping.get(model_type, ()) if hasattr(table, "_model_mapping") else ()
            names += [classes] if isinstance(classes, str) else list(classes)
    for name in names:
        candidate = getattr(transformers, name, None)
        if isinstance(candidate, type) and candidate not in yielded and hasattr(candidate, "_from_config"):
            yielded.add(candidate)
            yield candidate


def _config_of_class(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, checkpoint: Checkpoint
) -> PreTrainedConfig:
    """Return a class's configuration: the checkpoint's full configuration if the model is a submodel of that class."""
    if model_class.config_class is None or isinstance(config, model_class.config_class):
        return config
    return model_class.config_class.from_dict(dict(checkpoint.config))


def _expected_shapes(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, tensors: Mapping[str, tuple[int, ...] | None]
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of a class's state dict, from a model on the meta device.

    They include the names in `tensors` (shapes by name) that the loader renames or converts to a state dict name.
    """
    import torch

    try:
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except construction_failures() as error:  # a class that doesn't accept this configuration has no expected shapes
        logger.debug("%s can't be constructed from this configuration: %s", model_class.__name__, error)
        return {}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    shapes |= {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    others = {name: shape for name, shape in tensors.items() if name not in shapes}
    return shapes | dict(_renamed(model, shapes, others))


def _renamed(
    model: PreTrainedModel, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, tuple[int, ...] | None]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors that a model's loader renames or converts, with their expected shapes."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings, converters = (
        [rule for rule in rules if isinstance(rule, rule_type)] for rule_type in (WeightRenaming, WeightConverter)
    )
    for name, shape in tensors.items():
        new, converted = rename_source_key(name, renamings, converters)
        if new in expected:
            yield name, (shape or ()) if converted else expected[new]


def _message(
    report: LoadReport, model: PreTrainedModel, checkpoint: Checkpoint, missing: list[str], unexplained: list[str]
) -> str:
    parts = [f"{checkpoint.name}: the weights don't fit {type(model).__name__}"]
    if missing:
        parts.append(f"{len(missing)} parameters have no tensor (they would be random): {_names(missing)}")
    if unexplained:
        parts.append(f"{len(unexplained)} tensors have no parameter: {_names(unexplained)}")
    if report.mismatched:
        shown = [
            f"{n} is {list(stored)}, must be {list(expected)}" for n, stored, expected in sorted(report.mismatched)
        ]
        parts.append(f"{len(shown)} tensors have another shape: {_names(shown)}")
    saved = ", ".join(checkpoint.architectures) or "an unknown class"
    return f"{'; '.join(parts)}. It was saved from {saved}: export a task of that class, or correct config.json"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
