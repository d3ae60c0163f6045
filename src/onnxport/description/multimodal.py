"""Describe the graphs of a model that generates text from a prompt with images or audio.

The encoder of each modality returns one embedding per placeholder token, `embed_tokens` returns the embeddings of token
ids, and the decoder takes `inputs_embeds`. The runtime merges the encoders' embeddings into those of the prompt.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import product
from types import MethodType
from typing import TYPE_CHECKING, Any, cast

from onnxport._transformers_api import CACHE_NAMES
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.components import MODALITY_ENCODERS
from onnxport.description.derived import DerivedOnnxConfig, move
from onnxport.description.dummy_inputs import DummyInput, InputContext, dummy_input, takes_videos
from onnxport.description.joined_features import keeping_features_joined
from onnxport.description.text_configs import text_config_of
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EMBEDS = "inputs_embeds"


class ModalityEncoderOnnxConfig(OnnxConfig):
    """Describe the encoder of images or audio of a multimodal model.

    Args:
        model: the multimodal model; its encoder is run once.
        component: `vision_encoder` or `audio_encoder`.
        preprocessor: makes `pixel_values` or `input_features`.

    Raises:
        UnsupportedError: there are no dummies of some required inputs, or the features aren't tensors.
    """

    def __init__(self, model: PreTrainedModel, component: str, preprocessor: Any) -> None:
        super().__init__(model.config, task="default")
        part = MODALITY_ENCODERS[component]
        self._method, self._output = part.method, part.output
        self._parameters = inspect.signature(self.method_of(model)).parameters
        self._input = _main_input_of(self._parameters, component)
        self._frame_multiple, self._takes_tiles = 1, False
        self._axes: dict[str, Mapping[int, str]] = {self._input: self._image_axes}
        self._output_format = _ONE_TENSOR
        self._inspect_forward(model, preprocessor)

    @property
    def inputs(self) -> Axes:
        """The pixel values or audio features, and the encoder's other required inputs."""
        return self._axes

    @property
    def outputs(self) -> Axes:
        """The features, [batch, features, hidden_size]; [features, hidden_size] if their count differs by sample."""
        return {self._output: {} if self._output_format == _CONCATENATED else {0: "batch"}}

    @property
    def _image_axes(self) -> Mapping[int, str]:
        """Return the known dynamic axes of the pixel values or audio features; tracing finds the others."""
        if self._takes_tiles:
            return {0: "batch", 1: "num_tiles"}
        return _axes_of(self._input) if self._input in _ALTERNATIVE_INPUTS[1:] else {0: "batch"}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, framework: Any = "pt", **sizes: Any
    ) -> Mapping[str, Any]:
        """Make images or audio; see `OnnxConfig`."""
        available = self._preprocessed(preprocessor, batch_size, **sizes)
        dummy = dummy_input(self._input)
        if self._input not in available and dummy is not None:
            batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
            available[self._input] = dummy.make(InputContext(self._config, batch, available))
        if self._input not in available:
            raise UnsupportedError(
                f"the checkpoint has no preprocessor that returns {self._input}: it can't be described"
            )
        inputs = {self._input: available[self._input]}
        for name in self._axes:
            if name not in inputs:
                is_tensor = hasattr(available.get(name), "shape")
                inputs[name] = available[name] if is_tensor else self._make_input(name, available)
        return inputs

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder and the projection to the decoder's hidden size."""
        import torch

        model = model_of(forward)
        if self._output_format == _PROJECTOR_OUTPUT:
            return {self._output: _projector_output(model, self.method_of(model), arguments)}
        unsplit = self._output_format == _CONCATENATED and torch.compiler.is_exporting()
        with keeping_features_joined() if unsplit else nullcontext():
            features = encoded(model, self.method_of(model), arguments)
        return {self._output: torch.cat(list(features)) if isinstance(features, list | tuple) else features}

    def method_of(self, model: PreTrainedModel) -> Callable[..., Any]:
        """Return the method that encodes images or audio, such as `get_image_features`; a hook.

        Args:
            model: the multimodal model.
        """
        return cast("Callable[..., Any]", method_of(model, self._method))

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Change dummy inputs in place to what the encoder takes; a hook.

        Args:
            inputs: dummy inputs by name.
        """

    def _preprocessed(self, preprocessor: Any, batch_size: int = -1, **sizes: Any) -> dict[str, Any]:
        """Make inputs with the preprocessor; truncate audio to a multiple of `_frame_multiple` frames."""
        inputs = dict(super().generate_dummy_inputs(preprocessor, batch_size, framework="pt", **sizes))
        frames = dummy_input(self._input)
        if self._input == "pixel_values" and takes_videos(self._config) and frames is not None:
            batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
            count = len(inputs.get(self._input, range(batch)))  # without an image processor, the batch
            inputs[self._input] = frames.make(InputContext(self._config, count, {}))
        if self._takes_tiles and getattr(inputs.get(self._input), "ndim", 0) == _IMAGES_RANK:
            inputs[self._input] = inputs[self._input][:, None].repeat_interleave(2, 1)
        self.fit_inputs(inputs)
        if self._input in inputs and self._frame_multiple > 1:
            length = max(inputs[self._input].shape[1:])
            truncated = length // self._frame_multiple * self._frame_multiple
            for name, value in inputs.items():
                if hasattr(value, "shape") and length in value.shape[1:]:
                    inputs[name] = value.narrow(list(value.shape).index(length, 1), 0, truncated).contiguous()
        return inputs

    def _make_input(self, name: str, inputs: Mapping[str, Any]) -> Any:
        dummy = _dummy_input(name)
        assert dummy is not None
        if name.endswith("features_mask") and "attention_mask" in inputs:  # the name that most feature extractors use
            tensor = inputs["attention_mask"].bool()
        else:
            tensor = dummy.make(InputContext(self._config, len(inputs[self._input]), inputs))
        if name.endswith("mask") and tensor.dim() == 2:  # each audio clip is shorter than the one before
            for index in range(1, len(tensor)):
                tensor[index, tensor.shape[1] - tensor.shape[1] // 8 * index :] = 0
        return tensor

    def _inspect_forward(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Run the encoder on its required inputs and, if that fails, on all inputs that have dummies.

        Images are tried as [batch, channels, height, width], then with an axis of tiles after the batch.
        """
        from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

        available = self._preprocessed(preprocessor)
        known = [n for n in self._parameters if hasattr(available.get(n), "shape") or _dummy_input(n) is not None]
        known = [name for name in known if name not in _SAMPLE_MASKS or self._input in _ALTERNATIVE_INPUTS]
        required = [name for name in known if self._parameters[name].default is inspect.Parameter.empty]
        every = [name for name in known if name not in _EXCLUDED_PARAMETERS]
        is_audio = self._method == MODALITY_ENCODERS["audio_encoder"].method
        formats = ((1, False), (_FRAME_MULTIPLE, False)) if is_audio else ((1, False), (1, True))
        for names, (self._frame_multiple, self._takes_tiles) in product((required, every), formats):
            others = {name: self._mask_axes(name, available) for name in names if name != self._input}
            patches = {1: "patches"} if any(axes.get(1) == "patches" for axes in others.values()) else {}
            self._axes = {self._input: {**self._image_axes, **patches, **self._time_axis(available)}, **others}
            arguments = move(dict(self.generate_dummy_inputs(preprocessor)), model)
            try:
                self._output_format = self._output_format_of(model, arguments)
                return
            except (DynamicOutputShapeException, DataDependentOutputException):  # a data-dependent number of features
                self._output_format = _CONCATENATED
                return
            except (TypeError, AttributeError, ValueError, KeyError, RuntimeError) as error:
                failure = error
        raise missing_inputs(model, f"{', '.join(self._axes)} to encode them", failure) from failure

    def _time_axis(self, inputs: Mapping[str, Any]) -> dict[int, str]:
        """Return the axis of an audio encoder's frames or samples, with its label; empty for images.

        A mask covers it; without a mask, it is the longest.
        """
        sizes = list(getattr(inputs.get(self._input), "shape", ())[1:])
        if self._method != MODALITY_ENCODERS["audio_encoder"].method or not sizes:
            return {}
        shapes = [tuple(getattr(value, "shape", ())) for name, value in inputs.items() if name.endswith("mask")]
        masked = (shape[1] for shape in shapes if len(shape) == 2 and shape[1] in sizes)
        return {1 + sizes.index(next(masked, max(sizes))): "audio_sequence"}

    def _mask_axes(self, name: str, inputs: Mapping[str, Any]) -> Mapping[int, str]:
        """Return the dynamic axes of another input; those of a mask of frames are the frames'."""
        time = self._time_axis(inputs)
        return {0: "batch", 1: "audio_sequence"} if time and name.endswith("mask") else _axes_of(name)

    def _output_format_of(self, model: PreTrainedModel, arguments: Mapping[str, Any]) -> str:
        """Return the format of the features: a tensor, the projector's output split by sample, or a list of tensors."""
        import torch

        with torch.no_grad():
            features = encoded(model, self.method_of(model), arguments)
        if isinstance(features, torch.Tensor):
            return _ONE_TENSOR
        if not isinstance(features, list | tuple) or not all(isinstance(item, torch.Tensor) for item in features):
            raise UnsupportedError(
                f"{type(model).__name__} returns a {type(features).__name__} for {self._input}, not a tensor or tensors"
            )
        try:
            with torch.no_grad():
                joint = _projector_output(model, self.method_of(model), arguments)
        except UnsupportedError:
            return _CONCATENATED
        is_split = len(features) == len(joint) and all(a.shape == b.shape for a, b in zip(joint, features, strict=True))
        return _PROJECTOR_OUTPUT if is_split else _CONCATENATED


