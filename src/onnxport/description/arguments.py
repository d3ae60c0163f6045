"""How flat graph tensors become the arguments of a model's forward, and its result becomes flat tensors again.

4.37.2 passed the past as a list of tuples; today's models take a `Cache`. Everything else passes through by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig

PAST = "past_key_values"


class Layout:
    """Record how nested dummy inputs were flattened, so that flat tensors can be nested again.

    Args:
        config: description of the inputs; its `flatten_output_collection_property` names the parts of a collection.
        nested: dummy inputs as `generate_dummy_inputs` returns them.
    """

    def __init__(self, config: OnnxConfig, nested: Mapping[str, Any]) -> None:
        self._config = config
        self._parts: dict[str, tuple[str, ...]] = {}
        self._groups: dict[str, list[int]] = {}
        self.flat: dict[str, torch.Tensor] = {}
        declared = {name.split(".")[0] for name in config.inputs}
        for name, value in nested.items():
            if name in declared or (name == PAST and any(other.startswith("past_") for other in declared)):
                self._add(name, value)
        order = {name: index for index, name in enumerate(config.inputs)}
        self.flat = dict(sorted(self.flat.items(), key=lambda item: order.get(item[0], len(order))))

    def _add(self, name: str, value: Any) -> None:
        if not isinstance(value, (list, tuple)):
            self.flat[name] = value
            return
        parts = dict(self._config.flatten_output_collection_property(name, value))
        self._parts[name] = tuple(parts)
        self._groups[name] = [len(group) for group in value]
        self.flat.update(parts)

    def arguments(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of forward for flat tensors with the same names.

        Args:
            flat: flat name to tensor, every name of `self.flat`.
        """
        collections = {part for parts in self._parts.values() for part in parts}
        arguments = {name: value for name, value in flat.items() if name not in collections}
        for name, parts in self._parts.items():
            values = iter([flat[part] for part in parts])
            groups = [tuple(next(values) for _ in range(size)) for size in self._groups[name]]
            arguments[name] = self._config.past_to_cache(groups, arguments) if name == PAST else groups
        return arguments


def flatten_outputs(config: OnnxConfig, result: Any) -> dict[str, torch.Tensor]:
    """Name the tensors of a model's result as the description does, in its order, leaving out what it doesn't list.

    An output that the model calls otherwise is matched by position among those left, as 4.37.2 matched all of them.

    Args:
        config: description with the outputs.
        result: what forward returned, a mapping of names to tensors, tuples and caches.

    Raises:
        KeyError: an output that the description lists isn't among the results.
    """
    found: dict[str, Any] = {}
    for name, value in result.items():
        if name == PAST:
            found.update(config.flatten_output_collection_property("present", config.cache_to_past(value)))
        elif isinstance(value, (list, tuple)):
            found.update(config.flatten_output_collection_property(name, value))
        elif value is not None:
            found[name] = value
    wanted = list(config.outputs)
    spare = [name for name in found if name not in wanted]
    outputs = {}
    for name in wanted:
        key = name if name in found else (spare.pop(0) if spare and not name.startswith("present") else name)
        if key not in found:
            raise KeyError(f"the model returns no {name!r}; it returns: {', '.join(found)}")
        outputs[name] = found[key]
    return outputs


def call(
    model: PreTrainedModel, config: OnnxConfig, layout: Layout, flat: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Run a model on flat inputs and return its outputs, flat and in the description's order.

    Args:
        model: a Transformers model, or its bound forward.
        config: description of the graph.
        layout: how the inputs were flattened.
        flat: flat name to tensor.
    """
    return flatten_outputs(config, config.run(model, layout.arguments(flat)))


@contextmanager
def overridden(model: PreTrainedModel, config: OnnxConfig) -> Iterator[None]:
    """Apply a description's `values_override` to the model's configuration, and put the old values back.

    What the model returns has names, and no losses are computed.
    """
    values = {"return_dict": True, "return_loss": False, **config.model_values}
    with patching(*_replacements(model.config, values)):
        yield


def _replacements(config: PreTrainedConfig, values: Mapping[str, object]) -> Iterator[Replacement]:
    """Yield the changes of a configuration; an attention implementation is set in its parts too, as its setter does.

    Each part keeps an implementation of its own, which the setter would overwrite for good (Transformers 5.23).
    """
    for name, value in values.items():
        if not hasattr(config, name):
            continue
        if name != "_attn_implementation":
            yield Replacement(config, name, value)
            continue
        yield Replacement(config, "_attn_implementation_internal", value)
        for key in config.sub_configs:
            if (part := getattr(config, key, None)) is not None:
                yield from _replacements(part, {name: value})
