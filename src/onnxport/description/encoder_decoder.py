"""Describe the two graphs that an encoder-decoder becomes for generation: its encoder, and one decoder for all steps.

The decoder takes what the encoder outputs and a cache of the keys and values that were made of it. Only states beyond
those in the cache are projected: all of them in the first step, whose cache is empty, and none later. So one graph does
for both, without a branch; a runtime that doesn't support `If` runs it, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs._base import model_of
from onnxport.configs._past import OnnxConfigWithPast, cache_name
from onnxport.configs._patching import PatchingSpec
from onnxport.configs._seq2seq import OnnxSeq2SeqConfigWithPast
from onnxport.configs.caches import cache_to_past
from onnxport.description.arguments import PAST
from onnxport.description.cache_layout import CrossAttentionLayout
from onnxport.description.derived import DerivedOnnxConfig, move
from onnxport.description.modalities import accepts_modality, takes_modality
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_ENCODER_STATES_PARAMETERS = ("key_value_states", "encoder_hidden_states")
"""What Transformers' attention modules call the states that a decoder attends to."""
_HIDDEN_STATES_RANK = 3
_LENGTHS = {"decoder": 3, "past": 5, "known": 2}
"""Tokens of an example: given, cached, and encoder states whose keys are cached."""


class EncoderOnnxConfig(DerivedOnnxConfig):
    """Describe the encoder of an encoder-decoder; a mask that it returns for the decoder gets its own name."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `OnnxConfig`."""
        outputs = dict(super().run(forward, arguments))
        if _projects_last(outputs):
            outputs["last_hidden_state"] = outputs.pop("pooler_output")
        if "attention_mask" in outputs:
            outputs["encoder_attention_mask"] = outputs.pop("attention_mask")
        return outputs


def _projects_last(outputs: Mapping[str, Any]) -> bool:
    """Return whether an encoder projects its hidden states to the decoder's size at last (PP-FormulaNet)."""
    pooled = outputs.get("pooler_output")
    return pooled is not None and pooled.dim() == _HIDDEN_STATES_RANK


class InnerEncoderOnnxConfig(EncoderOnnxConfig):
    """Describe an encoder that isn't a model of its own, as FSMT's: what runs is the whole model's, asked for it."""

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name what the encoder takes."""
        return tuple(inspect.signature(model.get_encoder().forward).parameters)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder; see `OnnxConfig`."""
        encoder = model_of(forward).get_encoder()
        return super().run(encoder, {name: value for name, value in arguments.items() if name != "use_cache"})


