"""A description for any model: inputs from forward's parameters and the preprocessor, outputs from one run.

Used where no hand-written description exists, and for every decoder that is exported for generation: those get the
names that today's clients expect, `position_ids` among them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs._dummies import extend_mask
from onnxport.configs._past import OnnxConfigWithPast
from onnxport.configs._patching import PatchingSpec
from onnxport.description import _linear_attention as recurrences
from onnxport.description.arguments import PAST
from onnxport.description.cache_layout import CACHE_NAMES, CacheLayout
from onnxport.description.dummy_inputs import (
    PLACES,
    DummyInput,
    InputContext,
    asked_for,
    dummy_input,
    places_before,
    takes_cameras,
    takes_frames,
)
from onnxport.description.fitting import fit, fitted_axes
from onnxport.description.tasks import PAST_SUFFIX
from onnxport.description.text_configs import text_config_of
from onnxport.errors import OnnxportError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

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
_DIMENSIONS = {"pixel_values": 4, "input_values": 2, "input_features": 3}
"""How many axes an input has whose axes are labelled above."""
_AUDIOS = ("input_values", "input_features")
_DECODER = "decoder_input_ids"
_TRAJECTORY = ("states", "actions", "rewards", "returns_to_go", "timesteps")
_DRAWN = ("noise", "noise_sequence")
"""Parameters that a forward draws by chance where they aren't given."""
_SPEAKING = ("decoder_input_values", "speaker_embeddings")
_ALWAYS = (
    *("input_points", "input_labels", "global_attention_mask", "image_embeds_position_mask"),
    *("image_attention_mask", "timestep", *_TRAJECTORY, *_DRAWN, *_SPEAKING),
)
"""Parameters that a forward does without, and a user doesn't."""
_MASKS = ("input_features_mask",)
"""Parameters that a forward can't do without although it has a default for them."""
_REPLACED = ("token_type_ids", "pixel_values")
"""Inputs that are made here although the preprocessor makes them."""
_CHOICES = {0: "batch", 1: "choice", 2: "sequence"}
_TRIES = 5
"""How often a model is run with one more of the inputs that it asks for."""
_NOT_OUTPUTS = ("loss", "hidden_states", "attentions", "rope_deltas", *CACHE_NAMES)


