"""Bind every parameter of a model to an expression over its checkpoint's tensors, none of which is read.

Transformers' own loader does the work, on recordings instead of tensors: its renames, prefixes, converters, merged
experts and tied weights are what the expressions say. What it can't do that way is loaded eagerly, with a note.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.reading import FileState, Inventory, Reader, json_of
from onnxport.errors import CorruptCheckpointError, OnnxportError
from onnxport.options import CheckpointOptions
from onnxport.patching.patch import Patch
from onnxport.patching.scope import patching
from onnxport.weights import building
from onnxport.weights.expressions import Array, Expression, InMemory, Reads, Stored

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

MISSING_BYTES = 1 << 26
"""Bytes of parameters without tensor that are given their initial values: enough for tables of sines."""


@dataclass(frozen=True)
class Comparison:
    """Remember that two tensors were compared, because it decided whether parameters are tied.

    Attributes:
        one: one of them.
        other: the other.
        equal: whether their values were the same.
    """

    one: Expression
    other: Expression
    equal: bool


@dataclass(frozen=True)
class Binding:
    """Say what every parameter and persistent buffer of a model is made of.

    Attributes:
        expressions: full name → expression; names that are tied to another aren't here.
        tied: full name → name whose tensor it shares.
        leftover: tensors of the checkpoint that were accepted although nothing uses them.
        files: states of the files that the expressions refer to; empty where everything is in memory.
        comparisons: what was read to find out which parameters are tied.
        note: why the checkpoint was read eagerly; empty where it wasn't.
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
        """Return the binding as JSON; `from_json` undoes it.

        Raises:
            ValueError: it holds large arrays, because the checkpoint was read eagerly.
        """
        compared = [[building.to_json(c.one), building.to_json(c.other), c.equal] for c in self.comparisons]
        return json.dumps(
            {
                "expressions": {name: building.to_json(made) for name, made in self.expressions.items()},
                "tied": dict(self.tied),
                "leftover": list(self.leftover),
                "files": {name: json_of(state) for name, state in self.files.items()},
                "comparisons": compared,
                "note": self.note,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Binding:
        """Return the binding that `to_json` was called on.

        Raises:
            ValueError: the text doesn't come from there.
        """
        try:
            value = json.loads(text)
            return cls(
                {str(name): building.from_json(made) for name, made in value["expressions"].items()},
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
    """Hold a model and what its parameters are made of.

    Attributes:
        model: at full depth, in evaluation mode. Its parameters and persistent buffers are recordings without data,
            other buffers are real; after an eager load everything is real.
        binding: see `Binding`.
    """

    model: PreTrainedModel
    binding: Binding


def bind(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], config: PretrainedConfig, options: CheckpointOptions
) -> Bound:
    """Bind a model class to a checkpoint, without reading tensors where the format allows that.

    Args:
        checkpoint: where the tensors are.
        model_class: a model class of Transformers, such as `BertForMaskedLM`.
        config: its configuration.
        options: dtype, device for what is read eagerly.

    Raises:
        WeightsMismatchError: parameters without tensor, tensors without parameter, or different shapes.
        CorruptCheckpointError: a file is damaged.
    """
    from onnxport.loading.load import config_for

    config = config_for(model_class, config)
    if not checkpoint.in_parts:
        kind = "pytorch" if checkpoint.format == "safetensors" else checkpoint.format
        return _bind_eagerly(checkpoint, model_class, options, f"{kind} files aren't read in parts")
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
    config: PretrainedConfig,
    inventory: Inventory,
    reader: Reader,
    options: CheckpointOptions,
) -> Bound | str:
    """Return the model and its binding, or why it can't be bound lazily."""
    from onnxport.checkpoint.adapters import KEY_PREFIX
    from onnxport.checkpoint.quiet import quiet
    from onnxport.loading.load import attach_generation_config, load_state
    from onnxport.loading.merging import merge_expressions, settle_with
    from onnxport.loading.quantized import RECORDED_MXFP4
    from onnxport.weights.recording import Recording, Tape, lost

    tape = Tape(reader)
    tensors = inventory.tensors
    state = {key: Recording(tensors[key], tape) for key in tensors if not key.startswith(KEY_PREFIX)}
    try:
        with quiet(), patching(_FEW_MISSING_VALUES, RECORDED_MXFP4):
            model, account = load_state(checkpoint, model_class, config, state, options)
            merge, leftover = settle_with(checkpoint, account, model)
            attach_generation_config(model, checkpoint)
    except OnnxportError as error:
        if not tape.refused and not _is_foreign(error):
            raise
        tape.refused.append(str(error))
    if tape.refused:
        return f"{model_class.__name__} is loaded with {tape.refused[0]}"
    expressions, tied = _collect(model)
    if merge is not None:
        merge_expressions(merge, expressions, tied, tensors, partial(building.equal_values, reader=reader))
    valueless = [name for name, made in expressions.items() if made is None]
    if valueless:
        return f"{valueless[0]} has no tensor, and its initial values are large"
    made = {name: expression for name, expression in expressions.items() if expression is not None}
    unsaid = next((operation for expression in made.values() if (operation := lost(expression))), "")
    if unsaid:
        return f"a parameter of {model_class.__name__} is made with {unsaid}, which isn't part of the language"
    compared = tuple(Comparison(*item) for item in tape.compared)
    return Bound(model.eval(), Binding(made, tied, tuple(sorted(leftover)), inventory.files, compared))


def _is_foreign(error: OnnxportError) -> bool:
    """Tell whether an error comes from a model's code, which may want values: an eager load shows whether it does."""
    return isinstance(error, CorruptCheckpointError) and not isinstance(error.__cause__, OSError | None)


def _bind_eagerly(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], options: CheckpointOptions, note: str
) -> Bound:
    from onnxport.loading.load import load_model

    logger.info("%s is read into memory: %s", checkpoint.name, note)
    model = load_model(checkpoint, model_class, options)
    expressions, tied = _collect(model)
    return Bound(
        model,
        Binding({name: made for name, made in expressions.items() if made is not None}, tied, note=note),
    )


