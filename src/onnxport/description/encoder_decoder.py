"""Describe the two graphs of an encoder-decoder: its encoder, and one decoder with a cache for all steps.

The decoder takes the encoder's hidden states and the cross-attention cache. It projects only hidden states whose keys
and values aren't cached: all in the first step, when the cache is empty, and none later. One graph therefore serves
both cases without a branch, and runs on runtimes that don't support `If`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport._foreign_errors import translating
from onnxport._transformers_api import PAST, call_forward
from onnxport.configs._base import OnnxConfig, model_of
from onnxport.configs._past import OnnxConfigWithPast, cache_name
from onnxport.configs._patching import PatchingSpec
from onnxport.configs._seq2seq import OnnxSeq2SeqConfigWithPast
from onnxport.configs.caches import cache_to_past
from onnxport.description.cache_layout import WITHOUT_PAST, CrossAttentionLayout
from onnxport.description.derived import DerivedOnnxConfig, move
from onnxport.description.modalities import accepts_modality, takes_modality
from onnxport.errors import OnnxportError, UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_ENCODER_STATES_PARAMETERS = ("key_value_states", "encoder_hidden_states")
"""Parameters of Transformers' cross-attention modules for the encoder's hidden states."""
_HIDDEN_STATES_RANK = 3
_LENGTHS = {"decoder": 3, "past": 5, "known": 2}
"""Sequence lengths of the dummy inputs: input tokens, cached tokens, and encoder hidden states with cached keys."""


class EncoderOnnxConfig(DerivedOnnxConfig):
    """Describe the encoder of an encoder-decoder; a mask that it returns is named `encoder_attention_mask`."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `OnnxConfig`."""
        outputs = dict(super().run(forward, arguments))
        if _projects_last(outputs):
            del outputs["last_hidden_state"]
        if "attention_mask" in outputs:
            outputs["encoder_attention_mask"] = outputs.pop("attention_mask")
        return outputs


def _projects_last(outputs: Mapping[str, Any]) -> bool:
    """Return whether an encoder's `pooler_output` is its hidden states in the decoder's size (PP-FormulaNet)."""
    pooled = outputs.get("pooler_output")
    return pooled is not None and pooled.dim() == _HIDDEN_STATES_RANK