class Seq2SeqDecoderOnnxConfig(OnnxSeq2SeqConfigWithPast):
    """Describe the decoder of an encoder-decoder.

    Attributes:
        is_time_first: whether its layers take the encoder's hidden states as [sequence, batch, size].

    Args:
        model: the whole model; it is run once.
        encoder: description of its encoder.
        preprocessor: what makes the encoder's inputs.

    Raises:
        UnsupportedError: the model has no such cache.
    """

    is_time_first: ClassVar[bool] = False
    _input_ids_name: ClassVar[str] = "decoder_input_ids"

    def __init__(self, model: PreTrainedModel, encoder: EncoderOnnxConfig, preprocessor: Any) -> None:
        OnnxConfigWithPast.__init__(self, model.config, "default", self.patches_of(model), use_past=True)
        self._inspect_forward(model, encoder, preprocessor)

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return what is replaced in the model's code while it is traced; a hook."""
        return []

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Mask of the encoder's input where it has one, tokens, the encoder's states, and the cache."""
        inputs: dict[str, Mapping[int, str]] = {}
        if self._mask_length is not None:
            inputs["encoder_attention_mask"] = {0: "batch", 1: self._mask_length}
        inputs["input_ids"] = {0: "batch", 1: "decoder_sequence"}
        inputs["encoder_hidden_states"] = {0: "batch", 1: "encoder_sequence"}
        self.fill_with_past_key_values_(inputs, "inputs")
        return inputs

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Logits and the cache."""
        outputs: dict[str, Mapping[int, str]] = {"logits": {0: "batch", 1: "decoder_sequence"}}
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
        """Make tokens, states of an encoder, and a cache of some earlier tokens and some of the states."""
        import torch

        batch = self.default_batch_size if batch_size < 1 else batch_size
        states, mask = self._encoder_shapes
        inputs: dict[str, Any] = {
            "input_ids": self._decoder_input_ids(batch, _LENGTHS["decoder"]),
            "encoder_hidden_states": torch.zeros(batch, *states),
        }
        if self._mask_length is not None:
            inputs["encoder_attention_mask"] = torch.ones(batch, *mask, dtype=torch.int64)
        lengths = (_LENGTHS["past"],) * 2 + (_LENGTHS["known"],) * 2
        inputs[PAST] = [
            tuple(torch.zeros(batch, heads, n, size) for (heads, size), n in zip(layer, lengths, strict=True))
            for layer in self._cache_layout.layers
        ]
        return inputs

    def _decoder_input_ids(self, batch: int, length: int) -> Any:
        """Make tokens, [batch, length]; for a decoder of audio, several codes in place of each."""
        import torch

        channels = getattr(getattr(self._config, "decoder_config", None), "num_channels", None)
        return torch.ones(batch, length, *((channels,) if channels else ()), dtype=torch.int64)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model on its encoder's hidden states."""
        states, cache = arguments["encoder_hidden_states"].clone(), arguments[PAST]  # some models change it in place
        known = cache.cross_attention_cache.layers[0].keys.shape[2]
        complete = isinstance(known, int) and known == states.shape[1]
        cache.is_updated = dict.fromkeys(cache.is_updated, complete)
        with _skipping_cached_states(model_of(forward), 0 if complete else known, self.is_time_first):
            return forward(
                **self._encoder_arguments(states, arguments.get("encoder_attention_mask")),
                **{self._input_ids_name: arguments["input_ids"]},
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            )

    def _encoder_arguments(self, states: Any, mask: Any) -> dict[str, Any]:
        """Return what the model takes in place of its encoder's inputs."""
        if self._returns_mask:
            return {"encoder_outputs": self._output_class(last_hidden_state=states, attention_mask=mask)}
        pooled = {"pooler_output": states} if self._projects_last else {}
        inputs = {"encoder_outputs": self._output_class(last_hidden_state=states, **pooled)}
        return inputs if mask is None else {**inputs, "attention_mask": mask}

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        return model.get_encoder()

    def _inspect_forward(self, model: PreTrainedModel, encoder: EncoderOnnxConfig, preprocessor: Any) -> None:
        """Run the model once and note what its encoder returns and what it caches."""
        import torch

        inputs = move(dict(encoder.generate_dummy_inputs(preprocessor)), model)
        with torch.no_grad():
            outputs = self._encoder_of(model)(**inputs, return_dict=True)
            self._projects_last = _projects_last(outputs)
            states = outputs.pooler_output if self._projects_last else outputs.last_hidden_state
            mask = outputs.get("attention_mask", inputs.get("attention_mask"))
            self._output_class, self._returns_mask = type(outputs), "attention_mask" in outputs
            tokens = self._decoder_input_ids(states.shape[0], 2).to(states.device)
            result = model(
                **self._encoder_arguments(states, mask),
                **{self._input_ids_name: tokens},
                use_cache=True,
                return_dict=True,
            )
        cache = result.get(PAST)
        past = cache_to_past(cache) if hasattr(cache, "cross_attention_cache") else []
        if not past or any(len(layer) != 4 for layer in past):
            kept = type(cache).__name__ if cache is not None else "no cache"
            text_only = accepts_modality(type(model)) and not takes_modality(encoder)
            remedy = "describe it in an OnnxConfig of your own (docs/api.md)" if text_only else "add --no-past"
            raise UnsupportedError(
                f"{type(model).__name__} keeps {kept}, not the keys and values of both attentions of every layer, so "
                f"it can't be exported with past; {remedy}"
            )
        self._cache_layout = CrossAttentionLayout(
            tuple(tuple((int(tensor.shape[1]), int(tensor.shape[3])) for tensor in layer) for layer in past)
        )
        self._encoder_shapes = (tuple(states.shape[1:]), tuple(mask.shape[1:]) if mask is not None else ())
        same = mask is not None and mask.shape[1] == states.shape[1]
        self._mask_length = (
            None if mask is None else ("encoder_sequence" if same else encoder.inputs["attention_mask"][1])
        )


class CrossAttentionDecoderOnnxConfig(Seq2SeqDecoderOnnxConfig):
    """Describe a text decoder that is a model of its own and attends to a vision encoder's hidden states (BLIP).

    Args:
        model: the decoder; it is run once.
        vision: the encoder.
        encoder: description of the encoder.
        preprocessor: what makes images.
    """

    _input_ids_name = "input_ids"

    def __init__(self, model: PreTrainedModel, vision: Any, encoder: EncoderOnnxConfig, preprocessor: Any) -> None:
        self._vision_model = vision
        super().__init__(model, encoder, preprocessor)
        del self._vision_model

    def _encoder_of(self, model: PreTrainedModel) -> Any:
        return self._vision_model

    def _encoder_arguments(self, states: Any, mask: Any) -> dict[str, Any]:
        return {"encoder_hidden_states": states}

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Return whether a model has such a decoder."""
        decoder = getattr(model, "text_decoder", None)
        takes = decoder is not None and "encoder_hidden_states" in inspect.signature(type(decoder).forward).parameters
        return takes and hasattr(model, "vision_model") and not hasattr(model, "text_encoder")


@contextmanager
def _skipping_cached_states(model: PreTrainedModel, known: Any, is_time_first: bool) -> Iterator[None]:
    """Hide the first `known` of an encoder's hidden states from the projections of a decoder, in a block."""

    def hide(module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        bound = inspect.signature(module.forward).bind(*positional, **named)
        for name in _ENCODER_STATES_PARAMETERS:
            if bound.arguments.get(name) is not None:
                states = bound.arguments[name]
                kept = states[known:] if is_time_first else states[:, known:]
                bound.arguments[name] = kept.contiguous()
        return bound.args, bound.kwargs

    handles = [module.register_forward_pre_hook(hide, with_kwargs=True) for module in _cross_attention_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cross_attention_modules(model: PreTrainedModel) -> list[Any]:
    """Return the innermost modules that take an encoder's states."""

    def takes(module: Any) -> bool:
        return any(name in inspect.signature(module.forward).parameters for name in _ENCODER_STATES_PARAMETERS)

    return [m for m in model.modules() if takes(m) and not any(takes(inner) for inner in m.modules() if inner is not m)]
