"""Inputs that a forward takes and that no preprocessor makes, from their documentation.

Transformers documents the shape of a tensor with the axes of other inputs (`batch_size`, `sequence_length`), with
numbers, and with fields of the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig
from onnxport.description.arguments import Layout
from onnxport.description.axes import PADDING_MASKS
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.dummy_inputs import InputContext, dummy_input, replaced_token_id
from onnxport.description.forward import ForwardParameter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

_NEW_AXIS = 3
"""Size of a documented axis that no other input has."""


@dataclass(frozen=True)
class SameAxis:
    """Name the axis of another input that has the same size.

    Attributes:
        input: name of the other input.
        axis: index of its axis.
    """

    input: str
    axis: int


@dataclass(frozen=True)
class DocumentedInput:
    """Describe an input by its documentation.

    Attributes:
        name: name of the forward's parameter.
        dtype: element type, as PyTorch names it.
        shape: for each axis its size, or the axis of another input that has the same size.
        labels: dynamic axis to its label.
        token_id: id of the placeholder token in the prompt for each element of its second axis; None if it has none.
    """

    name: str
    dtype: str
    shape: tuple[int | SameAxis, ...]
    labels: Mapping[int, str]
    token_id: int | None = None

    def make(self, config: PreTrainedConfig, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Make a dummy tensor: a mask without padding, else alternating 0 and 1, the values that any vocabulary has.

        Args:
            config: the model's configuration.
            inputs: the inputs that it depends on.
        """
        import torch

        known = dummy_input(self.name) if not self.shape else None
        if known is not None:
            return known.make(InputContext(config, len(next(iter(inputs.values()))), inputs))
        shape = [axis if isinstance(axis, int) else inputs[axis.input].shape[axis.axis] for axis in self.shape]
        if self.is_mask:
            return torch.full(shape, int(self.name not in PADDING_MASKS), dtype=getattr(torch, self.dtype))
        if self.dtype == "float32":
            return torch.zeros(shape)  # replaced with random values, see `Examples`
        positions: torch.Tensor = torch.arange(shape[-1] if len(shape) > 1 else 1) % 2
        return positions.expand(shape).clone()

    @property
    def is_mask(self) -> bool:
        """Whether its values are 0 or 1."""
        return self.name.endswith("mask") or self.dtype == "bool"


