"""Account for every parameter and every tensor of a load: nothing random, nothing left over unexplained.

Missing parameters and different shapes are always errors. A leftover tensor is accepted when another class of the
same model type has a parameter of that name and shape: it is the head (or pooler) of another task.
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

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_SHOWN = 8
_HARMLESS_BUFFERS = re.compile(r"(^|\.)(num_batches_tracked|position_ids)$")
_OLD_BUFFERS = re.compile(
    r"(^|\.)(attn(ention)?\.(bias|masked_bias)|position_ids|inv_freq|rotary_emb\.(cos|sin)_cached)$"
)
"""Constants that releases of Transformers before 4.31 saved with the parameters; now they are computed."""


@dataclass(frozen=True)
class Account:
    """Say how the tensors of a checkpoint met the parameters of a model.

    Attributes:
        missing: parameters and buffers without tensor.
        unexpected: tensors without parameter.
        mismatched: name, shape in the checkpoint, shape in the model.
        shapes: tensor of the checkpoint → shape; `None` when not known.
    """

    missing: frozenset[str]
    unexpected: frozenset[str]
    mismatched: frozenset[tuple[str, tuple[int, ...], tuple[int, ...]]]
    shapes: Mapping[str, tuple[int, ...]] | None

    @classmethod
    def of(cls, info: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]] | None) -> Account:
        """Take over the loading information of Transformers."""
        mismatched = frozenset(
            (name, tuple(found), tuple(wanted)) for name, found, wanted in info.get("mismatched_keys", ())
        )
        return cls(frozenset(info["missing_keys"]), frozenset(info["unexpected_keys"]), mismatched, shapes)


def settle(account: Account, model: PreTrainedModel, checkpoint: Checkpoint) -> frozenset[str]:
    """Accept a load, or refuse it.

    Args:
        account: what Transformers reported.
        model: the loaded model.
        checkpoint: where the tensors came from.

    Returns:
        The leftover tensors that were accepted.

    Raises:
        WeightsMismatchError: naming the parameters without tensor, the tensors without parameter and the shapes.
    """
    needed = {n for n in account.missing if not _HARMLESS_BUFFERS.search(n) and not _is_computed(model, n)}
    missing = sorted({*needed, *_hidden(account, model)})
    leftover = {name for name in account.unexpected if not _OLD_BUFFERS.search(name)}
    unexplained = sorted(_unexplained(leftover, account, model, checkpoint)) if leftover else []
    if missing or unexplained or account.mismatched:
        raise WeightsMismatchError(_message(account, model, checkpoint, missing, unexplained))
    if leftover:
        logger.info(
            "%s: %d tensors belong to another task's head and aren't used by %s: %s",
            checkpoint.name, len(leftover), type(model).__name__, _names(sorted(leftover)),
        )  # fmt: skip
    return frozenset(account.unexpected)


def drop_missing_poolers(account: Account, model: PreTrainedModel) -> Account:
    """Take out the poolers that the checkpoint doesn't have, where nothing of the model needs them.

    That is what `add_pooling_layer=False` does: for the model itself, and for the encoder of a composite
    encoder-decoder model, which reads the hidden states only. Elsewhere a head needs the pooler.

    Returns:
        The account without the parameters that are gone.
    """
    missing = set(account.missing)
    is_composite = model.config.is_encoder_decoder and hasattr(model, "encoder")
    prefixes = ("", "encoder.") if is_composite else ("",)
    for prefix in prefixes:
        owner = model.get_submodule(prefix.rstrip("."))
        own = {f"{prefix}pooler.{name}" for name in _parameter_names(getattr(owner, "pooler", None))}
        if own and own <= missing and "add_pooling_layer" in inspect.signature(type(owner).__init__).parameters:
            owner.pooler = None
            missing -= own
            logger.info("%s has no pooler in this checkpoint, and is loaded without one", type(owner).__name__)
    return replace(account, missing=frozenset(missing))


def _parameter_names(module: Any) -> list[str]:
    return [] if module is None else [name for name, _ in module.named_parameters()]


def _hidden(account: Account, model: PreTrainedModel) -> Iterator[str]:
    """Yield the random parameters that Transformers was told not to report missing.

    Those that start as a constant (ones, zeros) or as a formula are what the class's author left out on purpose.
    Buffers are computed when the model is built, and tied parameters share another's tensor.
    """
    patterns = getattr(model, "_keys_to_ignore_on_load_missing", None) or ()
    if account.shapes is None or not patterns:
        return
    ignorable = re.compile("|".join(f"({pattern})" for pattern in patterns))
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else ""
    for name, value in model.named_parameters():
        spellings = {name, name.removeprefix(prefix), prefix + name}
        if not ignorable.search(name) or name in tied or spellings & account.shapes.keys():
            continue
        if hasattr(value, "expression") or getattr(value, "_is_hf_initialized", False):  # loaded, from converted names
            continue
        is_constant = not value.is_meta and bool((value == value.flatten()[:1]).all())
        if not is_constant and not _is_computed(model, name):
            yield name


def _is_computed(model: PreTrainedModel, name: str) -> bool:
    """Tell whether a parameter is a table of sines: older releases didn't save those (Marian, Pegasus)."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return any("Sinusoidal" in base.__name__ for base in type(owner).__mro__)


