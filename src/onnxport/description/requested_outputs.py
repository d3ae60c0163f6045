"""Add outputs of a model's forward to the graphs' outputs: hidden states, attentions, and all others that it returns.

Those that are tuples have an output for each tensor, `hidden_states.0`, and those that are outputs of a submodel one
for each of its tensors, `vision_model_output.pooler_output`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from onnxport._foreign_errors import translating
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.description.arguments import Layout, overridden
from onnxport.description.components import Component
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.derived import move
from onnxport.errors import OnnxportError, OptionError, UnsupportedError
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_ENCODER = "encoder_"
"""Prefix of an encoder's outputs among those of an encoder-decoder."""
_PER_LAYER = ("hidden_states", "attentions")
"""Ends of the names of outputs that forward returns if `output_hidden_states` or `output_attentions` is set."""

_ROUTERS = "router_logits"
"""End of the names of outputs that forward returns if `output_router_logits` is set."""


class RequestedOutputsOnnxConfig(DelegatingOnnxConfig):
    """Describe a graph with further outputs of its model, which follow the others.

    Attributes:
        flags: names of the arguments of forward with which it returns them.

    Args:
        trunk: the description without them.
        requested: name of an output in the graph to its name in the result of `run`.
        tensors: names of their tensors in the graph.
    """

    def __init__(self, trunk: OnnxConfig, requested: Mapping[str, str], tensors: Sequence[str] = ()) -> None:
        super().__init__(trunk)
        self._requested, self._tensors = dict(requested), tuple(tensors)
        self.flags = frozenset(map(_flag_of, requested.values()))

    @property
    def outputs(self) -> Axes:
        """The outputs of the other description, then the requested ones."""
        return {**self._trunk.outputs, **{name: {0: "batch"} for name in self._tensors}}

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Configuration fields to set during the export; only eager attention returns its weights."""
        eager = {"_attn_implementation": "eager"} if "output_attentions" in self.flags else {}
        return {**self._trunk.model_values, **eager}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model, which returns the requested outputs; see `OnnxConfig`."""
        result = self.run_all(forward, arguments)
        others = {name: value for name, value in result.items() if not _is_per_layer(name, value)}
        return {**others, **requested_tensors(self._requested, result)}

    def run_all(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run the model, and return everything that it returns, by its own names."""
        losses = () if any(name.endswith("_loss") for name in self._requested) else _router_losses(model_of(forward))
        with patching(*losses):
            return dict(self._trunk.run(_WithFlags(forward, self.flags), arguments))


def _router_losses(model: torch.nn.Module) -> tuple[Replacement, ...]:
    """Return replacements of the losses that a mixture of experts computes whenever it returns its router's logits.

    They are only trained with, and fail with a cache: the attention mask then has more tokens than the logits.

    Args:
        model: the model, or a submodule.
    """
    classes = (base for module in model.modules() for base in type(module).__mro__)
    files = [sys.modules[name] for name in dict.fromkeys(each.__module__ for each in classes)]
    return tuple(Replacement(file, name, _no_loss) for file in files for name in _ROUTER_LOSSES if hasattr(file, name))


def _no_loss(*_: object, **__: object) -> None:
    """Return no loss."""


_ROUTER_LOSSES = ("load_balancing_loss_func", "router_z_loss_func")
"""Functions of modeling files that compute a router's losses."""


def _flag_of(name: str) -> str:
    """Return the argument of forward with which it returns an output."""
    return f"output_{next((end for end in (*_PER_LAYER, _ROUTERS) if name.endswith(end)), name)}"


class _WithFlags:
    """Call a forward with flags that are set, as far as it takes them.

    Args:
        forward: a model, or its bound forward.
        flags: names of arguments.
    """

    def __init__(self, forward: Any, flags: Collection[str]) -> None:
        self.__self__ = model_of(forward)
        self.forward = getattr(forward, "forward", forward)
        self._call = forward
        parameters = inspect.signature(self.forward).parameters
        has_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
        model = self.__self__
        recorded = {name for module in model.modules() for name in getattr(module, "_can_record_outputs", None) or ()}
        known = {*map(_flag_of, {*_PER_LAYER, *recorded}), *(flag for flag in flags if hasattr(model.config, flag))}
        self._flags = {flag: True for flag in flags if flag in parameters or (has_any and flag in known)}

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._call(*arguments, **{**named, **self._flags})


def with_outputs(components: Sequence[Component], names: Sequence[str]) -> tuple[Component, ...]:
    """Return the components of an export with further outputs of the model.

    Outputs of the encoder of an encoder-decoder, which start with `encoder_`, are outputs of the encoder's graph if it
    is a graph of its own; all others are those of the last graph.

    Args:
        components: the components; their models are run.
        names: names of outputs in the result of forward.

    Raises:
        OptionError: the models don't return an output of this name.
    """
    has_encoder = components[0].name == "encoder_model"
    of_encoder = {name: name.removeprefix(_ENCODER) for name in names if has_encoder and name.startswith(_ENCODER)}
    of_last = {name: name for name in names if name not in of_encoder}
    result = list(components)
    for index, requested in ((0, of_encoder), (len(components) - 1, of_last)):
        listed = result[index].config.outputs
        added = {name: own for name, own in requested.items() if own not in listed}
        if added:
            result[index] = _with_outputs(result[index], added)
    return tuple(result)


def _with_outputs(component: Component, requested: Mapping[str, str]) -> Component:
    returned = _run(component, RequestedOutputsOnnxConfig(component.config, requested))
    missing = [name for name, own in requested.items() if not any(_tensors(name, returned.get(own)))]
    if missing:
        everything = RequestedOutputsOnnxConfig(component.config, {name: name for name in (*_PER_LAYER, *requested)})
        known = [name for name, value in _run(component, everything).items() if any(_tensors(name, value))]
        raise OptionError(
            f"--outputs names {', '.join(missing)}, which {type(component.model).__name__} doesn't return for "
            f"{component.name}.onnx; it returns {', '.join(known)}"
        )
    tensors = requested_tensors(requested, returned)
    return replace(component, config=RequestedOutputsOnnxConfig(component.config, requested, tuple(tensors)))


def _run(component: Component, config: RequestedOutputsOnnxConfig) -> dict[str, Any]:
    """Run a component's model on its dummy inputs, and return everything that it returns."""
    import torch

    model = cast("PreTrainedModel", component.model)

    def failed(error: Exception) -> UnsupportedError | None:
        if isinstance(error, OnnxportError):
            return None
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        flags = ", ".join(sorted(config.flags))
        return UnsupportedError(f"{type(model).__name__} doesn't run with {flags} ({reason}): leave out --outputs")

    layout = Layout(config, config.generate_dummy_inputs(component.preprocessor, framework="pt"))
    with translating(failed), torch.no_grad(), overridden(model, config):
        return config.run_all(model, layout.arguments(move(layout.flat, model)))


def requested_tensors(requested: Mapping[str, str], result: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of outputs by their names in the graph.

    Args:
        requested: name of an output in the graph to its name in `result`.
        result: what a forward returned.
    """
    return {flat: tensor for name, own in requested.items() for flat, tensor in _tensors(name, result.get(own))}


def _is_per_layer(name: str, value: object) -> bool:
    return name.endswith(_PER_LAYER) and isinstance(value, tuple | list)


def _tensors(name: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of an output by name: those in a sequence by index, those of a submodel's outputs by name."""
    import torch

    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _tensors(f"{name}.{index}", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(f"{name}.{key}", item)