class CompletedOnnxConfig(DelegatingOnnxConfig):
    """Describe a graph with further inputs, and with the outputs that the model returns for them.

    Attributes:
        added: the further inputs.
        unused: names of parameters whose values the model doesn't use.

    Args:
        trunk: description without them.
        added: the further inputs.
        outputs: names of the outputs that the model returns for them only.
        unused: names of parameters whose values the model doesn't use.
    """

    def __init__(
        self,
        trunk: OnnxConfig,
        added: Sequence[DocumentedInput],
        outputs: Sequence[str] = (),
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__(trunk)
        self.added, self.unused = tuple(added), tuple(unused)
        self._added_outputs = tuple(outputs)

    @property
    def inputs(self) -> Axes:
        """Its inputs, then the further ones."""
        return {**self.trunk.inputs, **{one.name: one.labels for one in self.added}}

    @property
    def outputs(self) -> Axes:
        """Its outputs, then the further ones."""
        return {**self.trunk.outputs, **{name: {0: "batch"} for name in self._added_outputs}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, *sizes: Any, **named: Any
    ) -> Mapping[str, Any]:
        """Make all inputs; see `OnnxConfig`."""
        inputs = dict(self.trunk.generate_dummy_inputs(preprocessor, *sizes, **named))
        counts = {one.token_id: one.shape[1] for one in self.added if one.token_id is not None}
        tokens = [token_id for token_id, count in counts.items() if isinstance(count, int) for _ in range(count)]
        if tokens and "input_ids" in inputs:
            self._prepend(tokens, inputs)
        for one in self.added:
            inputs[one.name] = one.make(self._config, inputs)
        return inputs

    def _prepend(self, tokens: Sequence[int], inputs: dict[str, Any]) -> None:
        """Prepend tokens to every prompt, and extend the other inputs that have a value for each token."""
        import torch

        length = inputs["input_ids"].shape[-1]
        for name, tensor in inputs.items():
            if self.trunk.inputs.get(name, {}).get(1) != "sequence" or tensor.shape[1] != length:
                continue
            extended = torch.cat([tensor[:, :1].repeat_interleave(len(tokens), 1), tensor], dim=1)
            if name == "input_ids":
                extended[:, : len(tokens)] = torch.tensor(tokens)
            if name == "position_ids":
                extended = torch.arange(extended.shape[1]).expand(extended.shape).clone()
            inputs[name] = extended


@dataclass(frozen=True)
class KnownInput:
    """Hold an input of a description.

    Attributes:
        name: its name.
        documented: its documented axes.
        rank: its actual number of axes.
        labels: dynamic axis to its label.
    """

    name: str
    documented: tuple[str, ...]
    rank: int
    labels: Mapping[int, str]

    def axis(self, axis: int) -> Axis:
        """Return an axis of this input."""
        return Axis(SameAxis(self.name, axis), self.labels.get(axis, ""))


@dataclass(frozen=True)
class Axis:
    """Hold the size of an axis, and its label if it is dynamic."""

    size: int | SameAxis
    label: str = ""


def known_inputs(
    layout: Layout, config: OnnxConfig, parameters: Mapping[str, ForwardParameter]
) -> tuple[KnownInput, ...]:
    """Return the inputs of a description.

    Args:
        layout: its dummy inputs.
        config: the description.
        parameters: the parameters of the model's forward by name.
    """
    shapes = {name: parameters[name].shape if name in parameters else () for name in layout.flat}
    return tuple(
        KnownInput(name, shapes[name], tensor.dim(), config.inputs.get(name, {}))
        for name, tensor in layout.flat.items()
    )


def documented_inputs(
    parameter: ForwardParameter, inputs: Sequence[KnownInput], config: PreTrainedConfig
) -> Iterator[DocumentedInput]:
    """Yield the inputs that a parameter may be; they differ in their element type if that isn't documented.

    Args:
        parameter: a parameter that isn't among the inputs.
        inputs: the known inputs.
        config: the model's configuration, whose fields name sizes.
    """
    name, known = parameter.name, dummy_input(parameter.name)
    token_id = replaced_token_id(config, name)
    if known is not None and token_id is None and _choices(inputs) is None:
        yield DocumentedInput(name, parameter.dtype, (), known.axes)
        if name not in _MASKS:
            return
    usual = ("int64", "bool", "float32") if name.endswith("mask") else ("int64",) if "id" in name else ("float32",)
    for axes in (_with_choices(axes, parameter, inputs) for axes in _axes_of(parameter, inputs, config)):
        labels = {index: axis.label for index, axis in enumerate(axes) if axis.label}
        for dtype in dict.fromkeys((parameter.dtype, *usual)):
            if dtype:
                yield DocumentedInput(name, dtype, tuple(axis.size for axis in axes), labels, token_id)


def _with_choices(axes: list[Axis], parameter: ForwardParameter, inputs: Sequence[KnownInput]) -> list[Axis]:
    """Return axes with that of the choices after the batch, which the documentation of most inputs omits."""
    choices = _choices(inputs)
    if choices is None or "num_choices" in parameter.shape:
        return axes
    return [axes[0], choices, *(axis for axis in axes[1:] if axis.label != choices.label)]


def _choices(inputs: Sequence[KnownInput]) -> Axis | None:
    """Return the axis of the choices; None if the model has none."""
    return next((one.axis(1) for one in inputs if one.name == "input_ids" and one.labels.get(1) == "choice"), None)


def _axes_of(
    parameter: ForwardParameter, inputs: Sequence[KnownInput], config: PreTrainedConfig
) -> Iterator[list[Axis]]:
    """Yield the axes that a parameter may have: those of the input with the same documentation, else each by its name.

    The mask of an encoder covers the tokens, the samples, or the frames of features, which are the first or the second
    axis after the batch; its documentation, if it has any, calls all of them `sequence_length`.
    """
    is_mask = parameter.name.endswith(_MASKS)
    prefix = re.sub(r"_?(attention_|padding_)?mask$", "", parameter.name) if is_mask else ""
    masked = next((one for one in inputs if prefix and one.name.startswith(prefix) and one.rank > 1), None)
    same = next((one for one in inputs if parameter.shape and one.documented == parameter.shape), None)
    sequences = [one for one in inputs if one.name in _SEQUENCES and one.rank <= _RANKS.get(one.name, one.rank)]
    documented_axes = {name for one in inputs for name in one.documented}
    samples = next((one for one in inputs if one.name == "input_values" and parameter.name == "padding_mask"), None)
    if samples is not None:  # as feature extractors make it, whatever its documentation says
        yield [samples.axis(0), samples.axis(samples.rank - 1)]
    if masked is not None:
        yield [masked.axis(index) for index in range(3 if masked.labels.get(1) == "choice" else 2)]
    elif same is not None:
        yield [same.axis(index) for index in range(same.rank)]
    elif parameter.name in _MASKS and sequences and documented_axes.isdisjoint(parameter.shape[1:]):
        for one in sequences:
            yield from ([one.axis(0), one.axis(axis)] for axis in range(one.rank - 1, 0, -1))
    else:
        axes = [axis_named(name, inputs, config) for name in parameter.shape]
        known = [axis for axis in axes if axis is not None]
        if axes and len(known) == len(axes):
            yield known


_MASKS = ("attention_mask", "padding_mask", "input_features_mask")
_SEQUENCES = ("input_ids", "input_values", "input_features")
"""Inputs that a mask without documented axes may cover."""
_RANKS = {"input_values": 2}
"""Number of axes beyond which an input isn't a sequence: `input_values` of three axes are a spectrogram in patches."""


def axis_named(name: str, inputs: Sequence[KnownInput], config: PreTrainedConfig) -> Axis | None:
    """Return the axis with a documented name: another input's, a number, a field of the configuration, or a new one."""
    if name.isdecimal():
        return Axis(int(name))
    for one in inputs:
        if len(one.documented) == one.rank and name in one.documented:
            return one.axis(one.documented.index(name))
        if one.name == "pixel_values" and one.rank == 4 and name in _IMAGE_AXES:
            return one.axis(_IMAGE_AXES[name])
    if name == "batch_size":
        return inputs[0].axis(0)
    field = _NUMBER_OF.sub("num_", name.removeprefix("self.").removeprefix("config.")).replace(" ", "_")
    size = InputContext(config, 1, {}).config_int(field, default=-1)
    if size >= 0:
        return Axis(size)
    return Axis(_NEW_AXIS, name) if _SYMBOL.fullmatch(name) else None


_IMAGE_AXES = {"height": 2, "width": 3}
_SYMBOL = re.compile(r"[A-Za-z_]\w*")
_NUMBER_OF = re.compile(r"^number of ")