def _main_input_of(parameters: Iterable[str], component: str) -> str:
    """Return the name of an encoder's main input, the pixel values or audio features."""
    default = MODALITY_ENCODERS[component].input
    return next((name for name in (default, *_ALTERNATIVE_INPUTS) if name in parameters), default)


def has_audio(model: PreTrainedModel, preprocessor: Any) -> bool:
    """Return whether a model's audio inputs can be made: by the preprocessor, or as dummies."""
    from transformers import FeatureExtractionMixin

    method = method_of(model, MODALITY_ENCODERS["audio_encoder"].method)
    extractors = [getattr(preprocessor, name, None) for name in ("feature_extractor", "audio_processor")]
    if method is None or isinstance(preprocessor, FeatureExtractionMixin) or any(e is not None for e in extractors):
        return True
    return dummy_input(_main_input_of(inspect.signature(method).parameters, "audio_encoder")) is not None


_ONE_TENSOR, _PROJECTOR_OUTPUT, _CONCATENATED = "tensor", "projected", "concatenated"
"""Formats in which encoders return features."""
_FRAME_MULTIPLE = 64
"""Dummy audio is truncated to a multiple of this many frames for models that merge frames: a power of two, at least as
many as models merge."""
_IMAGES_RANK = 4
"""Rank of a batch of images: [batch, channels, height, width]."""
_ALTERNATIVE_INPUTS = ("input_values", "audio_input_ids", "flattened_patches")
_EXCLUDED_PARAMETERS = ("input_ids", "inputs_embeds", *CACHE_NAMES)
"""Parameters of a method that aren't image or audio inputs, or that replace other inputs."""


