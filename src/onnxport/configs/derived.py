"""A description for any model: inputs from forward's parameters and the preprocessor, outputs from one run.

Used where no hand-written description exists, and for every decoder that is exported for generation: those get the
names that today's clients expect, `position_ids` among them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from onnxport.configs import recurrences, windows
from onnxport.configs._dummies import extend_mask
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.configs._patching import PatchingSpec
from onnxport.configs.arguments import PAST
from onnxport.configs.states import CACHE_NAMES, CacheStates
from onnxport.configs.tasks import PAST_SUFFIX
from onnxport.errors import UnsupportedError

_TEXT = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
AXES: dict[str, dict[int, str]] = {
    "inputs_embeds": {0: "batch", 1: "sequence"},
    "input_ids": {0: "batch", 1: "sequence"},
    "attention_mask": {0: "batch", 1: "sequence"},
    "token_type_ids": {0: "batch", 1: "sequence"},
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
_SOUNDS = ("input_values", "input_features")
_WITHOUT_LOOP = ("zaya",)
"""Model types whose states need no other form: what they remember is a token's, not a sum over all. With a bias in its
projections, what Zaya remembers before the first token isn't zero."""
_NOT_OUTPUTS = ("loss", "hidden_states", "attentions", "rope_deltas", *CACHE_NAMES)