def _collect(model: PreTrainedModel) -> tuple[dict[str, Expression | None], dict[str, str]]:
    """Return what each tensor of a model's state is made of, and which names share one."""
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


def _initialize_few(original: Callable[..., None]) -> Callable[..., None]:
    """Initialize at most `MISSING_BYTES` of parameters that the checkpoint doesn't have, the smallest first."""

    def move(self: PreTrainedModel, missing_keys: Iterable[str], *arguments: Any) -> None:
        left, few = MISSING_BYTES, set()
        tensors = {key: self.get_parameter_or_buffer(key) for key in missing_keys}
        for key, tensor in sorted(tensors.items(), key=lambda item: item[1].nbytes):
            left -= tensor.nbytes
            if left >= 0 or key in self.all_tied_weights_keys:
                few.add(key)
            else:
                tensor._is_hf_initialized = True
        original(self, few, *arguments)

    return move


_FEW_MISSING_VALUES = Patch(
    "transformers:PreTrainedModel._move_missing_keys_from_meta_to_device",
    _initialize_few,
    "parameters without tensor are allocated and initialized at random before they are reported as an error",
    "none: a model for training needs them",
    "from_pretrained has an argument that leaves them on the meta device",
)


def relocate(binding: Binding, inventory: Inventory, reader: Reads) -> Binding | None:
    """Return a binding for another checkpoint with the same tensors: a fine-tune of the same model, say.

    Args:
        binding: made for one checkpoint.
        inventory: of the other.
        reader: reads the other, where values decided which parameters are tied.

    Returns:
        The same expressions over the other's files; None where its tensors aren't the same in name, type and shape.
    """
    try:
        moved = {name: _moved(made, inventory) for name, made in binding.expressions.items()}
        compared = tuple(
            replace(c, one=_moved(c.one, inventory), other=_moved(c.other, inventory)) for c in binding.comparisons
        )
    except KeyError:
        return None
    if any(building.equal_values(c.one, c.other, reader) != c.equal for c in compared):
        return None
    return replace(binding, expressions=moved, files=inventory.files, comparisons=compared)


def _moved(expression: Expression, inventory: Inventory) -> Expression:
    if isinstance(expression, Stored):
        found = inventory.tensors[expression.key]
        if (found.dtype, found.shape) != (expression.dtype, expression.shape):
            raise KeyError(expression.key)
        return found
    return building.rebuilt(expression, [_moved(child, inventory) for child in expression.children])