def _unexplained(leftover: set[str], account: Account, model: PreTrainedModel, checkpoint: Checkpoint) -> set[str]:
    """Return the leftover tensors that no other class of the same model type has a place for."""
    remaining = set(leftover)
    for model_class in _relatives(model, checkpoint):
        if not remaining:
            break
        left = {name: (account.shapes or {}).get(name) for name in remaining}
        for name, shape in _places(model_class, _whole_config(model_class, model.config, checkpoint), left).items():
            found = left.get(name) or shape
            # The size of another head (its number of labels) isn't this configuration's: the rank must agree.
            if name in remaining and len(found) == len(shape):
                remaining.discard(name)
    return remaining


def _relatives(model: PreTrainedModel, checkpoint: Checkpoint) -> Iterator[type]:
    """Yield the classes for the model's configuration: those that the checkpoint declares, then the others."""
    import transformers
    from transformers.models.auto import modeling_auto

    seen: set[type] = {type(model)}
    tables = [value for name, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL_(\w+_)?MAPPING", name)]
    names = list(checkpoint.architectures)
    for table in tables:
        for kind in dict.fromkeys((model.config.model_type, checkpoint.model_type)):
            found = table._model_mapping.get(kind, ()) if hasattr(table, "_model_mapping") else ()
            names += [found] if isinstance(found, str) else list(found)
    for name in names:
        candidate = getattr(transformers, name, None)
        if isinstance(candidate, type) and candidate not in seen and hasattr(candidate, "_from_config"):
            seen.add(candidate)
            yield candidate


def _whole_config(model_class: Any, config: Any, checkpoint: Checkpoint) -> Any:
    """Return a class's configuration: the checkpoint's own, where the model that was loaded is a part of that class."""
    if model_class.config_class is None or isinstance(config, model_class.config_class):
        return config
    return model_class.config_class.from_dict(dict(checkpoint.config))


def _places(model_class: Any, config: Any, tensors: Mapping[str, tuple[int, ...] | None]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a class's state dict has, from a model without memory.

    Those of `tensors`, shape by name, that its loader renames to one of them, or makes one of, are among the names.
    """
    import torch

    try:
        with torch.device("meta"):
            model = model_class(copy.deepcopy(config))
    except Exception as error:  # noqa: BLE001  a relative that this configuration can't build explains nothing
        logger.debug("%s can't be built from this configuration: %s", model_class.__name__, error)
        return {}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    prefix = f"{model.base_model_prefix}."
    found = own | {name.removeprefix(prefix): shape for name, shape in own.items() if name.startswith(prefix)}
    return found | dict(_renamed(model, found, {name: shape for name, shape in tensors.items() if name not in found}))


def _renamed(
    model: Any, places: Mapping[str, tuple[int, ...]], tensors: Mapping[str, tuple[int, ...] | None]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield tensors that a model's loader gives another name, or puts together, with the shapes that they must have."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings, converters = (
        [rule for rule in rules if isinstance(rule, kind)] for kind in (WeightRenaming, WeightConverter)
    )
    for name, shape in tensors.items():
        new, converted = rename_source_key(name, renamings, converters)
        if new in places:
            yield name, (shape or ()) if converted else places[new]


def _message(
    account: Account, model: PreTrainedModel, checkpoint: Checkpoint, missing: list[str], unexplained: list[str]
) -> str:
    parts = [f"{checkpoint.name}: the weights don't fit {type(model).__name__}"]
    if missing:
        parts.append(f"{len(missing)} parameters have no tensor (they would be random): {_names(missing)}")
    if unexplained:
        parts.append(f"{len(unexplained)} tensors have no parameter: {_names(unexplained)}")
    if account.mismatched:
        shown = [f"{n} is {list(found)}, must be {list(wanted)}" for n, found, wanted in sorted(account.mismatched)]
        parts.append(f"{len(shown)} tensors have another shape: {_names(shown)}")
    saved = ", ".join(checkpoint.architectures) or "an unknown class"
    return f"{'; '.join(parts)}. It was saved from {saved}: export a task of that class, or correct config.json"


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
