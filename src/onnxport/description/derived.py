"""Derive a description from a model: inputs from forward's signature and the preprocessor, outputs from one forward.

Used where no hand-written description exists, and for every decoder that is exported for generation: its graph gets
the names that today's clients expect, such as `position_ids`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport._transformers_api import CACHE_NAMES, PAST
from onnxport.configs._dummies import extend_mask
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.configs._patching import PatchingSpec
from onnxport.description import _linear_attention as recurrences
from onnxport.description.arguments import padding_defined
from onnxport.description.cache_layout import WITHOUT_PAST, CacheLayout
from onnxport.description.default_preprocessor import image_size_of
from onnxport.description.documented_dummies import documented_dummies
from onnxport.description.dummy_inputs import (
    DummyInput,
    InputContext,
    dummy_input,
    leading_placeholders,
    parameters_named_in,
)
from onnxport.description.fitting import fit, fitted_axes, samples_axes
from onnxport.description.layer_probing import probed_dummies
from onnxport.description.requirements import (
    forwarded_parameters,
    required_dummies,
    run_failure_message,
    subprocessors_named_in,
    subprocessors_of,
)
from onnxport.description.text_configs import text_config_of
from onnxport.errors import OnnxportError, UnsupportedError
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
AXES: dict[str, dict[int, str]] = {
    "inputs_embeds": {0: "batch", 1: "sequence"},
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
    "token_type_ids": {0: "batch", 1: "sequence"},
    "mm_token_type_ids": {0: "batch", 1: "sequence"},
    "moe_mm_token_type_ids": {0: "batch", 1: "sequence"},
    "position_ids": {0: "batch", 1: "sequence"},
    "global_attention_mask": {0: "batch", 1: "sequence"},
    "deepstack_embeds": {1: "batch", 2: "sequence"},
    "decoder_input_ids": {0: "batch", 1: "decoder_sequence"},
    "decoder_attention_mask": {0: "batch", 1: "decoder_sequence"},
    "pixel_values": {0: "batch", 2: "height", 3: "width"},
    "pixel_mask": {0: "batch", 1: "height", 2: "width"},
    "input_values": {0: "batch", 1: "audio_sequence"},
    "input_features": {0: "batch", 1: "feature_size", 2: "encoder_sequence"},
}
_RANKS = {"pixel_values": 4, "input_values": 2, "input_features": 3}
"""Input name to the rank for which `AXES` labels its axes."""
_AUDIO_INPUTS = ("input_values", "input_features")
_SPEECH_RATE = 16000
"""Sampling rate of speech, in Hz; codecs have a higher one."""
_EMBEDS = "inputs_embeds"
_EMBEDS_NEEDED = re.compile(r"\b(inputs_embeds|embed_tokens)\b|`input_ids` is expected to be `None`")
"""Errors of models that have no embeddings of token ids."""
_DECODER_INPUT_IDS = "decoder_input_ids"
_REQUIRED_MASKS = ("input_features_mask",)
"""Parameters that a forward requires although they have a default."""
_SAMPLES = ("pixel_values", "input_features", "input_values")
_OVERRIDDEN = ("token_type_ids", "pixel_values")
"""Dummy inputs that replace those of the preprocessor."""
_MULTIPLE_CHOICE_AXES = {0: "batch", 1: "choice", 2: "sequence"}
_MAX_ATTEMPTS = 5
"""Maximum number of forwards; after each that fails, the inputs that its error names are added."""
_NOT_OUTPUTS = ("loss", "hidden_states", "attentions", "rope_deltas", *CACHE_NAMES)


class DerivedOnnxConfig(OnnxConfigWithPast):
    """Describe a model from its forward's signature and outputs.

    Attributes:
        cache_name: name of the cache in parameters and outputs, if it isn't Transformers' name.
        attn_implementation: the attention implementation to export; None for the model's default.
        dummy_inputs: dummy inputs that the model always takes, instead of the preprocessor's, by parameter name.

    Args:
        model: a Transformers model; its forward is run on a batch of two short examples.
        preprocessor: its tokenizer, processor, image processor or feature extractor.
        use_past: whether the graph has the KV cache as inputs and outputs.
        last_logits: whether the graph returns the logits of the last token only.
        multiple_choice: whether inputs have an axis of choices, [batch, choices, sequence].

    Raises:
        UnsupportedError: the model's inputs or its cache can't be described, or it has no `logits_to_keep`.
    """

    cache_name: ClassVar[str] = PAST
    attn_implementation: ClassVar[str | None] = None
    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {}

    def __init__(
        self,
        model: PreTrainedModel,
        preprocessor: Any,
        use_past: bool = False,
        last_logits: bool = False,
        multiple_choice: bool = False,
    ) -> None:
        task = "multiple-choice" if multiple_choice else "default"
        super().__init__(model.config, task, self.patches_of(model), use_past)
        self._parameters = self.parameters_of(model)
        known = inspect.signature(type(model).forward).parameters
        parameters = {name: known[name] for name in self._parameters if name in known}
        self._has_decoder = model.config.is_encoder_decoder and _DECODER_INPUT_IDS in parameters
        self._dummies = required_dummies(model, parameters, self._has_decoder)
        self._dummies += [name for name in self.dummy_inputs if name in parameters and name not in self._dummies]
        text = text_config_of(model.config)
        if getattr(text, "use_bidirectional_attention", False) and "token_type_ids" in parameters and not use_past:
            self._dummies.append("token_type_ids")  # selects PaliGemma's prefix, whose attention is bidirectional
        if use_past and "attention_mask" not in known and "kwargs" in known:  # forwarded to the language model
            self._parameters = (*self._parameters, "attention_mask")
        self._omitted: set[str] = set()
        self._takes_embeds = False
        self._documented: dict[str, DummyInput] = {}
        self._probed: dict[str, DummyInput] = {}
        main = model.main_input_name
        self._inputs: dict[str, Mapping[int, str]] = {  # selects the sub-processor
            name: {} for name in ([main] if isinstance(main, str) else main)
        }
        self._outputs: dict[str, Mapping[int, str]] = {}
        self._subprocessors = subprocessors_of(model, preprocessor, parameters)
        has_dummy_images = "input_ids" in parameters and "pixel_values" in self._dummies
        if not self._subprocessors and has_dummy_images and getattr(preprocessor, "tokenizer", None) is not None:
            self._subprocessors = ("tokenizer",)
        self._cache_layout = CacheLayout((), 0)
        self._kwargs: dict[str, Any] = {"logits_to_keep": 1} if last_logits else {}
        if last_logits and "logits_to_keep" not in self._parameters:
            raise UnsupportedError(f"{type(model).__name__} has no logits_to_keep: leave out --last-logits")
        if "sample" in self._parameters:  # noise in the latents of an audio encoder, for training
            self._kwargs["sample"] = False
        if "return_loss" in self._parameters and getattr(model.config, "return_loss", False):  # it requires labels
            self._kwargs["return_loss"] = False
        self._drops_state = recurrences.drops_state(model)
        self._generates = (use_past or model.can_generate()) and not model.config.is_encoder_decoder
        self._inspect_forward(model, preprocessor)

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Inputs of the graph, in order, with their dynamic axes."""
        inputs = dict(self._inputs)
        if self.use_past:
            inputs.update(self._cache_layout.named("inputs"))
            inputs["attention_mask"] = {0: "batch", 1: "past_sequence + sequence"}
        return inputs

    @property
    def multiples(self) -> frozenset[str]:
        """All inputs: the lengths of audio inputs depend on each other and on the number of tokens."""
        return frozenset(self._inputs)

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Outputs of the graph, in order; only their batch axes: tracing finds the others."""
        outputs = dict(self._outputs)
        if self.use_past:
            outputs.update(self._cache_layout.named("outputs"))
        return outputs

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Configuration fields to set during the export; see `OnnxConfig`."""
        attention = {"_attn_implementation": self.attn_implementation} if self.attn_implementation else {}
        return {**super().model_values, **attention}

    @property
    def is_plain(self) -> bool:
        """Whether the inputs are those of the preprocessor and go to the forward unchanged."""
        changed = self._dummies or self._drops_state or self._kwargs or self._patching_specs or self._is_fitted
        special = self.use_past or self._subprocessors or changed
        return type(self) is DerivedOnnxConfig and self.task == "default" and not special

    @property
    def num_layers(self) -> int:
        """Number of layers with a cache."""
        return len(self._cache_layout.layers)

    def generate_dummy_inputs(  # type: ignore[override]
        self,
        tokenizer: Any,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Any = "pt",
    ) -> Mapping[str, Any]:
        """Make inputs with the preprocessor and `position_ids`; with past, also a cache; see `OnnxConfigWithPast`."""
        generate = super(OnnxConfigWithPast, self).generate_dummy_inputs
        processors = [getattr(tokenizer, name) for name in self._subprocessors] or [tokenizer]
        encoded: dict[str, Any] = {}
        for part in processors:  # the tokenizer comes first: its attention_mask wins
            encoded = {**generate(part, batch_size, seq_length, is_pair=is_pair, framework="pt"), **encoded}
        accepted = set(self._parameters) - self._omitted
        inputs = {name: value for name, value in encoded.items() if name in accepted and hasattr(value, "shape")}
        self._add_dummy_inputs(inputs)
        fit(self._config, self._parameters, inputs)
        self.fit_inputs(inputs)
        tokens = inputs.get("input_ids")
        if tokens is not None:
            inputs["input_ids"] = self.to_codes(tokens)
        if self._generates and tokens is not None:
            self._add_generation_inputs(inputs, tokens)
        if self._takes_embeds:
            del inputs["input_ids"]
        return inputs

    def _add_generation_inputs(self, inputs: dict[str, Any], tokens: torch.Tensor) -> None:
        """Add `position_ids` and, with past, a cache."""
        import torch

        if "token_type_ids" not in self._dummies:
            inputs.pop("token_type_ids", None)
        length = tokens.shape[-1]
        past = length + 2 if self.use_past else 0
        if "position_ids" in self._parameters:
            inputs["position_ids"] = torch.arange(past, past + length).expand(tokens.shape).clone()
        if self.use_past:
            inputs["attention_mask"] = extend_mask(inputs["attention_mask"], past)
            inputs[PAST] = self._cache_layout.zeros(len(tokens), past)

    def _generate_dummy_audio(
        self, batch_size: int = 2, sampling_rate: int = 22050, time_duration: float = 5.0, frequency: int = 220
    ) -> list[Any]:
        """Make audio; for codecs almost a second of it: their first layers have a hidden state for each sample.

        The number of samples is odd: codecs pad it to a multiple and trim what they decode, which multiples don't need.
        """
        if sampling_rate > _SPEECH_RATE:
            time_duration = min(time_duration, 1.0) - 0.5 / sampling_rate
        return super()._generate_dummy_audio(batch_size, sampling_rate, time_duration, frequency)

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. One that drops its recurrent state runs token by token, unless traced."""
        import torch

        if PAST in arguments and self._drops_state and not torch.compiler.is_exporting():
            return self._run_token_by_token(forward, arguments)
        return self._run_once(forward, arguments)

    def _run_token_by_token(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        count, step, logits = tokens_of(arguments).shape[1], dict(arguments), []
        for left in reversed(range(count)):
            for name in ("input_ids", _EMBEDS, "position_ids", "attention_mask"):
                if name in arguments:
                    values = arguments[name][:, : arguments[name].shape[1] - left]
                    step[name] = values if name == "attention_mask" else values[:, -1:]
            result = self._run_once(forward, step)
            step[PAST] = result[PAST]
            logits.append(result["logits"])
        returned = logits[-1:] if "logits_to_keep" in self._kwargs else logits
        return {**result, "logits": torch.cat(returned, dim=1)}

    def _run_once(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = {self.cache_name if name == PAST else name: value for name, value in arguments.items()}
        if PAST in arguments and not self._cache_layout.grows:  # no cached tokens to mask
            named["attention_mask"] = named["attention_mask"][:, -tokens_of(named).shape[1] :]
        result = super().run(forward, {**named, **self._kwargs})
        if not any(tensor_names(result)):
            result = _with_nested_tensors(result)
        inputs = {} if self._generates else {name: f"encoder_{name}" for name in named}  # a mask that is also an output
        return {PAST if name == self.cache_name else inputs.get(name, name): value for name, value in result.items()}

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method in the original, too
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Flatten a cache by layer; other outputs like the base class."""
        if name in (PAST, "present") and self.use_past:
            return self._cache_layout.flattened("inputs" if name == PAST else "outputs", field)
        if _is_tensor_sequence(field):
            return {f"{name}.{index}": item for index, item in enumerate(field)}
        return super().flatten_output_collection_property(name, field)

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return the patches of the model's code for the trace; a hook."""
        return recurrences.patches_of(model)

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of the model's parameters; a hook."""
        return (*inspect.signature(type(model).forward).parameters, *forwarded_parameters(model))

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Change dummy inputs in place to what the model takes; a hook.

        Args:
            inputs: dummy inputs by name.
        """

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return token ids in the shape that the model takes, such as one code per codebook and step; a hook.

        Args:
            input_ids: token ids, [batch, sequence].
        """
        return input_ids

    def can_export_recurrence(self, model: PreTrainedModel) -> bool:
        """Return whether the trace of the model's recurrence holds for any sequence length; a hook.

        Args:
            model: the model.
        """
        return bool(self._patching_specs)

    def describe_cache(self, model: PreTrainedModel, cache: Any) -> CacheLayout:
        """Describe the cache that a model returned; a hook.

        Args:
            model: the model.
            cache: its cache, as `run` returned it.

        Raises:
            UnsupportedError: the cache or the recurrence isn't supported.
        """
        layout = CacheLayout.of(model, cache)
        if layout.is_recurrent and not self.can_export_recurrence(model):
            raise UnsupportedError(
                f"{type(model).__name__} can't be exported with past: its recurrence isn't supported; {WITHOUT_PAST}"
            )
        return layout

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache; see `OnnxConfig`."""
        return self._cache_layout.to_cache(past)

    def cache_to_past(self, cache: Any) -> Any:
        """Return the cache's tensors by layer; see `OnnxConfig`."""
        return self._cache_layout.from_cache(cache)

    def _has_image_placeholders(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether a prompt begins with placeholder tokens, one for each embedding of its images."""
        if "image_embeds_position_mask" in self._dummies:
            return True
        if "use_image_text_matching_head" in self._parameters:  # BLIP-2; old checkpoints have no image_token_index
            return getattr(self._config, "image_token_index", None) is not None
        return "pixel_values" in (*inputs, *self._dummies) and hasattr(self._config, "vlm_config")

    def _dummy_input(self, name: str) -> DummyInput | None:
        known = self._probed.get(name) or self.dummy_inputs.get(name)
        return known or dummy_input(name) or self._documented.get(name)

    def _add_dummy_inputs(self, inputs: dict[str, Any]) -> None:
        """Add the inputs that no preprocessor makes."""
        import torch

        if self._has_image_placeholders(inputs):
            count, token = leading_placeholders(self._config)
            for name, value in (("input_ids", token), ("attention_mask", 1)):
                first = inputs[name][:, :1] if value is None else torch.full_like(inputs[name][:, :1], value)
                inputs[name] = torch.cat([first.expand(-1, count), inputs[name]], dim=1)
        for name in self._dummies:
            dummy = self._dummy_input(name)
            overrides = name in _OVERRIDDEN or name in self._probed or name in self.dummy_inputs
            if dummy is not None and (name not in inputs or overrides):
                others = (len(value) for key, value in inputs.items() if key != name)
                batch = next(others, self.default_batch_size)
                inputs[name] = dummy.make(InputContext(self._config, batch, inputs))
        if "flattened_patches" in inputs and "attention_mask" in self._parameters:  # it masks patches, not tokens
            patches = inputs["flattened_patches"]
            inputs["attention_mask"] = patches.new_ones(patches.shape[:2]).long()

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        """Return the dynamic axes of inputs; their order, that of `AXES`, is the graph's."""
        dummies = {name: self._dummy_input(name) for name in inputs}
        axes: dict[str, Mapping[int, str]] = {name: AXES[name] for name in AXES if name in inputs}
        for name, rank in _RANKS.items():
            if name in inputs and inputs[name].dim() != rank:  # frames of a video, patches, channels of audio
                axes[name] = {0: "batch"}
        axes |= samples_axes(inputs)
        axes |= fitted_axes(self._config, inputs)
        for name, label in (("pixel_position_ids", "patches"), ("image_attention_mask", "num_images")):
            if name in inputs:
                axes["pixel_values"] = {0: "batch", 1: label}
        if _DECODER_INPUT_IDS in inputs and inputs[_DECODER_INPUT_IDS].shape[1] == 1:  # a transducer's token
            axes[_DECODER_INPUT_IDS] = {0: "batch"}
        axes |= {name: dummy.axes for name, dummy in dummies.items() if dummy is not None and name not in axes}
        axes |= {name: dummy.axes for name, dummy in {**self.dummy_inputs, **self._probed}.items() if name in inputs}
        axes |= {name: {0: "batch"} for name in inputs if name not in axes}
        if self.task == "multiple-choice":
            axes |= {name: _MULTIPLE_CHOICE_AXES for name in inputs if name in _TEXT_INPUTS}
        return axes

    def _inspect_forward(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Run the model without past and record its inputs, outputs and cache; add inputs that its errors name."""
        import torch

        use_past, self.use_past = self.use_past, False
        flags = {"use_cache": use_past} if use_past or "use_cache" in self._parameters else {}
        generated = self.generate_dummy_inputs(preprocessor)
        self._omitted = {name for name in generated if name not in AXES and not self._dummy_input(name)}
        inputs = {name: value for name, value in generated.items() if name not in self._omitted}
        for _ in range(_MAX_ATTEMPTS):
            try:
                with torch.no_grad(), patching(*padding_defined(model.config)):
                    result = self.run(model, {**move(inputs, model), **flags})
                break
            except Exception as error:
                if not self._add_missing_inputs(model, error, inputs, preprocessor):
                    if isinstance(error, OnnxportError):
                        raise
                    raise UnsupportedError(run_failure_message(model, list(inputs), error)) from error
                inputs = dict(self.generate_dummy_inputs(preprocessor))
        else:
            raise UnsupportedError(f"{type(model).__name__} still fails with {', '.join(self._dummies)} added")
        self._inputs, self._is_fitted = self._axes_of(inputs), bool(fitted_axes(self._config, inputs))
        audio, mask = next((name for name in _AUDIO_INPUTS if name in inputs), None), inputs.get("attention_mask")
        if audio and mask is not None and "input_ids" not in inputs and mask.shape[1] == inputs[audio].shape[1]:
            self._inputs |= {name: {0: "batch", 1: "audio_sequence"} for name in (audio, "attention_mask")}
        self._outputs = {name: {0: "batch"} for name in tensor_names(result) if name not in inputs}
        if not self._outputs:
            raise UnsupportedError(f"{type(model).__name__} returns no tensors, only {', '.join(result) or 'nothing'}")
        if use_past:
            cache = result.get(PAST)
            self._cache_layout = self.describe_cache(model, self._fill_cache(model, inputs) if cache is None else cache)
        self.use_past = use_past

    def _fill_cache(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        """Return the cache of a model that fills one it is passed, but creates none itself."""
        import torch
        from transformers import DynamicCache

        if not {self.cache_name, *CACHE_NAMES}.intersection(self._parameters):
            return None
        empty = DynamicCache(config=text_config_of(model.config))
        with torch.no_grad():
            return self.run(model, {**move(dict(inputs), model), PAST: empty, "use_cache": True}).get(PAST)

    def _add_missing_inputs(
        self, model: PreTrainedModel, error: Exception, inputs: Mapping[str, Any], preprocessor: Any
    ) -> bool:
        """Add the inputs that an error of the forward names; return whether there are any to add."""
        if _EMBEDS_NEEDED.search(str(error)) and self._replace_tokens(inputs):
            return True
        missing = [name for name in parameters_named_in(error, self._parameters) if name not in (*inputs, *_OVERRIDDEN)]
        if not missing and self._has_decoder and _DECODER_INPUT_IDS not in inputs:
            missing = [_DECODER_INPUT_IDS]
        if not missing and "NoneType" in str(error) and "input_features" in inputs:
            missing = [name for name in _REQUIRED_MASKS if name in self._parameters and name not in inputs]
        if missing:
            self._dummies += missing
            return True
        names = subprocessors_named_in(error, preprocessor, [name for name in self._parameters if name not in inputs])
        if names and names != self._subprocessors:
            self._subprocessors = names
            return True
        if self._omitted:
            self._omitted = set()
            return True
        is_lacking = re.search(r"\bNone(Type)?\b|missing", str(error)) is not None
        documented = documented_dummies(model, inputs) if is_lacking and not self._documented else {}
        self._documented = {name: dummy for name, dummy in documented.items() if name in self._parameters}
        self._dummies += self._documented
        return (
            bool(self._documented) or (is_lacking and self._replace_tokens(inputs)) or self._probe_layers(model, inputs)
        )

    def _replace_tokens(self, inputs: Mapping[str, Any]) -> bool:
        """Take `inputs_embeds` instead of `input_ids`, if the forward has both; return whether that is a change."""
        if self._takes_embeds or "input_ids" not in inputs or _EMBEDS not in self._parameters:
            return False
        self._takes_embeds = True
        self._dummies.append(_EMBEDS)
        return True

    def _probe_layers(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
        """Find the shapes of the required inputs that are missing, else of the samples; return whether they are found.

        The samples that a preprocessor made may have another number of channels or mel bins than the model takes.
        """
        import torch

        if self._probed:
            return False
        known = inspect.signature(type(model).forward).parameters
        required = [
            name for name in self._parameters if name in known and known[name].default is inspect.Parameter.empty
        ]
        missing = [name for name in required if name not in (*inputs, "self", "args", "kwargs")]
        names = missing or [name for name in _SAMPLES if name in inputs]

        def run(changed: Mapping[str, torch.Tensor]) -> object:
            with torch.no_grad(), patching(*padding_defined(model.config)):
                return self.run(model, move(changed, model))

        channels = InputContext(model.config, 1, {}).config_int("num_channels", "in_channels", "in_chans", default=3)
        size = image_size_of(model.config)
        self._probed = probed_dummies(run, inputs, names, size and (channels, *size)) if names else {}
        self._dummies += self._probed
        return bool(self._probed)


def tokens_of(arguments: Mapping[str, Any]) -> torch.Tensor:
    """Return the token ids among arguments, or their embeddings; both have the tokens on axis 1."""
    tokens: torch.Tensor = arguments["input_ids"] if "input_ids" in arguments else arguments[_EMBEDS]
    return tokens


def tensor_names(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of a model's output tensors; those in a list are `name.index`."""
    import torch

    for name, value in result.items():
        if name in _NOT_OUTPUTS or (
            name.endswith(("hidden_states", "attentions")) and not isinstance(value, torch.Tensor)
        ):
            continue
        if isinstance(value, torch.Tensor):
            yield name
        elif _is_tensor_sequence(value):
            yield from (f"{name}.{index}" for index in range(len(value)))


def _with_nested_tensors(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's outputs together with the tensors of its submodels' outputs (InstructBLIP)."""
    import torch

    nested = {name: value for name, value in result.items() if isinstance(value, Mapping)}
    inner = {f"{name}.{key}": value for name, outputs in nested.items() for key, value in outputs.items()}
    return {**result, **{name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}}


def _is_tensor_sequence(value: Any) -> bool:
    """Return whether a value is a non-empty list or tuple of tensors."""
    import torch

    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, torch.Tensor) for item in value)


def move(inputs: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return inputs on a model's device; floating-point tensors in its dtype."""
    device, dtype = next(model.parameters()).device, model.dtype
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}
