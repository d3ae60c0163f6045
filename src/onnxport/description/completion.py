"""Complete a description with the inputs that the model's forward takes and the description lacks.

A preprocessor makes only some of the tensors that a forward takes. Each of the others is tried by running the model
with it; one that the model refuses, or whose values it doesn't use, isn't added.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport.configs._base import OnnxConfig
from onnxport.description.arguments import Layout, flatten_outputs, overridden
from onnxport.description.derived import move, tensor_names
from onnxport.description.documented_inputs import (
    CompletedOnnxConfig,
    DocumentedInput,
    documented_inputs,
    known_inputs,
)
from onnxport.description.forward import NOT_DESCRIBED, ForwardParameter, forward_parameters, left_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task

logger = logging.getLogger(__name__)


def completed(
    model: PreTrainedModel,
    config: OnnxConfig,
    preprocessor: Preprocessor,
    task: Task,
    excluded: Collection[str] = (),
) -> OnnxConfig:
    """Return a description with the documented inputs that it lacks, as far as the model runs with them.

    Args:
        model: the model, which is run with them: with all, or with one at a time if it refuses that.
        config: description of the single graph of the model, or of an encoder. With past, the inputs are those of new
            tokens.
        preprocessor: makes the described inputs.
        task: the task.
        excluded: names of parameters that aren't added.
    """
    completion = _Completion(model, config, preprocessor)
    reasons = left_out(model, task, completion.layout.flat)
    missing = [name for name, reason in reasons.items() if reason == NOT_DESCRIBED and name not in excluded]
    parameters = [completion.parameters[name] for name in missing]
    completion.drop_unused(parameters)
    together = [found[0] for found in map(completion.candidates, parameters) if found]
    if together and not completion.add(*together):  # some need each other: LUKE's entities
        for parameter in parameters:
            any(completion.add(candidate) for candidate in completion.candidates(parameter))
    return completion.config if completion.config.added or completion.config.unused else config


class _Completion:
    """Hold a description while inputs are added to it.

    Attributes:
        config: the description with the inputs that have been added.
        layout: its dummy inputs.
        parameters: the parameters of the model's forward by name.

    Args:
        model: the model.
        config: the description without them.
        preprocessor: makes its inputs.
    """

    def __init__(self, model: PreTrainedModel, config: OnnxConfig, preprocessor: Preprocessor) -> None:
        self._model, self._trunk, self._preprocessor = model, config, preprocessor
        self.config = CompletedOnnxConfig(config, ())
        self.layout = self._layout(config)
        self.parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
        self._outputs: frozenset[str] | None = None

    def candidates(self, parameter: ForwardParameter) -> list[DocumentedInput]:
        """Return the inputs that a parameter may be; none if it is known to be unused."""
        if parameter.name in self.config.unused:
            return []
        known = known_inputs(self.layout, self.config, self.parameters)
        return list(documented_inputs(parameter, known, self._model.config))

    def drop_unused(self, parameters: Collection[ForwardParameter]) -> None:
        """Note parameters as unused that the documentation calls so, and those that have no elements.

        Of what the latter hold, the configuration has none.
        """
        ignored = [one.name for one in self.parameters.values() if one.is_ignored]
        empty = [one.name for one in parameters if any(0 in candidate.shape for candidate in self.candidates(one))]
        self.config = CompletedOnnxConfig(self._trunk, (), (), [*ignored, *empty])

    def add(self, *inputs: DocumentedInput) -> bool:
        """Add inputs whose values the model uses; return whether the model runs with them."""
        from torch._subclasses.fake_tensor import DynamicOutputShapeException

        if self._outputs is None:
            self._outputs = _run(self._model, self._trunk, self.layout).outputs
        trial = CompletedOnnxConfig(self._trunk, (*self.config.added, *inputs))
        try:
            with translating(_refused):
                layout = self._layout(trial)
                run = _run(self._model, trial, layout)
        except DynamicOutputShapeException:  # without values, the model stops where its mask selects features
            run = _Run(frozenset(trial.inputs), self._outputs)
        except _RefusedInputError as error:
            logger.debug("%s refuses %s: %s", type(self._model).__name__, inputs, error)
            return False
        used = [one for one in trial.added if one.name in run.used]
        unused = [*self.config.unused, *(one.name for one in trial.added if one.name not in run.used)]
        self.config = CompletedOnnxConfig(self._trunk, used, sorted(run.outputs - self._outputs), unused)
        self.layout = layout if len(used) == len(trial.added) else self._layout(self.config)
        return True

    def _layout(self, config: OnnxConfig) -> Layout:
        return Layout(config, config.generate_dummy_inputs(self._preprocessor, framework="pt"))


class _RefusedInputError(Exception):
    """A model raised an exception, of any type, for an input."""


def _refused(error: Exception) -> Exception | None:
    from torch._subclasses.fake_tensor import DynamicOutputShapeException

    return None if isinstance(error, DynamicOutputShapeException) else _RefusedInputError(str(error))


@dataclass(frozen=True)
class _Run:
    """Hold the names of the inputs that a model used, and of the tensors that it returned."""

    used: frozenset[str]
    outputs: frozenset[str]


def _run(model: PreTrainedModel, config: OnnxConfig, layout: Layout) -> _Run:
    """Run a model; its outputs include those that the description lists.

    An input is used if an operator takes its values: an option of the configuration may switch off what it is for.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    inputs = move(layout.flat, model)
    named, used = {id(tensor): ({name}, tensor) for name, tensor in inputs.items()}, set[str]()

    class Recording(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            leaves = (id(value) for value in tree_leaves((args, kwargs)))
            names = {name for leaf in leaves if leaf in named for name in named[leaf][0]}
            if names and function.__name__ in _SAME_VALUES:
                named[id(result)] = (names, result)  # also that of a mask that selects values
            elif function.__name__ not in _METADATA:
                used.update(names)
            return result

    with torch.no_grad(), overridden(model, config), Recording():
        result = config.run(model, layout.arguments(inputs))
    flatten_outputs(config, result)
    return _Run(frozenset(used), frozenset(tensor_names(result)))


def used_inputs(model: PreTrainedModel, config: OnnxConfig, layout: Layout) -> frozenset[str]:
    """Return the names of the inputs whose values a model uses.

    Args:
        model: the model, which is run.
        config: description of its graph.
        layout: the inputs.

    Raises:
        KeyError: the model doesn't return an output that the description lists.
    """
    return _run(model, config, layout).used


_METADATA = ("__get__", "size", "dim", "numel", "__len__", "is_floating_point")
"""Functions of a tensor that read no values."""
_SAME_VALUES = (
    *("__getitem__", "to", "type", "long", "int", "bool", "float", "contiguous", "clone"),
    *("view", "reshape", "expand", "unsqueeze", "squeeze", "flatten"),
)
"""Functions whose result has only values of a tensor: it is used if its result is."""
