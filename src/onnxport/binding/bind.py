"""Bind every parameter of a model to an expression over its checkpoint's tensors, without reading them.

Transformers' loader runs on recordings instead of tensors, so the expressions include its renamings, prefixes,
conversions, merged experts and tied weights. A model that can't be loaded this way is loaded eagerly, with a note.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import FileState, Inventory, Reader, state_to_json
from onnxport.errors import CorruptCheckpointError, OnnxportError
from onnxport.options import CheckpointOptions
from onnxport.patching.patch import Patch
from onnxport.patching.scope import patching
from onnxport.weights import building
from onnxport.weights.expressions import Array, Expression, InMemory, Reads, Stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

MAX_MISSING_BYTES = 1 << 26
"""Maximum total size in bytes of parameters initialized without a tensor; sinusoidal embeddings are smaller."""


@dataclass(frozen=True)
class Comparison:
    """A comparison of two tensors, which determined whether parameters are tied.

    Attributes:
        one: the first tensor.
        other: the second tensor.
        equal: whether their values are equal.
    """

    one: Expression
    other: Expression
    equal: bool


@dataclass(frozen=True)
class Binding:
    """Expressions of every parameter and persistent buffer of a model.

    Attributes:
        expressions: expressions by fully qualified name, without names that are tied to another.
        tied: fully qualified name to the name whose tensor it shares.
        leftover: accepted tensors of the checkpoint that aren't used.
        files: state of each file that the expressions refer to; empty if everything is in memory.
        comparisons: comparisons that determined which parameters are tied.
        note: reason why the checkpoint was read eagerly; empty otherwise.
    """

    expressions: Mapping[str, Expression]
    tied: Mapping[str, str] = field(default_factory=dict)
    leftover: tuple[str, ...] = ()
    files: Mapping[str, FileState] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    note: str = ""

    def __getitem__(self, name: str) -> Expression:
        """Return the expression of a parameter or persistent buffer, tied or not."""
        return self.expressions[self.tied.get(name, name)]

    def __contains__(self, name: object) -> bool:
        return name in self.expressions or name in self.tied

    def to_json(self) -> str:
        """Return the binding as JSON, the inverse of `from_json`.

        Raises:
            ValueError: it contains large arrays, because the checkpoint was read eagerly.
        """
        comparisons = [[building.to_json(c.one), building.to_json(c.other), c.equal] for c in self.comparisons]
        return json.dumps(
            {
                "expressions": {name: building.to_json(expression) for name, expression in self.expressions.items()},
                "tied": dict(self.tied),
                "leftover": list(self.leftover),
                "files": {name: state_to_json(state) for name, state in self.files.items()},
                "comparisons": comparisons,
                "note": self.note,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Binding:
        """Return a binding from the result of `to_json`.

        Raises:
            ValueError: the JSON isn't a binding.
        """
        try:
            value = json.loads(text)
            return cls(
                {str(name): building.from_json(expression) for name, expression in value["expressions"].items()},
                {str(name): str(other) for name, other in value["tied"].items()},
                tuple(str(name) for name in value["leftover"]),
                {str(name): FileState(*state) for name, state in value["files"].items()},
                tuple(
                    Comparison(building.from_json(one), building.from_json(other), bool(equal))
                    for one, other, equal in value["comparisons"]
                ),
                str(value["note"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"this isn't a binding: {error}") from error


@dataclass(frozen=True)
class Bound:
    """A model and its binding.

    Attributes:
        model: the full model, in evaluation mode. Parameters and persistent buffers are recordings without data, other
            buffers have data; after an eager load, all of them have data.
        binding: the binding.
    """

    model: PreTrainedModel
    binding: Binding


def bind(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], config: PreTrainedConfig, options: CheckpointOptions
) -> Bound:
    """Bind a model class to a checkpoint, without reading tensors if the format allows it.

    Args:
        checkpoint: the checkpoint.
        model_class: a Transformers model class, such as `BertForMaskedLM`.
        config: configuration of the checkpoint.
        options: dtype, and the device for an eager load.

    Raises:
        WeightsMismatchError: parameters have no tensor, tensors have no parameter, or shapes differ.
        CorruptCheckpointError: a file is damaged.
    """
    from onnxport.loading.load import config_for

    config = config_for(model_class, config)
    if not checkpoint.in_parts:
        format = "pytorch" if checkpoint.format == "safetensors" else checkpoint.format
        return _bind_eagerly(checkpoint, model_class, options, f"{format} files aren't read in parts")
    try:
        inventory = checkpoint.inventory()
    except KeyError as error:
        return _bind_eagerly(checkpoint, model_class, options, f"ONNX has no type {error}")
    with Reader(checkpoint.directory, inventory.files) as reader:
        bound = _bind_lazily(checkpoint, model_class, config, inventory, reader, options)
        reader.verify()
    return bound if isinstance(bound, Bound) else _bind_eagerly(checkpoint, model_class, options, bound)


def _bind_lazily(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    inventory: Inventory,
    reader: Reader,
    options: CheckpointOptions,
) -> Bound | str:
    """Return the model and its binding, or the reason why it can't be bound lazily."""
    from onnxport.checkpoint.adapters import KEY_PREFIX
    from onnxport.checkpoint.quiet import quiet
    from onnxport.loading.load import attach_generation_config, load_state
    from onnxport.loading.merging import check_with_adapter, merge_expressions
    from onnxport.loading.packed import with_weights
    from onnxport.loading.quantized import RECORDED_MXFP4
    from onnxport.weights.recording import Recording, Tape, UnrecordableError, unsupported_operation

    tape = Tape(reader)
    tensors = with_weights(checkpoint, inventory.tensors, reader)
    state = {key: Recording(tensors[key], tape) for key in tensors if not key.startswith(KEY_PREFIX)}
    try:
        with quiet(), patching(_LIMITED_INITIALIZATION, RECORDED_MXFP4):
            model, report = load_state(checkpoint, model_class, config, state, options)
            merge, leftover = check_with_adapter(checkpoint, report, model)
            attach_generation_config(model, checkpoint)
    except UnrecordableError as error:
        tape.unsupported.append(str(error))
    except OnnxportError as error:
        if not tape.unsupported and not _is_raised_by_model(error):
            raise
        tape.unsupported.append(str(error))
    if tape.unsupported:
        return f"{model_class.__name__} is loaded with {tape.unsupported[0]}"
    expressions, tied = _collect(model)
    if merge is not None:
        merge_expressions(merge, expressions, tied, inventory.tensors, partial(building.equal_values, reader=reader))
    uninitialized = [name for name, expression in expressions.items() if expression is None]
    if uninitialized:
        return f"{uninitialized[0]} has no tensor, and its initial values are large"
    bound = {name: expression for name, expression in expressions.items() if expression is not None}
    operation = next((name for expression in bound.values() if (name := unsupported_operation(expression))), "")
    if operation:
        return f"a parameter of {model_class.__name__} is computed with {operation}, which expressions don't support"
    comparisons = tuple(Comparison(*item) for item in tape.comparisons)
    return Bound(model.eval(), Binding(bound, tied, tuple(sorted(leftover)), inventory.files, comparisons))