def missing_inputs(model: PreTrainedModel, inputs: str, failure: Exception) -> UnsupportedError:
    """Return the error for an encoder that fails on all inputs that have dummies."""
    return UnsupportedError(
        f"{type(model).__name__} requires inputs other than {inputs}, which can't be described yet "
        f"({type(failure).__name__}: {failure})"
    )


def _dummy_input(name: str) -> DummyInput | None:
    return _SAMPLE_MASKS.get(name) or dummy_input(name)


def _full_sample_mask(context: InputContext) -> Any:
    """Return the mask of audio without padding, ones of shape [batch, samples]."""
    import torch

    audio = context.inputs.get("input_values", context.inputs.get("input_features"))
    return torch.ones(context.batch, audio.shape[-1], dtype=torch.bool)


_SAMPLE_MASKS = {"padding_mask": DummyInput({0: "batch"}, _full_sample_mask)}
"""Padding masks for encoders that take raw audio samples; other models don't require them."""


def _axes_of(name: str) -> Mapping[int, str]:
    dummy = _dummy_input(name)
    return dummy.axes if dummy is not None else {0: "batch"}


def method_of(model: PreTrainedModel, name: str) -> Any:
    """Return a method of a model, of its base model or encoder, or of the base model's class bound to it.

    None if none of them has it.
    """
    from transformers import AutoModel

    method = getattr(model, name, None)
    inner = getattr(getattr(model, "model", None), name, None) or getattr(getattr(model, "encoder", None), name, None)
    if method is None or (inner is not None and _forwards_kwargs(method, inner)):
        method = inner
    if method is not None:
        return method
    base_class = AutoModel._model_mapping.get(type(model.config), None)  # its submodules have the same names
    function = getattr(base_class, name, None)
    return None if function is None or isinstance(model, base_class) else MethodType(function, model)


