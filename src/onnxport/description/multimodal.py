"""Describe the graphs of a model that generates text from images or audio beside a prompt.

An encoder per medium gives one state for each of the places that the medium takes in the text, `embed_tokens` gives the
states of the tokens, and the decoder takes states instead of tokens; whoever runs them puts the former into the latter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.description.derived import DerivedOnnxConfig, move
from onnxport.description.dummy_inputs import DummyInput, InputContext, dummy_input, takes_videos
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EMBEDS = "inputs_embeds"


class ModalityEncoderOnnxConfig(OnnxConfig):
    """Describe what encodes images or audio.

    Args:
        model: the whole model; it is run once.
        component: `vision_encoder` or `audio_encoder`.
        preprocessor: what makes pixels or features.

    Raises:
        UnsupportedError: the model needs more than can be made, or its states can't be had in one tensor.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        super().__init__(model.config, task="default")
        part = MODALITY_ENCODERS[component]
        self._method, self._output = part.method, part.output
        self._parameters = inspect.signature(self.method_of(model)).parameters
        self._input = _input_of(self._parameters, component)
        self._axes: dict[str, Mapping[int, str]] = {self._input: self._image_axes}
        self._form = _WHOLE
        self._multiple = 1
        self._look_at(model, preprocessor)

    @property
    def inputs(self) -> Axes:
        """The pixels or features, and what else the encoder can't do without."""
        return self._axes

    @property
    def outputs(self) -> Axes:
        """The features, [batch, rows, hidden size], or [rows, hidden size] where they differ in number."""
        return {self._output: {} if self._form == _JOINED else {0: "batch"}}

    @property
    def _image_axes(self) -> Mapping[int, str]:
        """Return the dynamic axes of the pixels or features that are sure; others are found by tracing."""
        return _axes_of(self._input) if self._input in _OTHER_INPUTS[1:] else {0: "batch"}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, framework: Any = "pt", **sizes: Any
    ) -> Mapping[str, Any]:
        """Make images or audio; see `OnnxConfig`."""
        made = self._made(preprocessor, batch_size, **sizes)
        known = dummy_input(self._input)
        if self._input not in made and known is not None:
            batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
            made[self._input] = known.make(InputContext(self._config, batch, made))
        if self._input not in made:
            raise UnsupportedError(
                f"the checkpoint has no preprocessor that makes {self._input}: it can't be described"
            )
        inputs = {self._input: made[self._input]}
        for name in self._axes:
            if name not in inputs:
                inputs[name] = made[name] if hasattr(made.get(name), "shape") else self._make(name, made)
        return inputs

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and what brings its states to the size of the text's."""
        import torch

        model = model_of(forward)
        if self._form == _PROJECTED:
            return {self._output: _projected(model, self.method_of(model), arguments)}
        states = encoded(model, self.method_of(model), arguments)
        return {self._output: torch.cat(list(states)) if isinstance(states, list | tuple) else states}

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return what encodes images or audio in a model, a hook.

        Args:
            model: the whole model.
        """
        return cast("Callable[..., Any]", method_of(model, self._method))

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Change example inputs in place to what the encoder takes, a hook.

        Args:
            inputs: by name.
        """

    def _made(self, preprocessor: Any, batch_size: int = -1, **sizes: Any) -> dict[str, Any]:
        """Make inputs with the preprocessor; audio is cut where a model takes only certain lengths."""
        made = dict(super().generate_dummy_inputs(preprocessor, batch_size, framework="pt", **sizes))
        frames = dummy_input(self._input)
        if self._input == "pixel_values" and takes_videos(self._config) and frames is not None:
            made[self._input] = frames.make(InputContext(self._config, len(made[self._input]), {}))
        self.fit_inputs(made)
        if self._input in made and self._multiple > 1:
            whole = max(made[self._input].shape[1:])
            kept = whole // self._multiple * self._multiple
            for name, value in made.items():
                if hasattr(value, "shape") and whole in value.shape[1:]:
                    made[name] = value.narrow(list(value.shape).index(whole, 1), 0, kept).contiguous()
        return made

    def _make(self, name: str, inputs: Mapping[str, Any]) -> Any:
        made_by = _dummy_input(name)
        assert made_by is not None
        if name.endswith("features_mask") and "attention_mask" in inputs:  # most extractors call it so
            made = inputs["attention_mask"].bool()
        else:
            made = made_by.make(InputContext(self._config, len(inputs[self._input]), inputs))
        if name.endswith("mask") and made.dim() == 2:  # each audio clip is shorter than the one before
            for row in range(1, len(made)):
                made[row, -(made.shape[1] // 8 * row) :] = 0
        return made

    def _look_at(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Run the encoder on what it requires, and where that is too little, on all that can be made for it."""
        from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

        made = self._made(preprocessor)
        can = [name for name in self._parameters if hasattr(made.get(name), "shape") or _dummy_input(name) is not None]
        can = [name for name in can if name not in _MASKS or self._input in _OTHER_INPUTS]
        needs = [name for name in can if self._parameters[name].default is inspect.Parameter.empty]
        every = [name for name in can if name not in _IN_ITS_PLACE]
        multiples = (1, _MULTIPLE) if self._method == MODALITY_ENCODERS["audio_encoder"].method else (1,)
        for names, self._multiple in product((needs, every), multiples):
            more = {name: _axes_of(name) for name in names if name != self._input}
            self._axes = {self._input: self._image_axes, **more}
            arguments = move(dict(self.generate_dummy_inputs(preprocessor)), model)
            try:
                self._form = self._form_of(model, arguments)
                return
            except (DynamicOutputShapeException, DataDependentOutputException):  # how many there are is in the values
                self._form = _JOINED
                return
            except (TypeError, AttributeError, ValueError, KeyError, RuntimeError) as error:
                failure = error
        raise missing_inputs(model, f"{', '.join(self._axes)} to encode them", failure) from failure

    def _form_of(self, model: PreTrainedModel, arguments: Mapping[str, Any]) -> str:
        """Tell how states are given: in one tensor, or in a list, which a projector made in one tensor or didn't."""
        import torch

        with torch.no_grad():
            states = encoded(model, self.method_of(model), arguments)
        if isinstance(states, torch.Tensor):
            return _WHOLE
        if not isinstance(states, list | tuple) or not all(isinstance(one, torch.Tensor) for one in states):
            raise UnsupportedError(f"{type(model).__name__} gives its {self._input} no states, but {type(states)}")
        try:
            with torch.no_grad():
                same = _projected(model, self.method_of(model), arguments)
        except UnsupportedError:
            return _JOINED
        isomorphic = len(states) == len(same) and all(a.shape == b.shape for a, b in zip(same, states, strict=True))
        return _PROJECTED if isomorphic else _JOINED


def _input_of(parameters: Iterable[str], component: str) -> str:
    """Return what the method of an encoder calls its pixels or features."""
    usual = MODALITY_ENCODERS[component].input
    return next((name for name in (usual, *_OTHER_INPUTS) if name in parameters), usual)


def has_audio(model: PreTrainedModel, preprocessor: Any) -> bool:
    """Return whether anything makes a model's audio inputs."""
    from transformers import FeatureExtractionMixin

    method = method_of(model, MODALITY_ENCODERS["audio_encoder"].method)
    parts = [getattr(preprocessor, part, None) for part in ("feature_extractor", "audio_processor")]
    if method is None or isinstance(preprocessor, FeatureExtractionMixin) or any(part is not None for part in parts):
        return True
    return dummy_input(_input_of(inspect.signature(method).parameters, "audio_encoder")) is not None


_WHOLE, _PROJECTED, _JOINED = "whole", "projected", "joined"
"""How an encoder's states are given."""
_MULTIPLE = 64
"""Frames that audio has a multiple of where a model joins several: a power of two, as many as models join."""
_OTHER_INPUTS = ("input_values", "audio_input_ids", "flattened_patches")
_IN_ITS_PLACE = ("input_ids", "inputs_embeds", "past_key_values")
"""Parameters of a method that aren't about images and audio, or stand for others."""


def missing_inputs(model: PreTrainedModel, than: str, failure: Exception) -> UnsupportedError:
    """Return the error of an encoder that fails on all that can be made for it."""
    return UnsupportedError(
        f"{type(model).__name__} wants more than {than}, which can't be described yet "
        f"({type(failure).__name__}: {failure})"
    )


def _dummy_input(name: str) -> DummyInput | None:
    return _MASKS.get(name) or dummy_input(name)


def _whole_audios(context: InputContext) -> Any:
    """Return a mask of samples without padding."""
    import torch

    audio = context.inputs.get("input_values", context.inputs.get("input_features"))
    return torch.ones(context.batch, audio.shape[-1], dtype=torch.bool)


_MASKS = {"padding_mask": DummyInput({0: "batch"}, _whole_audios)}
"""Masks of samples, for encoders that take samples: made for them alone: other models do without."""


def _axes_of(name: str) -> Mapping[int, str]:
    made_by = _dummy_input(name)
    return made_by.axes if made_by is not None else {0: "batch"}


def method_of(model: PreTrainedModel, name: str) -> Any:
    """Return a method of a model, of the bare model inside it or of the class of that; None where none has."""
    from transformers import AutoModel

    own, inner = getattr(model, name, None), getattr(getattr(model, "model", None), name, None)
    if own is None or (inner is not None and _hands_on(own, inner)):
        own = inner
    if own is not None:
        return own
    bare = AutoModel._model_mapping.get(type(model.config), None)  # its parts have the same names
    found = getattr(bare, name, None)
    return None if found is None or isinstance(model, bare) else MethodType(found, model)


def _hands_on(own: Any, inner: Any) -> bool:
    """Say whether a method leaves it to another to name its parameters."""
    names = inspect.signature(own).parameters
    needs = (name for name, p in inspect.signature(inner).parameters.items() if p.default is inspect.Parameter.empty)
    kinds = {parameter.kind for parameter in names.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds and any(name not in names for name in needs if name != "kwargs")


def language_model(model: PreTrainedModel) -> Any:
    """Return what writes the text from states: a model inside, where that is one that generates by itself."""
    found = (getattr(model, name, None) for name in ("language_model", "text_model"))
    inner: Any = next((part for part in found if part is not None), None)
    heads = hasattr(inner, "can_generate") and inner.can_generate()
    takes = heads and _EMBEDS in inspect.signature(type(inner).forward).parameters
    return inner if takes and not inner.config.is_encoder_decoder else model


def encoded(model: PreTrainedModel, encode: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the features that a method returns, in the hidden size of the decoder.

    It returns them alone, or in an output with fields; where the model projects them later, they are projected here.
    """
    known = {"sample": False, "padding_mask": None}  # no noise of training; frames have a mask of their own
    more = {name: value for name, value in known.items() if name in inspect.signature(encode).parameters}
    returned = encode(**{**more, **arguments}, return_dict=True)
    states = getattr(returned, "pooler_output", returned)
    if states is not None or not hasattr(returned, "last_hidden_state"):
        return states
    states, size = returned.last_hidden_state, model.get_input_embeddings().weight.shape[1]
    projector = _projector(model)
    return states if projector is None or states.shape[-1] == size else projector(states)


def _projector(model: PreTrainedModel) -> Any:
    return next((module for name, module in model.named_modules() if name.endswith(_PROJECTORS)), None)


class ImageSizesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an encoder that takes the sizes of images, and crops them: it gets one whole image."""

    @property
    def default_batch_size(self) -> int:
        """One image."""
        return 1

    @property
    def inputs(self) -> Axes:
        """The image, [1, channels, height, width]."""
        return {self._input: {2: "height", 3: "width"}}

    @property
    def outputs(self) -> Axes:
        """Its features, [rows, hidden size]."""
        return {self._output: {}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, framework: Any = "pt", **sizes: Any
    ) -> Mapping[str, Any]:
        """Make an image; see `OnnxConfig`."""
        return {self._input: self._made(preprocessor, 1)[self._input][:1]}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder on an image that is as large as it is."""
        import torch

        height, width = arguments[self._input].shape[-2:]
        named = {**arguments, "image_sizes": [(height, width)]}
        model = model_of(forward)
        states = encoded(model, self.method_of(model), named)
        return {self._output: torch.cat(list(states)) if isinstance(states, list | tuple) else states}

    def _look_at(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Leave it to the capture: how large an image is isn't in its values."""

    @staticmethod
    def fits(model: PreTrainedModel, component: str) -> bool:
        """Return whether a model's encoder requires the sizes of images."""
        parameters = inspect.signature(method_of(model, MODALITY_ENCODERS[component].method)).parameters
        return "image_sizes" in parameters and parameters["image_sizes"].default is inspect.Parameter.empty


def _projected(model: PreTrainedModel, encode: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the output of a model's projector as one tensor: the model splits it by image.

    Raises:
        UnsupportedError: it has no projector, or does more than that with its output.
    """

    def whole(_: Any, __: Any, output: Any) -> list[Any]:
        return [output]

    projector = _projector(model)
    if projector is None:
        raise UnsupportedError(f"{type(model).__name__} has no {' or '.join(_PROJECTORS)}: it can't be described yet")
    handle = projector.register_forward_hook(whole)
    try:
        (states,) = encoded(model, encode, arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UnsupportedError(
            f"{type(model).__name__} returns features of another shape for each image or audio clip, which can't be "
            "described yet"
        ) from error
    finally:
        handle.remove()
    return states


_PROJECTORS = ("multi_modal_projector",)


class EmbeddingOnnxConfig(OnnxConfig):
    """Describe what turns tokens into states."""

    @property
    def inputs(self) -> Axes:
        """The tokens."""
        return {"input_ids": {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Their states, [batch, tokens, size]."""
        return {_EMBEDS: {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:
        """Make tokens; see `OnnxConfig`."""
        made = super().generate_dummy_inputs(preprocessor, *sizes, **{**named, "framework": "pt"})
        return {"input_ids": made["input_ids"]}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Look the tokens up."""
        model = model_of(forward)
        return {_EMBEDS: model.get_input_embeddings()(arguments["input_ids"])}


class EmbedsDecoderOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder that takes states instead of tokens.

    Args:
        model: the whole model; it is run once.
        preprocessor: whose tokenizer makes texts.
        last_logits: whether the graph gives the logits of the last token only.
        use_past: whether the graph takes and gives the key/value cache.

    Raises:
        UnsupportedError: it keeps no keys and values of every layer.
    """

    def __init__(
        self, model: PreTrainedModel, preprocessor: Any, last_logits: bool = False, use_past: bool = True
    ) -> None:
        self._size = model.get_input_embeddings().weight.shape[1]
        super().__init__(model, preprocessor, use_past=use_past, last_logits=last_logits)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make states of a text, and what else the decoder takes."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        tokens = made.pop("input_ids", None)
        if tokens is None:
            return made
        if "token_type_ids" in self._parameters:  # which tokens are an image's: they attend to each other
            made["token_type_ids"] = torch.zeros_like(tokens)
            made["token_type_ids"][:, 1:3] = 1
        return {_EMBEDS: torch.zeros(*tokens.shape, self._size), **made}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor


class DeepstackDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder some of whose layers each add features of the images."""

    @property
    def _adding(self) -> Sequence[int]:
        """The numbers of the layers that add."""
        raise NotImplementedError

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """As of any such decoder, and `deepstack_embeds` [such layers, batch, tokens, size], zero for a text."""
        return {**super().inputs, "deepstack_embeds": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make what the decoder takes, with something to add."""
        import torch

        made = dict(super().generate_dummy_inputs(*arguments, **named))
        noise = torch.Generator().manual_seed(0)
        made["deepstack_embeds"] = torch.randn(len(self._adding), *made["inputs_embeds"].shape, generator=noise)
        return made