class DerivedOnnxConfig(OnnxConfigWithPast):
    """Describe a model by looking at it.

    Attributes:
        cache_names: what the model may call its cache.

    Args:
        model: a Transformers model; it is run once, on two short examples.
        preprocessor: its tokenizer, processor, image processor or feature extractor.
        use_past: whether the graph takes and gives the key/value cache.
        last_logits: whether the graph gives the logits of the last token only.

    Raises:
        UnsupportedError: the model's inputs or its cache can't be described, or it can't give the last logits only.
    """

    cache_names: ClassVar[tuple[str, ...]] = CACHE_NAMES

    def __init__(self, model: Any, preprocessor: Any, use_past: bool = False, last_logits: bool = False) -> None:
        super().__init__(model.config, "default", self.patches_of(model), use_past)
        self._parameters = self.parameters_of(model)
        self._inputs: dict[str, Mapping[int, str]] = {model.main_input_name: {}}  # chooses the part of a processor
        self._outputs: dict[str, Mapping[int, str]] = {}
        reads_both = {"input_ids", "pixel_values"} <= set(self._parameters)
        self._compares = reads_both and _has_both(preprocessor) and not model.can_generate()
        self._states = CacheStates((), 0)
        self._cache_name = next((name for name in self.cache_names if name in self._parameters), PAST)
        self._more = {"logits_to_keep": 1} if last_logits else {}
        if last_logits and "logits_to_keep" not in self._parameters:
            raise UnsupportedError(f"{type(model).__name__} computes the logits of all tokens: leave out --last-logits")
        self._forgets = recurrences.forgets(model)
        self._generates = model.can_generate() and not model.config.is_encoder_decoder
        self._look_at(model, preprocessor)

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Inputs of the graph, in order, with their dynamic axes."""
        inputs = dict(self._inputs)
        if self.use_past:
            inputs.update(self._states.named("inputs"))
            inputs["attention_mask"] = {0: "batch", 1: "past_sequence + sequence"}
        return inputs

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Outputs of the graph, in order; their axes are found by tracing."""
        outputs = dict(self._outputs)
        if self.use_past:
            outputs.update(self._states.named("outputs"))
        return outputs

    @property
    def is_plain(self) -> bool:
        """Whether one preprocessor makes the inputs, and the model is run on them as it is."""
        special = self.use_past or self._compares or self._forgets or self._more or self._patching_specs
        made_here = {"decoder_input_ids", "global_attention_mask"} & set(self._inputs)
        return type(self) is DerivedOnnxConfig and not special and not made_here

    @property
    def num_layers(self) -> int:
        """Layers that have a cache."""
        return len(self._states.layers)

    def generate_dummy_inputs(  # type: ignore[override]
        self,
        tokenizer: Any,
        batch_size: int = -1,
        seq_length: int = -1,
        is_pair: bool = False,
        framework: Any = "pt",
    ) -> Mapping[str, Any]:
        """Make inputs with the preprocessor, those of a decoder, and, with past, a cache; see `OnnxConfigWithPast`."""
        import torch

        generate = super(OnnxConfigWithPast, self).generate_dummy_inputs
        parts = (tokenizer.tokenizer, tokenizer.image_processor) if self._compares else (tokenizer,)
        made: dict[str, Any] = {}
        for part in parts:
            made |= generate(part, batch_size, seq_length, is_pair=is_pair, framework="pt")
        inputs = {name: value for name, value in made.items() if name in self._parameters}
        if "global_attention_mask" in self._parameters and "input_ids" in inputs:
            inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
            inputs["global_attention_mask"][:, ::2] = 1
        if self._config.is_encoder_decoder and {"input_ids", "decoder_input_ids"} <= {*inputs, *self._parameters}:
            inputs.setdefault("decoder_input_ids", inputs["input_ids"][:, :-1].clone())
        if not self._generates or "input_ids" not in inputs:
            return inputs
        inputs.pop("token_type_ids", None)
        batch, length = inputs["input_ids"].shape
        past = length + 2 if self.use_past else 0
        if "position_ids" in self._parameters:
            inputs["position_ids"] = torch.arange(past, past + length).expand(batch, length).clone()
        if self.use_past:
            inputs["attention_mask"] = extend_mask(inputs["attention_mask"], past)
            inputs[PAST] = self._states.zeros(batch, past)
        return inputs

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model; see `OnnxConfig`. One that forgets its state gets its tokens one by one, unless traced."""
        import torch

        if PAST in arguments and self._forgets and not torch.compiler.is_exporting():
            return self._run_steps(forward, arguments)
        return self._run_once(forward, arguments)

    def _run_steps(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        count, now, logits = arguments["input_ids"].shape[1], dict(arguments), []
        for left in reversed(range(count)):
            for name in ("input_ids", "position_ids", "attention_mask"):
                if name in arguments:
                    values = arguments[name][:, : arguments[name].shape[1] - left]
                    now[name] = values if name == "attention_mask" else values[:, -1:]
            result = self._run_once(forward, now)
            now[PAST] = result[PAST]
            logits.append(result["logits"])
        kept = logits[-1:] if self._more else logits
        return {**result, "logits": torch.cat(kept, dim=1)}

    def _run_once(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = {self._cache_name if name == PAST else name: value for name, value in arguments.items()}
        if PAST in arguments and not self._states.grows:  # a mask of earlier tokens has nothing to hide
            named["attention_mask"] = named["attention_mask"][:, -named["input_ids"].shape[1] :]
        result = super().run(forward, {**named, **self._more})
        return {PAST if name == self._cache_name else name: value for name, value in result.items()}

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method in the original, too
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Name what the layers of a cache remember; flatten anything else as the base does."""
        if name in (PAST, "present") and self.use_past:
            return self._states.flattened("inputs" if name == PAST else "outputs", field)
        return super().flatten_output_collection_property(name, field)

    def patches_of(self, model: Any) -> list[PatchingSpec]:
        """Return what is replaced in the model's code while it is traced; a hook."""
        return [*recurrences.patches_of(model), *windows.patches_of(model)]

    def parameters_of(self, model: Any) -> tuple[str, ...]:
        """Name what the model takes; a hook."""
        return tuple(inspect.signature(type(model).forward).parameters)

    def describe_states(self, model: Any, cache: Any) -> CacheStates:
        """Describe the cache that a model returned; a hook.

        Args:
            model: the model.
            cache: its cache, as `run` returned it.

        Raises:
            UnsupportedError: it can't be described.
        """
        states = CacheStates.of(model, cache)
        text = model.config.get_text_config()
        known = self._patching_specs or (
            text.model_type in _WITHOUT_LOOP and not getattr(text, "attention_bias", False)
        )
        if states.recurs and not known:
            raise UnsupportedError(
                f"{type(model).__name__} computes its states in a way that isn't known here, so it can't be "
                f"exported with past; name the task without {PAST_SUFFIX}: --task text-generation, for instance"
            )
        return states

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache; see `OnnxConfig`."""
        return self._states.to_cache(past)

    def cache_to_past(self, cache: Any) -> Any:
        """Take the cache apart; see `OnnxConfig`."""
        return self._states.from_cache(cache)

    def _look_at(self, model: Any, preprocessor: Any) -> None:
        """Run the model once without past and note its inputs, outputs and cache."""
        import torch

        wants_past, self.use_past = self.use_past, False
        inputs = dict(self.generate_dummy_inputs(preprocessor))
        unknown = [name for name in inputs if name not in AXES]
        if unknown:
            raise UnsupportedError(f"{type(model).__name__} takes inputs that can't be described yet: {unknown}")
        order = [name for name in AXES if name in inputs]
        self._inputs = {name: AXES[name] for name in order}
        sound = next((name for name in _SOUNDS if name in inputs), None)
        mask = inputs.get("attention_mask")
        if sound and mask is not None and mask.shape[1] == inputs[sound].shape[1]:
            self._inputs |= {name: {0: "batch", 1: "audio_sequence"} for name in (sound, "attention_mask")}
        flags = {"use_cache": True} if wants_past else {}
        with torch.no_grad():
            result = self.run(model, {**move(inputs, model), **flags})
        names = [name for name, value in result.items() if isinstance(value, torch.Tensor)]
        self._outputs = {name: {0: "batch"} for name in names if name not in (*_NOT_OUTPUTS, *inputs)}
        if wants_past:
            self._states = self.describe_states(model, result.get(PAST))
        self.use_past = wants_past


def _has_both(preprocessor: Any) -> bool:
    """Say whether a processor prepares texts and pictures."""
    return all(getattr(preprocessor, part, None) is not None for part in ("tokenizer", "image_processor"))


def move(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Return inputs on a model's device, those of floating point in its dtype."""
    device, dtype = next(model.parameters()).device, model.dtype
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}