class DerivedOnnxConfig(OnnxConfigWithPast):
    """Describe a model by looking at it.

    Attributes:
        cache_names: what the model may call its cache.
        attn_implementation: the attention to export, None for the model's own choice.
        dummy_inputs: example inputs that no preprocessor makes and that the model always takes, by parameter name.

    Args:
        model: a Transformers model; it is run once, on two short examples.
        preprocessor: its tokenizer, processor, image processor or feature extractor.
        use_past: whether the graph takes and gives the key/value cache.
        last_logits: whether the graph gives the logits of the last token only.
        chooses: whether each text stands for several, one of which the model chooses.

    Raises:
        UnsupportedError: the model's inputs or its cache can't be described, or it can't give the last logits only.
    """

    cache_names: ClassVar[tuple[str, ...]] = CACHE_NAMES
    attn_implementation: ClassVar[str | None] = None
    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {}

    def __init__(
        self,
        model: PreTrainedModel,
        preprocessor: Any,
        use_past: bool = False,
        last_logits: bool = False,
        chooses: bool = False,
    ) -> None:
        super().__init__(model.config, "multiple-choice" if chooses else "default", self.patches_of(model), use_past)
        self._parameters = self.parameters_of(model)
        known = inspect.signature(type(model).forward).parameters
        parameters = {name: known[name] for name in self._parameters if name in known}
        self._decodes = model.config.is_encoder_decoder and _DECODER in parameters
        self._added = _needed(model, parameters, self._decodes)
        self._added += [name for name in self.dummy_inputs if name in parameters and name not in self._added]
        text = text_config_of(model.config)
        if getattr(text, "use_bidirectional_attention", False) and "token_type_ids" in parameters and not use_past:
            self._added.append("token_type_ids")  # which tokens see what follows: PaliGemma's prefix
        if use_past and "attention_mask" not in known and "kwargs" in known:  # it is handed on to what generates
            self._parameters = (*self._parameters, "attention_mask")
        self._dropped: set[str] = set()
        main = model.main_input_name
        self._inputs: dict[str, Mapping[int, str]] = {  # chooses the part of a processor
            name: {} for name in ([main] if isinstance(main, str) else main)
        }
        self._outputs: dict[str, Mapping[int, str]] = {}
        self._parts = _parts(model, preprocessor, parameters)
        made_here = "input_ids" in parameters and "pixel_values" in self._added
        if not self._parts and made_here and getattr(preprocessor, "tokenizer", None) is not None:
            self._parts = ("tokenizer",)
        self._states = CacheLayout((), 0)
        self._cache_name = next((name for name in self.cache_names if name in self._parameters), PAST)
        self._more: dict[str, Any] = {"logits_to_keep": 1} if last_logits else {}
        if last_logits and "logits_to_keep" not in self._parameters:
            raise UnsupportedError(f"{type(model).__name__} computes the logits of all tokens: leave out --last-logits")
        if "sample" in self._parameters:  # noise on the encoding of audio, for training
            self._more["sample"] = False
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
    def multiples(self) -> frozenset[str]:
        """All of them: audio inputs fit each other, and their text."""
        return frozenset(self._inputs)

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Outputs of the graph, in order; their axes are found by tracing."""
        outputs = dict(self._outputs)
        if self.use_past:
            outputs.update(self._states.named("outputs"))
        return outputs

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Fields of the model's configuration while it runs; see `OnnxConfig`."""
        chosen = {"_attn_implementation": self.attn_implementation} if self.attn_implementation else {}
        return {**super().model_values, **chosen}

    @property
    def is_plain(self) -> bool:
        """Whether one preprocessor makes the inputs, and the model is run on them as it is."""
        special = self.use_past or self._parts or self._added or self._forgets or self._more or self._patching_specs
        return type(self) is DerivedOnnxConfig and self.task == "default" and not special and not self._is_fitted

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
        parts = [getattr(tokenizer, part) for part in self._parts] or [tokenizer]
        made: dict[str, Any] = {}
        for part in parts:
            made = {**generate(part, batch_size, seq_length, is_pair=is_pair, framework="pt"), **made}  # a text's mask
        wanted = set(self._parameters) - self._dropped
        inputs = {name: value for name, value in made.items() if name in wanted and hasattr(value, "shape")}
        self._add_dummy_inputs(inputs)
        fit(self._config, self._parameters, inputs)
        self.fit_inputs(inputs)
        tokens = inputs.get("input_ids")
        if tokens is not None:
            inputs["input_ids"] = self.to_codes(tokens)
        if not self._generates or tokens is None:
            return inputs
        if "token_type_ids" not in self._added:
            inputs.pop("token_type_ids", None)
        batch, length = tokens.shape
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
        kept = logits[-1:] if "logits_to_keep" in self._more else logits
        return {**result, "logits": torch.cat(kept, dim=1)}

    def _run_once(self, forward: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
        named = {self._cache_name if name == PAST else name: value for name, value in arguments.items()}
        if PAST in arguments and not self._states.grows:  # a mask of earlier tokens has nothing to hide
            tokens = named["input_ids"] if "input_ids" in named else named["inputs_embeds"]
            named["attention_mask"] = named["attention_mask"][:, -tokens.shape[1] :]
        result = super().run(forward, {**named, **self._more})
        if not any(_tensors(result)):
            result = _opened(result)
        given = {} if self._generates else {name: f"encoder_{name}" for name in named}  # a mask that it hands on
        return {PAST if name == self._cache_name else given.get(name, name): value for name, value in result.items()}

    def flatten_output_collection_property(  # type: ignore[override]  # an instance method in the original, too
        self, name: str, field: Any
    ) -> dict[str, Any]:
        """Name the tensors of a cache's layers; flatten anything else as the base does."""
        if name in (PAST, "present") and self.use_past:
            return self._states.flattened("inputs" if name == PAST else "outputs", field)
        if _is_row(field):
            return {f"{name}.{index}": item for index, item in enumerate(field)}
        return super().flatten_output_collection_property(name, field)

    def patches_of(self, model: PreTrainedModel) -> list[PatchingSpec]:
        """Return what is replaced in the model's code while it is traced; a hook."""
        return recurrences.patches_of(model)

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Name what the model takes; a hook."""
        return (*inspect.signature(type(model).forward).parameters, *_handed_on(model))

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Change example inputs in place to what the model takes; a hook.

        Args:
            inputs: by name.
        """

    def to_codes(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return token ids in the form that the model takes, several codes of a codec for each step; a hook.

        Args:
            input_ids: [batch, sequence].
        """
        return input_ids

    def knows_recurrence(self, model: PreTrainedModel) -> bool:
        """Return whether the trace of the model's recurrence is right for any number of tokens; a hook.

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
            UnsupportedError: it can't be described.
        """
        states = CacheLayout.of(model, cache)
        if states.recurs and not self.knows_recurrence(model):
            raise UnsupportedError(
                f"{type(model).__name__} computes its states in a way that isn't known here, so it can't be "
                f"exported with past; name the task without {PAST_SUFFIX}, or add --no-past where it is inferred"
            )
        return states

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Build the cache; see `OnnxConfig`."""
        return self._states.to_cache(past)

    def cache_to_past(self, cache: Any) -> Any:
        """Take the cache apart; see `OnnxConfig`."""
        return self._states.from_cache(cache)

    def _has_places(self, inputs: Mapping[str, Any]) -> bool:
        """Return whether a prompt begins with a placeholder token for each feature of its images."""
        if "image_embeds_position_mask" in self._added:
            return True
        if "use_image_text_matching_head" in self._parameters:  # BLIP-2's, unless its token is an older one's
            return getattr(self._config, "image_token_index", None) is not None
        return "pixel_values" in (*inputs, *self._added) and hasattr(self._config, "vlm_config")

    def _dummy_input(self, name: str) -> DummyInput | None:
        return self.dummy_inputs.get(name) or dummy_input(name)

    def _add_dummy_inputs(self, inputs: dict[str, Any]) -> None:
        """Add what no preprocessor makes."""
        import torch

        if self._has_places(inputs):
            places, token = places_before(self._config)
            for name, value in (("input_ids", token), ("attention_mask", 1)):
                first = inputs[name][:, :1] if value is None else torch.full_like(inputs[name][:, :1], value)
                inputs[name] = torch.cat([first.expand(-1, places), inputs[name]], dim=1)
        for name in self._added:
            made_by = self._dummy_input(name)
            if made_by is not None and (name not in inputs or name in _REPLACED):
                batch = next((len(value) for value in inputs.values()), self.default_batch_size)
                inputs[name] = made_by.make(InputContext(self._config, batch, inputs))
        if "flattened_patches" in inputs and "attention_mask" in self._parameters:  # it hides patches, no tokens
            inputs["attention_mask"] = (
                inputs["flattened_patches"].new_ones(inputs["flattened_patches"].shape[:2]).long()
            )

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        """Label the axes of inputs, in the order of the tables."""
        known = {name: self._dummy_input(name) for name in inputs}
        axes: dict[str, Mapping[int, str]] = {name: AXES[name] for name in AXES if name in inputs}
        for name, usual in _DIMENSIONS.items():
            if name in inputs and inputs[name].dim() != usual:  # frames of a video, patches, channels of audio
                axes[name] = {0: "batch"}
        axes |= fitted_axes(self._config, inputs)
        for name, counted in (("pixel_position_ids", "patches"), ("image_attention_mask", "num_images")):
            if name in inputs:
                axes["pixel_values"] = {0: "batch", 1: counted}
        if _DECODER in inputs and inputs[_DECODER].shape[1] == 1:  # a transducer's token
            axes[_DECODER] = {0: "batch"}
        axes |= {name: found.axes for name, found in known.items() if found is not None and name not in axes}
        axes |= {name: {0: "batch"} for name in inputs if name not in axes}
        if self.task == "multiple-choice":
            axes |= {name: _CHOICES for name in inputs if name in _TEXT}
        return axes

    def _look_at(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Run the model without past and note its inputs, outputs and cache.

        Where it asks for an input by name that can be made, it is run again with that.
        """
        import torch

        wants_past, self.use_past = self.use_past, False
        flags = {"use_cache": True} if wants_past else {}
        made = self.generate_dummy_inputs(preprocessor)
        self._dropped = {name for name in made if name not in AXES and not self._dummy_input(name)}
        inputs = {name: value for name, value in made.items() if name not in self._dropped}
        for _ in range(_TRIES):
            try:
                with torch.no_grad():
                    result = self.run(model, {**move(inputs, model), **flags})
                break
            except Exception as error:
                if not self._give_more(error, inputs, preprocessor):
                    if isinstance(error, OnnxportError):
                        raise
                    raise UnsupportedError(_refusal(model, list(inputs), error)) from error
                inputs = dict(self.generate_dummy_inputs(preprocessor))
        else:
            raise UnsupportedError(f"{type(model).__name__} asks for ever more inputs: {', '.join(self._added)}")
        self._inputs, self._is_fitted = self._axes_of(inputs), bool(fitted_axes(self._config, inputs))
        audio, mask = next((name for name in _AUDIOS if name in inputs), None), inputs.get("attention_mask")
        if audio and mask is not None and "input_ids" not in inputs and mask.shape[1] == inputs[audio].shape[1]:
            self._inputs |= {name: {0: "batch", 1: "audio_sequence"} for name in (audio, "attention_mask")}
        self._outputs = {name: {0: "batch"} for name in _tensors(result) if name not in inputs}
        if not self._outputs:
            raise UnsupportedError(f"{type(model).__name__} gives no tensors, only {', '.join(result) or 'nothing'}")
        if wants_past:
            kept = result.get(PAST)
            self._states = self.describe_cache(model, self._given_cache(model, inputs) if kept is None else kept)
        self.use_past = wants_past

    def _given_cache(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
        """Return the cache that a model fills that makes none by itself."""
        import torch
        from transformers import DynamicCache

        if self._cache_name not in self._parameters:
            return None
        empty = DynamicCache(config=text_config_of(model.config))
        with torch.no_grad():
            return self.run(model, {**move(dict(inputs), model), PAST: empty, "use_cache": True}).get(PAST)

    def _give_more(self, error: Exception, inputs: Mapping[str, Any], preprocessor: Any) -> bool:
        """Add inputs that a model asked for by an error; say whether there are any to add."""
        more = [name for name in asked_for(error, self._parameters) if name not in (*inputs, *_REPLACED)]
        if not more and self._decodes and _DECODER not in inputs:
            more = [_DECODER]
        if not more and "NoneType" in str(error) and "input_features" in inputs:
            more = [name for name in _MASKS if name in self._parameters and name not in inputs]
        if more:
            self._added += more
            return True
        parts = _asked_parts(error, preprocessor, [name for name in self._parameters if name not in inputs])
        if parts and parts != self._parts:
            self._parts = parts
            return True
        if self._dropped:
            self._dropped = set()
            return True
        return False


def _refusal(model: PreTrainedModel, given: list[str], error: Exception) -> str:
    """Say why a model can't be run on the inputs that could be made, and what to do."""
    name, missing = type(model).__name__, re.findall(r"'(\w+)'", str(error)) if "missing" in str(error) else []
    sessions = [parameter for parameter in missing if parameter.endswith("session")]
    if sessions:
        return (
            f"{name} keeps its state between calls in an object ({', '.join(sessions)}), which no graph can take; "
            "choose a task whose model works on one image at a time, such as mask-generation"
        )
    message = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    reason = f"can't be run on {' and '.join(given)} alone ({message})"
    if missing:
        reason = f"also takes {' and '.join(missing)}, and no example of that can be made here"
    return (
        f"{name} {reason}; describe its inputs in an OnnxConfig of your own "
        "(docs/api.md; onnxport describe --python prints one of a like model to start from)"
    )


def _tensors(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of what a model gives, those of a row of tensors numbered."""
    import torch

    for name, value in result.items():
        if name in _NOT_OUTPUTS or (
            name.endswith(("hidden_states", "attentions")) and not isinstance(value, torch.Tensor)
        ):
            continue
        if isinstance(value, torch.Tensor):
            yield name
        elif _is_row(value):
            yield from (f"{name}.{index}" for index in range(len(value)))


def _opened(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of what a model gives that are inside what its parts give (InstructBLIP)."""
    import torch

    parts = {name: value for name, value in result.items() if isinstance(value, Mapping)}
    inner = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return {**result, **{name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}}


def _is_row(value: Any) -> bool:
    """Say whether a value is several tensors, one after another."""
    import torch

    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, torch.Tensor) for item in value)


def _needed(model: PreTrainedModel, parameters: Mapping[str, inspect.Parameter], decodes: bool) -> list[str]:
    """Name the dummy inputs that a model needs from the start, in the order in which they are made."""
    config = model.config
    added = [name for name, parameter in parameters.items() if dummy_input(name) and _is_needed(name, parameter)]
    if decodes and (model.can_generate() or "labels" not in parameters):
        added.append(_DECODER)
    if _DECODER in parameters and hasattr(config, "canvas_length"):  # tokens that it refines, drawn by chance
        added.append(_DECODER)
    if hasattr(config, "type_vocab_sizes"):  # several kinds for each token, which no tokenizer here makes
        added.append("token_type_ids")
    added += _handed_on(model)
    cameras = takes_cameras(config)
    if cameras:  # its actions are for training
        added = [*(name for name in added if name != "actions"), "pixel_attention_mask"]
    if "noise" in added and not (cameras or hasattr(config, "norm_pix_loss")):  # neither moves, nor hides patches
        added.remove("noise")
    if "pixel_values" in added:
        added.remove("pixel_values")
    several = "perceiver_embeddings" in parameters  # IDEFICS: several images for each text
    if "image_attention_mask" in added and not several:  # another mask, as of FLAVA
        added.remove("image_attention_mask")
    replaced = takes_frames(config) or cameras or several or "pixel_position_ids" in parameters
    first = ["pixel_values"] if replaced and "pixel_values" in parameters else []  # masks are made after it
    return first + added


def _handed_on(model: PreTrainedModel) -> list[str]:
    """Name what a retriever takes without saying so, and hands on to the model in it (ColPali)."""
    inner, own = getattr(model, "vlm", None), inspect.signature(type(model).forward).parameters
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())
    if inner is None or takes_cameras(model.config) or not takes_more:
        return []
    known = inspect.signature(type(inner).forward).parameters
    return [name for name in ("token_type_ids",) if name in known and name not in own and "input_ids" in own]


def _is_needed(name: str, parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or name in _ALWAYS


def _parts(model: PreTrainedModel, preprocessor: Any, parameters: Mapping[str, inspect.Parameter]) -> tuple[str, ...]:
    """Name the parts of a processor that make a model's inputs; none where one part does, which its inputs choose.

    A model that compares texts with images or audio takes both. One that replaces placeholder tokens by images
    takes texts alone: its graphs with past take both.
    """
    if "input_ids" not in parameters:
        return ()
    for part, names in _with_tokenizer(preprocessor):
        name = next((name for name in names if name in parameters), None)
        if name is None:
            continue
        required = parameters[name].default is inspect.Parameter.empty or name in model.main_input_name
        places = any(getattr(model.config, place, None) is not None for place in PLACES)
        if required or not (model.can_generate() or places):
            return ("tokenizer", part)
    return ()


def _with_tokenizer(preprocessor: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the parts that a processor has beside a tokenizer, each with the inputs that it may make."""
    for part, names in (("image_processor", ("pixel_values",)), ("feature_extractor", _AUDIOS)):
        if all(getattr(preprocessor, kind, None) is not None for kind in ("tokenizer", part)):
            yield part, names


def _asked_parts(error: Exception, preprocessor: Any, parameters: list[str]) -> tuple[str, ...]:
    """Name the parts of a processor that make a text and the medium that an error's text names; none where it does not.

    Such models say what they lack, or that there is none of it: they can't be run with a text alone.
    """
    words = set(re.findall(r"\w+", str(error)))
    for part, names in _with_tokenizer(preprocessor):
        if any(not words.isdisjoint((name, "NoneType")) and name in parameters for name in names):
            return ("tokenizer", part)
    return ()


def move(inputs: Mapping[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return inputs on a model's device, those of floating point in its dtype."""
    device, dtype = next(model.parameters()).device, model.dtype
    return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}
