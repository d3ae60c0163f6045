"""Convert flat graph inputs to the arguments of a model's forward, and its outputs to flat graph outputs.

4.37.2 passed the past as a list of tuples; today's models take a `Cache`. Everything else is passed on by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport._transformers_api import PAST
from onnxport.description.axes import is_cached, present_name
from onnxport.description.text_configs import text_config_of
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig


class Layout:
    """Record how nested dummy inputs were flattened, so that flat tensors can be nested again.

    Args:
        config: description of the inputs; its `flatten_output_collection_property` names the tensors of a collection.
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
    """Return the outputs that the description lists, by its names and in its order.

    An output that has another name in the model is matched by position among the unmatched ones; 4.37.2 matched all
    outputs by position.

    Args:
        config: description with the outputs.
        result: the forward's return value, a mapping of names to tensors, tuples and caches.

    Raises:
        KeyError: an output that the description lists isn't among the results.
    """
    flat: dict[str, Any] = {}
    for name, value in result.items():
        if name == PAST:
            flat.update(config.flatten_output_collection_property("present", config.cache_to_past(value)))
        elif isinstance(value, (list, tuple)):
            is_nested = any(isinstance(item, (list, tuple)) for item in value)
            # 4.37.2 iterates over each item: over a tensor, that would fix the batch
            items = value if is_nested else [(item,) for item in value]
            flat.update(config.flatten_output_collection_property(name, items))
        elif value is not None:
            flat[name] = value
    listed = list(config.outputs)
    unmatched = [name for name in flat if name not in listed]
    outputs = {}
    for name in listed:
        key = name if name in flat else (unmatched.pop(0) if unmatched and not name.startswith("present") else name)
        if key not in flat:
            raise KeyError(f"the model returns no {name!r}; it returns: {', '.join(flat)}")
        outputs[name] = flat[key]
    return outputs


def call(
    model: PreTrainedModel, config: OnnxConfig, layout: Layout, flat: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Run a model on flat inputs and return its outputs, flat and in the description's order.

    The cache has the dtypes of the inputs that it becomes in the next step: layers that Transformers keeps in float32,
    such as Dots3 Note's indexer, return float32 in a model of float16.

    Args:
        model: a Transformers model, or its bound forward.
        config: description of the graph.
        layout: how the inputs were flattened.
        flat: flat name to tensor.
    """
    outputs = flatten_outputs(config, config.run(model, layout.arguments(flat)))
    for name, past in flat.items():
        present = outputs.get(present_name(name)) if is_cached(name) else None
        if present is not None and present.dtype != past.dtype:
            outputs[present_name(name)] = present.to(past.dtype)
    return outputs


@contextmanager
def overridden(model: PreTrainedModel, config: OnnxConfig) -> Iterator[None]:
    """Apply a description's `values_override` to the model's configuration inside the block, and restore it after.

    The model returns a ModelOutput instead of a tuple, and computes no loss.
    """
    values = {"return_dict": True, "return_loss": False, **config.model_values}
    replacements = {(id(one.owner), one.name): one for one in _replacements(model.config, values)}
    if _ATTENTION in values:
        attention = {_ATTENTION: values[_ATTENTION]}
        for submodel in _submodels(model):
            replacements |= {(id(one.owner), one.name): one for one in _replacements(submodel.config, attention)}
    else:
        replacements |= {(id(one.owner), one.name): one for one in attention_restored(model)}
    with patching(*replacements.values(), *padding_defined(model.config)):
        yield


def attention_restored(model: PreTrainedModel) -> tuple[Replacement, ...]:
    """Return the changes of the configurations of submodels that have lost their attention implementation.

    Without one, masks are ignored. PE-AV's configuration makes those of its parts each time that they are read, which
    resets the implementation of the text configuration that they share (Transformers 5.24).

    Args:
        model: the model.
    """
    lost = {id(one.config): one for one in _submodels(model) if one.config._attn_implementation is None}
    name = "_attn_implementation_internal"
    return tuple(Replacement(one.config, name, "sdpa" if one._supports_sdpa else "eager") for one in lost.values())


def _submodels(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Yield the modules with a configuration; T5's encoder and decoder have copies of the model's."""
    from transformers import PreTrainedModel

    yield from (module for module in model.modules() if isinstance(module, PreTrainedModel))


_ATTENTION = "_attn_implementation"


def padding_defined(config: PreTrainedConfig) -> tuple[Replacement, ...]:
    """Return the change of a configuration that lets a decoder without a padding token classify a batch.

    Transformers 5.23 raises ValueError for several sequences, and takes the logits of the last token of a single one.
    A padding token outside the vocabulary gives the last token of each.

    Args:
        config: the model's configuration.
    """
    text_config = text_config_of(config)
    if config.is_encoder_decoder or getattr(text_config, "pad_token_id", 0) is not None:
        return ()
    return (Replacement(text_config, "pad_token_id", _NO_TOKEN),)


_NO_TOKEN = -1


def _replacements(config: PreTrainedConfig, values: Mapping[str, object]) -> Iterator[Replacement]:
    """Yield the changes of a configuration; an attention implementation also changes its sub-configurations.

    The setter of `_attn_implementation` does the same, but overwrites the implementation of each sub-configuration
    without a way to restore it (Transformers 5.23).
    """
    for name, value in values.items():
        if not hasattr(config, name):
            continue
        if name != _ATTENTION:
            yield Replacement(config, name, value)
            continue
        yield Replacement(config, "_attn_implementation_internal", value)
        for key in config.sub_configs:
            if (sub_config := getattr(config, key, None)) is not None:
                yield from _replacements(sub_config, {name: value})