def _is_raised_by_model(error: OnnxportError) -> bool:
    """Return whether an error was raised by a model's code, possibly only because recordings have no values."""
    return isinstance(error, CorruptCheckpointError) and not isinstance(error.__cause__, OSError | None)


def _bind_eagerly(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], options: CheckpointOptions, note: str
) -> Bound:
    from onnxport.loading.load import load_model

    logger.info("%s is read into memory: %s", checkpoint.name, note)
    model = load_model(checkpoint, model_class, options)
    expressions, tied = _collect(model)
    bound = {name: expression for name, expression in expressions.items() if expression is not None}
    return Bound(model, Binding(bound, tied, note=note))


def _collect(model: PreTrainedModel) -> tuple[dict[str, Expression | None], dict[str, str]]:
    """Return the expression of each entry in a model's state dict, and the names that are tied to another."""
    import torch

    from onnxport.weights.recording import expression_of

    expressions: dict[str, Expression | None] = {}
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if id(tensor) in first:
            tied[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        expressions[name] = expression_of(tensor) or (None if tensor.is_meta else InMemory(_array(tensor)))
    return expressions, tied


def _array(tensor: torch.Tensor) -> Array:
    """Return a tensor's memory as an array."""
    from onnx_ir.tensor_adapters import TorchTensor

    return TorchTensor(tensor.detach().cpu().contiguous()).numpy()


def _limit_initialization(original: Callable[..., None]) -> Callable[..., None]:
    """Initialize at most `MAX_MISSING_BYTES` of the parameters without a tensor, smallest first."""

    def move(self: PreTrainedModel, missing_keys: Iterable[str], *arguments: object) -> None:
        available, initialized = MAX_MISSING_BYTES, set()
        tensors = {key: self.get_parameter_or_buffer(key) for key in missing_keys}
        for key, tensor in sorted(tensors.items(), key=lambda item: item[1].nbytes):
            available -= tensor.nbytes
            if available >= 0 or key in self.all_tied_weights_keys:
                initialized.add(key)
            else:
                tensor._is_hf_initialized = True
        original(self, initialized, *arguments)

    return move


_LIMITED_INITIALIZATION = Patch(
    "transformers:PreTrainedModel._move_missing_keys_from_meta_to_device",
    _limit_initialization,
    "parameters without a tensor are allocated and randomly initialized before they are reported as an error",
    "none: fine-tuning requires them",
    "from_pretrained has an argument that leaves them on the meta device",
)


def rebind(binding: Binding, inventory: Inventory, reader: Reads) -> Binding | None:
    """Rebind to another checkpoint with the same tensors, such as a fine-tuned model.

    Args:
        binding: binding of the first checkpoint.
        inventory: inventory of the other checkpoint.
        reader: reader of the other checkpoint, to repeat the comparisons.

    Returns:
        The same expressions over the other checkpoint's files; None if its tensors differ in name, dtype or shape, or
        if other parameters are tied.
    """
    try:
        rebound = {name: _rebound(expression, inventory) for name, expression in binding.expressions.items()}
        comparisons = tuple(
            replace(c, one=_rebound(c.one, inventory), other=_rebound(c.other, inventory)) for c in binding.comparisons
        )
    except KeyError:
        return None
    if any(building.equal_values(c.one, c.other, reader) != c.equal for c in comparisons):
        return None
    return replace(binding, expressions=rebound, files=inventory.files, comparisons=comparisons)


def _rebound(expression: Expression, inventory: Inventory) -> Expression:
    if isinstance(expression, Stored):
        stored = inventory.tensors[expression.key]
        if (stored.dtype, stored.shape) != (expression.dtype, expression.shape):
            raise KeyError(expression.key)
        return stored
    return building.rebuilt(expression, [_rebound(child, inventory) for child in expression.children])