class InnerEncoderOnnxConfig(EncoderOnnxConfig):
    """Describe an encoder that isn't a PreTrainedModel, such as FSMT's: the traced model is the encoder-decoder."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of the encoder's parameters."""
        return tuple(inspect.signature(model.get_encoder().forward).parameters)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `OnnxConfig`."""
        encoder = model_of(forward).get_encoder()
        return super().run(encoder, {name: value for name, value in arguments.items() if name != "use_cache"})


class Seq2SeqDecoderOnnxConfig(OnnxSeq2SeqConfigWithPast):
    """Describe the decoder of an encoder-decoder.

    Attributes:
        is_time_first: whether its layers take the encoder's hidden states as [sequence, batch, hidden_size].

    Args:
        model: the encoder-decoder; it is run once.
        encoder: description of its encoder.
        preprocessor: makes the encoder's inputs.

    Raises:
        UnsupportedError: the model has no cache of self-attention and cross-attention.
    """

    is_time_first: ClassVar[bool] = False
    _input_ids_name: ClassVar[str] = "decoder_input_ids"

    def __init__(self, model: PreTrainedModel, encoder: OnnxConfig, preprocessor: Any) -> None:
        OnnxConfigWithPast.__init__(self, model.config, "default", self.patches_of(model), use_past=True)
        self._inspect_forward(model, encoder, preprocessor)

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches of the model's code for the trace; a hook."""
        return []

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """The encoder's attention mask if it has one, token ids, the encoder's hidden states, and the cache."""
        inputs: dict[str, Mapping[int, str]] = {}
        if self._mask_label is not None:
            inputs["encoder_attention_mask"] = {0: "batch", 1: self._mask_label}
        inputs["input_ids"] = {0: "batch", 1: "decoder_sequence"}
        inputs["encoder_hidden_states"] = {0: "batch", 1: "encoder_sequence"}
        self.fill_with_past_key_values_(inputs, "inputs")
        return inputs

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Logits, or the hidden states of a model without a head, and the cache."""
        outputs: dict[str, Mapping[int, str]] = {self._result: {0: "batch", 1: "decoder_sequence"}}
        self.fill_with_past_key_values_(outputs, "outputs")
        return outputs

    def fill_with_past_key_values_(  # type: ignore[override]  # as in the parent
        self, inputs_or_outputs: MutableMapping[str, Mapping[int, str]], direction: str
    ) -> None:
        """Add the cache's tensors, four for each layer; see `OnnxSeq2SeqConfigWithPast`."""
        name = cache_name(direction)
        lengths = (
            {"decoder": "past_decoder_sequence", "encoder": "past_encoder_sequence"}
            if direction == "inputs"
            else {"decoder": "past_decoder_sequence + decoder_sequence", "encoder": "encoder_sequence"}
        )
        for layer in range(self._cache_layout.depth):
            for part, length in lengths.items():
                for tensor in ("key", "value"):
                    inputs_or_outputs[f"{name}.{layer}.{part}.{tensor}"] = {0: "batch", 2: length}

    def generate_dummy_inputs(  # type: ignore[override]
        self,
        tokenizer: Any,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Any = "pt",
    ) -> Mapping[str, Any]:
        """Make token ids, encoder hidden states, and a cache of both attentions."""
        import torch

        batch = self.default_batch_size if batch_size < 1 else batch_size
        hidden_states, mask = self._encoder_shapes
        inputs: dict[str, Any] = {
            "input_ids": self._decoder_input_ids(batch, _LENGTHS["decoder"]),
            "encoder_hidden_states": torch.zeros(batch, *hidden_states),
        }
        if self._mask_label is not None:
            inputs["encoder_attention_mask"] = torch.ones(batch, *mask, dtype=torch.int64)
        lengths = (_LENGTHS["past"],) * 2 + (_LENGTHS["known"],) * 2
        inputs[PAST] = [
            tuple(torch.zeros(batch, heads, n, size) for (heads, size), n in zip(layer, lengths, strict=True))
            for layer in self._cache_layout.layers
        ]
        return inputs

    def _decoder_input_ids(self, batch: int, length: int) -> Any:
        """Make token ids, [batch, length]; [batch, length, channels] for a decoder of audio codes."""
        import torch

        channels = getattr(getattr(self._config, "decoder_config", None), "num_channels", None)
        return torch.ones(batch, length, *((channels,) if channels else ()), dtype=torch.int64)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model on its encoder's hidden states."""
        hidden_states, cache = arguments["encoder_hidden_states"].clone(), arguments[PAST]  # some models modify them
        cached = cache.cross_attention_cache.layers[0].keys.shape[2]
        is_complete = isinstance(cached, int) and cached == hidden_states.shape[1]
        cache.is_updated = dict.fromkeys(cache.is_updated, is_complete)
        with _skipping_cached_states(model_of(forward), 0 if is_complete else cached, self.is_time_first):
            named = {**self._decoder_arguments(arguments), PAST: cache, "use_cache": True}
            mask = arguments.get("encoder_attention_mask")
            return self._call(forward, {**self._encoder_arguments(hidden_states, mask), **named})

    def _call(self, forward: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the model's outputs by name; a hook."""
        return call_forward(forward, arguments)

    def _decoder_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for the decoder, of the graph's inputs; a hook."""
        return {self._input_ids_name: arguments["input_ids"]}

    def _first_arguments(self, batch: int) -> dict[str, Any]:
        """Return the arguments for the decoder in a step without a cache; a hook."""
        return {self._input_ids_name: self._decoder_input_ids(batch, 2)}

    def _encoder_arguments(self, hidden_states: Any, mask: Any) -> dict[str, Any]:
        """Return the arguments that replace the encoder's inputs: `encoder_outputs` and the mask."""
        if self._returns_mask:
            return {"encoder_outputs": self._output_class(last_hidden_state=hidden_states, attention_mask=mask)}
        pooled = {"pooler_output": hidden_states} if self._projects_last else {}
        arguments = {"encoder_outputs": self._output_class(last_hidden_state=hidden_states, **pooled)}
        return arguments if mask is None else {**arguments, "attention_mask": mask}

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        return model.get_encoder()

    def _inspect_forward(self, model: PreTrainedModel, encoder: OnnxConfig, preprocessor: Any) -> None:
        """Run the model once and record its encoder's output class and shapes, and the layout of its cache."""
        import torch

        inputs = move(dict(encoder.generate_dummy_inputs(preprocessor)), model)
        with torch.no_grad():
            outputs = self._encoder_of(model)(**inputs, return_dict=True)
            self._projects_last = _projects_last(outputs)
            hidden_states = outputs.pooler_output if self._projects_last else outputs.last_hidden_state
            mask = outputs.get("attention_mask", inputs.get("attention_mask"))
            self._output_class, self._returns_mask = type(outputs), "attention_mask" in outputs
            arguments = self._encoder_arguments(hidden_states, mask)
            arguments |= move(self._first_arguments(len(hidden_states)), model)
            with translating(functools.partial(_not_a_decoder, model)):
                result = self._call(model, {**arguments, "use_cache": True})
        self._result = "logits" if "logits" in result else "last_hidden_state"
        cache = result.get(PAST)
        past = cache_to_past(cache) if hasattr(cache, "cross_attention_cache") else []
        if not past or any(len(layer) != 4 for layer in past):
            found = f"a {type(cache).__name__}" if cache is not None else "no cache"
            text_only = accepts_modality(type(model)) and not takes_modality(encoder)
            remedy = "describe it in a custom OnnxConfig (docs/api.md)" if text_only else WITHOUT_PAST
            raise UnsupportedError(
                f"{type(model).__name__} can't be exported with past: it returns {found}, not the keys and values of "
                f"self-attention and cross-attention of every layer; {remedy}"
            )
        self._cache_layout = CrossAttentionLayout(
            tuple(tuple((int(tensor.shape[1]), int(tensor.shape[3])) for tensor in layer) for layer in past)
        )
        self._encoder_shapes = (tuple(hidden_states.shape[1:]), tuple(mask.shape[1:]) if mask is not None else ())
        same = mask is not None and mask.shape[1] == hidden_states.shape[1]
        self._mask_label = (
            None if mask is None else ("encoder_sequence" if same else encoder.inputs["attention_mask"][1])
        )


def _not_a_decoder(model: PreTrainedModel, error: Exception) -> UnsupportedError | None:
    """Return the error for a model whose decoder doesn't run on hidden states and tokens (transducers)."""
    if isinstance(error, OnnxportError):
        return None
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return UnsupportedError(
        f"{type(model).__name__} can't be exported with past: its decoder doesn't run on the encoder's hidden states "
        f"and token ids alone ({reason}); {WITHOUT_PAST}"
    )


class CrossAttentionDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe a text decoder that is a separate model with cross-attention to a vision encoder (BLIP).

    Args:
        model: the decoder; it is run once.
        vision: the encoder.
        encoder: description of the encoder.
        preprocessor: makes `pixel_values`.
    """

    _input_ids_name = "input_ids"

    def __init__(self, model: PreTrainedModel, vision: Any, encoder: OnnxConfig, preprocessor: Any) -> None:
        self._vision_model = vision
        super().__init__(model, encoder, preprocessor)
        del self._vision_model

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Token ids, the mask of cached and new tokens, the encoder's hidden states, and the cache."""
        inputs = dict(super().inputs)
        first = {"input_ids": inputs.pop("input_ids"), "attention_mask": _DECODER_MASK}
        return {**first, **inputs}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:  # type: ignore[override]
        """Make the decoder's inputs, and a mask without padding."""
        import torch

        inputs = super().generate_dummy_inputs(*arguments, **named)
        length = _LENGTHS["past"] + _LENGTHS["decoder"]
        return {**inputs, "attention_mask": torch.ones(len(inputs["input_ids"]), length, dtype=torch.int64)}

    def _decoder_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {**super()._decoder_arguments(arguments), "attention_mask": arguments["attention_mask"]}

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        return self._vision_model

    def _encoder_arguments(self, hidden_states: Any, mask: Any) -> dict[str, Any]:
        return {"encoder_hidden_states": hidden_states}

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Return whether a model has such a decoder."""
        decoder = getattr(model, "text_decoder", None)
        takes = decoder is not None and "encoder_hidden_states" in inspect.signature(type(decoder).forward).parameters
        return takes and hasattr(model, "vision_model") and not hasattr(model, "text_encoder")


_DECODER_MASK = {0: "batch", 1: "past_decoder_sequence + decoder_sequence"}


@contextmanager
def _skipping_cached_states(model: PreTrainedModel, cached: Any, is_time_first: bool) -> Iterator[None]:
    """Drop the first `cached` encoder hidden states from the inputs of cross-attention modules, inside the block."""

    def skip(module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        bound = inspect.signature(module.forward).bind(*positional, **named)
        for name in _ENCODER_STATES_PARAMETERS:
            if bound.arguments.get(name) is not None:
                hidden_states = bound.arguments[name]
                remaining = hidden_states[cached:] if is_time_first else hidden_states[:, cached:]
                bound.arguments[name] = remaining.contiguous()
        return bound.args, bound.kwargs

    handles = [module.register_forward_pre_hook(skip, with_kwargs=True) for module in _cross_attention_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cross_attention_modules(model: PreTrainedModel) -> list[Any]:
    """Return the innermost modules that take an encoder's hidden states."""

    def takes(module: Any) -> bool:
        return any(name in inspect.signature(module.forward).parameters for name in _ENCODER_STATES_PARAMETERS)

    return [m for m in model.modules() if takes(m) and not any(takes(inner) for inner in m.modules() if inner is not m)]