def _forwards_kwargs(outer: Any, inner: Any) -> bool:
    """Return whether a method passes required parameters of another through its **kwargs."""
    names = inspect.signature(outer).parameters
    required = (name for name, p in inspect.signature(inner).parameters.items() if p.default is inspect.Parameter.empty)
    kinds = {parameter.kind for parameter in names.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds and any(name not in names for name in required if name != "kwargs")


def language_model(model: PreTrainedModel) -> Any:
    """Return the submodel that generates text from `inputs_embeds`; the model itself if none has a head of its own."""
    submodels = (getattr(model, name, None) for name in ("language_model", "text_model"))
    inner: Any = next((submodel for submodel in submodels if submodel is not None), None)
    generates = hasattr(inner, "can_generate") and inner.can_generate()
    takes_embeds = generates and EMBEDS in inspect.signature(type(inner).forward).parameters
    return inner if takes_embeds and not inner.config.is_encoder_decoder else model


def encoded(model: PreTrainedModel, encode: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the features that a method returns, in the hidden size of the decoder.

    The method returns a tensor or a ModelOutput. Features that the model's forward projects later are projected here,
    and those that it leaves out later, of the padding in an output `attention_mask` (Gemma 4's audio), are left out.
    OmniASR's method leaves them out itself, and returns [frames, hidden_size].
    """
    defaults = {"sample": False, "padding_mask": None}  # no training noise; frames have another mask
    known = {name: value for name, value in defaults.items() if name in inspect.signature(encode).parameters}
    projector, calls = _projector(model), list[object]()
    handle = None if projector is None else projector.register_forward_pre_hook(lambda module, _: calls.append(module))
    try:
        outputs = encode(**{**known, **arguments}, return_dict=True)
    finally:
        if handle is not None:
            handle.remove()
    features, mask = getattr(outputs, "pooler_output", outputs), getattr(outputs, "attention_mask", None)
    if mask is not None and features is not None and features.dim() > mask.dim():
        return [features[mask.bool()]]
    if features is not None or not hasattr(outputs, "last_hidden_state"):
        return features
    features = outputs.last_hidden_state
    return features if projector is None or calls else projector(features)


def _projector(model: PreTrainedModel) -> Any:
    return next((module for name, module in model.named_modules() if name.endswith(_PROJECTORS)), None)


class ImageSizesEncoderOnnxConfig(ModalityEncoderOnnxConfig):
    """Describe an encoder that takes `image_sizes` and crops each image to its size: the graph takes one image."""

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
        """Its features, [features, hidden_size]."""
        return {self._output: {}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, framework: Any = "pt", **sizes: Any
    ) -> Mapping[str, Any]:
        """Make an image; see `OnnxConfig`."""
        return {self._input: self._preprocessed(preprocessor, 1)[self._input][:1]}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the encoder with `image_sizes` from the image's shape."""
        import torch

        sizes = [tuple(arguments[self._input].shape[-2:])]
        exporting = torch.compiler.is_exporting()  # then they are symbolic integers, which no tensor keeps
        named = {**arguments, "image_sizes": sizes if exporting else torch.tensor(sizes)}
        model = model_of(forward)
        features = encoded(model, self.method_of(model), named)
        return {self._output: torch.cat(list(features)) if isinstance(features, list | tuple) else features}

    def _inspect_forward(self, model: PreTrainedModel, preprocessor: Any) -> None:
        """Do nothing: an image's size is that of its tensor, so no trial run is needed."""

    @staticmethod
    def fits(model: PreTrainedModel, component: str) -> bool:
        """Return whether a model's encoder requires the sizes of images."""
        parameters = inspect.signature(method_of(model, MODALITY_ENCODERS[component].method)).parameters
        return "image_sizes" in parameters and parameters["image_sizes"].default is inspect.Parameter.empty


def _projector_output(model: PreTrainedModel, encode: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the output of a model's projector as one tensor, which the model itself splits by image.

    Raises:
        UnsupportedError: the model has no projector, or processes its output further.
    """

    def wrap(_: Any, __: Any, output: Any) -> list[Any]:
        return [output]

    projector = _projector(model)
    if projector is None:
        raise UnsupportedError(f"{type(model).__name__} has no {' or '.join(_PROJECTORS)}: it can't be described yet")
    handle = projector.register_forward_hook(wrap)
    try:
        (features,) = encoded(model, encode, arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UnsupportedError(
            f"{type(model).__name__} returns features whose shape differs by image or audio clip, which can't be "
            "described yet"
        ) from error
    finally:
        handle.remove()
    return features


_PROJECTORS = ("multi_modal_projector",)


class EmbeddingOnnxConfig(OnnxConfig):
    """Describe a model's input embeddings."""

    @property
    def inputs(self) -> Axes:
        """The token ids, [batch, sequence]."""
        return {"input_ids": {0: "batch", 1: "sequence"}}

    @property
    def outputs(self) -> Axes:
        """Their embeddings, [batch, sequence, hidden_size]."""
        return {EMBEDS: {0: "batch", 1: "sequence"}}

    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:
        """Make token ids; see `OnnxConfig`."""
        inputs = super().generate_dummy_inputs(preprocessor, *sizes, **{**named, "framework": "pt"})
        return {"input_ids": inputs["input_ids"]}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Look up the embeddings of the token ids, as forward does."""
        model = model_of(forward)
        embeds, scale = model.get_input_embeddings()(arguments["input_ids"]), _embedding_scale(model)
        return {EMBEDS: embeds if scale == 1 else embeds * scale}


def _embedding_scale(model: PreTrainedModel) -> float:
    """Return the factor by which a forward multiplies the embeddings that it looks up, but not those it is passed.

    Marian, Pegasus and Falcon H1 have one; most models that scale embeddings do so in the embedding's module.
    """
    embedding = model.get_input_embeddings()
    owners = (module for module in model.modules() if any(child is embedding for child in module.children()))
    for owner in owners:
        source = inspect.getsource(type(owner).forward)
        scale = _SCALED_LOOKUP.search(source)
        if scale is not None and _SCALED_EMBEDS not in source:
            return float(getattr(owner, scale[1]))
    return 1.0


_SCALED_LOOKUP = re.compile(r"self\.\w+\(input_ids\) \* self\.(\w+)")
_SCALED_EMBEDS = "inputs_embeds = inputs_embeds * self."


def token_type_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of a decoder's inputs that are 1 for an image's tokens, and 0 for text.

    Some models attend to an image's tokens in both directions, some have other experts for them.

    Args:
        model: the model; one of its modules makes the attention mask.
    """
    attention = getattr(text_config_of(model.config), "use_bidirectional_attention", "vision")
    sources = (type(model.base_model).forward, type(model).forward)
    makes_blocks = any("block_sequence_ids" in inspect.getsource(source) for source in map(inspect.unwrap, sources))
    is_bidirectional = attention == "vision" and makes_blocks
    return ("token_type_ids", "moe_mm_token_type_ids", *(("mm_token_type_ids",) if is_bidirectional else ()))


class EmbedsDecoderOnnxConfig(DerivedOnnxConfig):
    """Describe a decoder that takes `inputs_embeds` instead of `input_ids`.

    Args:
        model: the language model; it is run once.
        preprocessor: its tokenizer, or a processor that contains it.
        last_logits: whether the graph returns the logits of the last token only.
        use_past: whether the graph has the KV cache as inputs and outputs.

    Raises:
        UnsupportedError: the model's inputs or its cache can't be described.
    """

    def __init__(
        self, model: PreTrainedModel, preprocessor: Any, last_logits: bool = False, use_past: bool = True
    ) -> None:
        self._hidden_size = model.get_input_embeddings().weight.shape[1]
        self._token_types = token_type_names(model)
        super().__init__(model, preprocessor, use_past=use_past, last_logits=last_logits)

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make dummy `inputs_embeds` and the decoder's other inputs."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        tokens = inputs.pop("input_ids", None)
        if tokens is None:
            return inputs
        for name in (name for name in self._token_types if name in self._parameters):
            inputs[name] = torch.zeros_like(tokens)
            inputs[name][:, 1:3] = 1
        return {EMBEDS: torch.zeros(*tokens.shape, self._hidden_size), **inputs}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor


class DeepstackDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder with DeepStack: some layers add image features to their hidden states."""

    @property
    def _deepstack_layers(self) -> Sequence[int]:
        """The indices of the layers that add image features."""
        raise NotImplementedError

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """The decoder's inputs and `deepstack_embeds`, [DeepStack layers, batch, sequence, hidden_size], 0 for text."""
        return {**super().inputs, "deepstack_embeds": {1: "batch", 2: "sequence"}}

    def generate_dummy_inputs(self, *arguments: Any, **named: Any) -> Mapping[str, Any]:
        """Make the decoder's inputs, with random `deepstack_embeds`."""
        import torch

        inputs = dict(super().generate_dummy_inputs(*arguments, **named))
        generator, shape = torch.Generator().manual_seed(0), inputs["inputs_embeds"].shape
        inputs["deepstack_embeds"] = torch.randn(len(self._deepstack_layers), *shape, generator=generator)
        return inputs
