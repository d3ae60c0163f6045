"""The base class of all descriptions: inputs, outputs, axes, opset, tolerance and dummy inputs."""

from __future__ import annotations

import copy
import logging
import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from importlib import metadata
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self

from packaging.version import Version

from onnxport._transformers_api import call_forward
from onnxport.configs import _dummies, caches
from onnxport.configs._parameters import (
    ParameterFormat,
    compute_effective_axis_dimension,
    compute_serialized_parameters_size,
)
from onnxport.configs._patching import PatchingSpec, resolve
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

    from onnxport.configs._dummies import Framework, Preprocessor

logger = logging.getLogger(__name__)

DEFAULT_ONNX_OPSET = 11
"""Default minimum opset of a description."""
EXTERNAL_DATA_FORMAT_SIZE_LIMIT = 2 * 1024**3
"""Size of the parameters, in bytes, from which they don't fit into a single protobuf file."""

Axes = Mapping[str, Mapping[int, str]]
"""Dynamic axes by tensor name: axis index to symbolic name."""

_AUDIO_INPUTS = ("input_features", "input_values")
_AUDIO_COMPONENTS = ("feature_extractor", "audio_processor")
_BATCH = {0: "batch"}
_BATCH_SEQUENCE = {0: "batch", 1: "sequence"}


def _outputs(**names: Mapping[int, str]) -> OrderedDict[str, Mapping[int, str]]:
    return OrderedDict(names)


class OnnxConfig(ABC):
    """Describe a model for export; a subclass defines at least `inputs`.

    Args:
        config: the model's configuration.
        task: task of the model, a key of `_tasks_to_common_outputs`.
        patching_specs: attributes that are replaced while the model is traced.

    Raises:
        ValueError: the task is unknown.
    """

    default_fixed_batch: ClassVar[int] = 2
    default_fixed_sequence: ClassVar[int] = 8
    default_fixed_num_choices: ClassVar[int] = 4
    torch_onnx_minimum_version: ClassVar[Version] = Version("1.8")
    _tasks_to_common_outputs: ClassVar[dict[str, OrderedDict[str, Mapping[int, str]]]] = {
        "causal-lm": _outputs(logits=_BATCH_SEQUENCE),
        "default": _outputs(last_hidden_state=_BATCH_SEQUENCE),
        "image-classification": _outputs(logits=_BATCH_SEQUENCE),
        "image-segmentation": _outputs(logits=_BATCH_SEQUENCE, pred_boxes=_BATCH_SEQUENCE, pred_masks=_BATCH_SEQUENCE),
        "masked-im": _outputs(logits=_BATCH_SEQUENCE),
        "masked-lm": _outputs(logits=_BATCH_SEQUENCE),
        "multiple-choice": _outputs(logits=_BATCH),
        "object-detection": _outputs(logits=_BATCH_SEQUENCE, pred_boxes=_BATCH_SEQUENCE),
        "question-answering": _outputs(start_logits=_BATCH_SEQUENCE, end_logits=_BATCH_SEQUENCE),
        "semantic-segmentation": _outputs(logits={0: "batch", 1: "num_labels", 2: "height", 3: "width"}),
        "seq2seq-lm": _outputs(logits={0: "batch", 1: "decoder_sequence"}),
        "sequence-classification": _outputs(logits=_BATCH),
        "token-classification": _outputs(logits=_BATCH_SEQUENCE),
        "vision2seq-lm": _outputs(logits=_BATCH_SEQUENCE),
        "speech2seq-lm": _outputs(logits=_BATCH_SEQUENCE),
    }

    def __init__(
        self, config: PreTrainedConfig, task: str = "default", patching_specs: list[PatchingSpec] | None = None
    ) -> None:
        if task not in self._tasks_to_common_outputs:
            raise ValueError(f"{task} is not a supported task, supported tasks: {self._tasks_to_common_outputs.keys()}")
        self._config: Any = config
        self.task = task
        self._patching_specs = resolve(patching_specs)

    _patched: ExitStack | None = None
    """The scope that `restore_ops` closes; a class attribute, for subclasses that don't call `__init__`."""

    @classmethod
    def from_model_config(cls, config: PreTrainedConfig, task: str = "default") -> Self:
        """Build the description of a model from its configuration."""
        return cls(config, task=task)

    @property
    @abstractmethod
    def inputs(self) -> Axes:
        """Inputs of the graph, in order, with their dynamic axes."""

    @property
    def outputs(self) -> Axes:
        """Outputs of the graph, in order, with their dynamic axes; a copy that may be modified."""
        return copy.deepcopy(self._tasks_to_common_outputs[self.task])

    @property
    def values_override(self) -> Mapping[str, Any] | None:
        """Configuration attributes to set during the export."""
        return {"use_cache": False} if hasattr(self._config, "use_cache") else None

    @property
    def default_batch_size(self) -> int:
        """Default batch size of dummy inputs."""
        return self.default_fixed_batch

    @property
    def default_sequence_length(self) -> int:
        """Default sequence length of dummy inputs."""
        return self.default_fixed_sequence

    @property
    def default_num_choices(self) -> int:
        """Default number of choices per question in dummy inputs."""
        return self.default_fixed_num_choices

    @property
    def default_onnx_opset(self) -> int:
        """Minimum opset of the model."""
        return DEFAULT_ONNX_OPSET

    @property
    def atol_for_validation(self) -> float:
        """Absolute tolerance of validation."""
        return 1e-5

    @property
    def is_torch_support_available(self) -> bool:
        """Whether PyTorch is installed, in the model's minimum version or later."""
        try:
            installed = Version(metadata.version("torch"))
        except metadata.PackageNotFoundError:
            return False
        return installed >= self.torch_onnx_minimum_version

    @staticmethod
    def use_external_data_format(num_parameters: int) -> bool:
        """Return whether float32 parameters exceed the size limit of a protobuf file."""
        size = compute_serialized_parameters_size(num_parameters, ParameterFormat.Float)
        return size >= EXTERNAL_DATA_FORMAT_SIZE_LIMIT

    def generate_dummy_inputs(
        self,
        preprocessor: Preprocessor,
        batch_size: int = -1,
        seq_length: int = -1,
        num_choices: int = -1,
        is_pair: bool = False,
        framework: Framework = None,
        num_channels: int = 3,
        image_width: int = 40,
        image_height: int = 40,
        sampling_rate: int = 22050,
        time_duration: float = 5.0,
        frequency: int = 220,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Mapping[str, Any]:
        """Create dummy inputs with the model's preprocessor.

        The signature is that of `transformers.onnx`; subclasses and callers pass the arguments by name.

        Args:
            preprocessor: tokenizer, image processor, feature extractor, or a processor that contains one of them.
            batch_size: batch size; -1 for the default.
            seq_length: sequence length, including special tokens; -1 for the default.
            num_choices: choices per question (multiple-choice only); -1 for the default.
            is_pair: whether to create pairs of sequences with a total length of `seq_length`.
            framework: `pt`, `np`, a `TensorType`, or None for lists.
            num_channels: channels of the images.
            image_width: width of the images, in pixels.
            image_height: height of the images, in pixels.
            sampling_rate: sampling rate of the audio in Hz, if the feature extractor doesn't define one.
            time_duration: duration of the audio, in seconds.
            frequency: frequency of the sine wave, in Hz.
            tokenizer: deprecated name of `preprocessor`.

        Returns:
            The inputs by name, in the preprocessor's order.

        Raises:
            ValueError: both a tokenizer and a preprocessor are passed, or the preprocessor has an unknown type.
            NotImplementedError: `framework` is TensorFlow.
        """
        from transformers import PreTrainedTokenizerBase

        return_tensors = _dummies.framework_name(framework)
        preprocessor = self._component(_preprocessor_or_tokenizer(preprocessor, tokenizer))
        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        if isinstance(preprocessor, PreTrainedTokenizerBase):
            return self._text_inputs(preprocessor, batch, seq_length, num_choices, is_pair, return_tensors)
        input_name = _main_input_name(preprocessor)
        if input_name == "pixel_values":
            images = self._generate_dummy_images(batch, num_channels, image_height, image_width)
            if hasattr(preprocessor, "post_process_keypoint_matching"):  # it takes pairs of images
                images = list(zip(images, reversed(images), strict=True))
            return dict(preprocessor(images=images, return_tensors=return_tensors))
        if input_name in _AUDIO_INPUTS:
            rate = getattr(preprocessor, "sampling_rate", None) or sampling_rate
            audio = self._generate_dummy_audio(batch, rate, time_duration, frequency)
            return dict(preprocessor(audio, sampling_rate=rate, return_tensors=return_tensors))
        raise ValueError("Unable to generate dummy inputs for the model. Please provide a tokenizer or a preprocessor.")

    def generate_dummy_inputs_onnxruntime(self, reference_model_inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the inputs for ONNX Runtime; a hook for graphs whose inputs differ from the model's."""
        return reference_model_inputs

    def patch_ops(self) -> None:
        """Apply the patches; the thread holds the lock of `patching` until `restore_ops`."""
        if self._patched is None:
            self._patched = ExitStack()
        self._patched.enter_context(patching(*(spec.replacement() for spec in self._patching_specs)))

    def restore_ops(self) -> None:
        """Restore the patched attributes, in reverse order."""
        if self._patched is not None:
            self._patched.close()
            self._patched = None

    @classmethod
    def flatten_output_collection_property(cls, name: str, field: Iterable[Any]) -> dict[str, Any]:
        """Flatten an output that is a nested collection of tensors by one level.

        Args:
            name: name of the output.
            field: the output, an iterable of iterables of tensors.

        Returns:
            The tensors as `name.0`, `name.1`, …
        """
        return {f"{name}.{index}": item for index, item in enumerate(chain.from_iterable(field))}

    @property
    def model_values(self) -> Mapping[str, Any]:
        """Configuration attributes to set while the model is traced and validated; a hook."""
        return self.values_override or {}

    @property
    def static_symbols(self) -> frozenset[str]:
        """Symbols in `inputs` whose axes are fixed to the traced size in the graph; a hook."""
        return frozenset()

    @property
    def multiples(self) -> frozenset[str]:
        """Inputs whose axes are a fixed multiple of their symbol, the one in the dummy inputs; a hook.

        For example, audio models may take a fixed number of frames per token.
        """
        return frozenset()

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model on the graph's inputs; a hook for graphs whose inputs differ from the model's.

        Args:
            forward: the model, or its bound `forward`.
            arguments: the inputs by name, with nested collections and the cache rebuilt.

        Returns:
            Tensors, tuples or caches by output name.
        """
        return call_forward(forward, arguments)

    def past_to_cache(self, past: Any, arguments: Mapping[str, Any]) -> Any:
        """Convert the graph's cache inputs, a list of tuples, to a Transformers 5 `Cache`; a hook.

        Args:
            past: one tuple of tensors per layer.
            arguments: the model's other arguments, by name.
        """
        return caches.past_to_cache(past)

    def cache_to_past(self, cache: Any) -> Any:
        """Convert a Transformers 5 `Cache` to one tuple of tensors per layer; a hook."""
        return caches.cache_to_past(cache)

    def _text_inputs(
        self,
        tokenizer: Preprocessor,
        batch: int,
        seq_length: int,
        num_choices: int,
        is_pair: bool,
        framework: str | None,
    ) -> dict[str, Any]:
        special = tokenizer.num_special_tokens_to_add(is_pair)
        length = compute_effective_axis_dimension(seq_length, self.default_sequence_length, special)
        if self.task == "multiple-choice":
            choices = compute_effective_axis_dimension(num_choices, self.default_num_choices)
            return _dummies.tokenize_choices(tokenizer, batch, length, choices, framework)
        return _dummies.tokenize_texts(tokenizer, batch, length, is_pair, framework)

    def _generate_dummy_images(
        self, batch_size: int = 2, num_channels: int = 3, image_height: int = 40, image_width: int = 40
    ) -> list[Any]:
        return list(_dummies.images(batch_size, num_channels, image_height, image_width))

    def _generate_dummy_audio(
        self, batch_size: int = 2, sampling_rate: int = 22050, time_duration: float = 5.0, frequency: int = 220
    ) -> list[Any]:
        return _dummies.audios(batch_size, sampling_rate, time_duration, frequency)

    def _component(self, preprocessor: Preprocessor) -> Any:
        """Return the component of a processor that creates this model's inputs; other preprocessors unchanged."""
        from transformers import ProcessorMixin

        if not isinstance(preprocessor, ProcessorMixin) and not hasattr(preprocessor, "image_processor"):
            return preprocessor
        names = self.inputs or {}
        components = ["tokenizer", "image_processor", *_AUDIO_COMPONENTS]
        if "pixel_values" in names:
            components.insert(0, "image_processor")
        elif "input_features" in names or "input_values" in names:
            components = [*_AUDIO_COMPONENTS, *components]
        candidates = (getattr(preprocessor, name, None) for name in components)
        return next((component for component in candidates if component is not None), preprocessor)


def model_of(forward: Any) -> Any:
    """Return the model from the `forward` argument of `run`: the model itself, or its bound `forward`."""
    return getattr(forward, "__self__", forward)


def _main_input_name(preprocessor: Preprocessor) -> str | None:
    """Return the main model input that an image processor or feature extractor creates; None for other preprocessors.

    Raises:
        ValueError: an image processor doesn't return `pixel_values`.
    """
    from transformers import FeatureExtractionMixin, ImageProcessingMixin

    if not isinstance(preprocessor, ImageProcessingMixin | FeatureExtractionMixin):
        return None
    input_name = str(getattr(preprocessor, "model_input_names", ("",))[0])
    if input_name != "pixel_values" and isinstance(preprocessor, ImageProcessingMixin):
        raise ValueError(
            f"The `preprocessor` is an image processor ({type(preprocessor).__name__}) and expects"
            f' `model_input_names[0]` to be "pixel_values", got {input_name}'
        )
    return input_name


def _preprocessor_or_tokenizer(preprocessor: Preprocessor, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """Return the preprocessor, or the tokenizer that was passed by its deprecated name."""
    from transformers import PreTrainedTokenizerBase

    if tokenizer is None:
        return preprocessor
    if isinstance(preprocessor, PreTrainedTokenizerBase):
        raise ValueError("You cannot provide both a tokenizer and a preprocessor to generate dummy inputs.")
    warnings.warn(
        "The `tokenizer` argument is deprecated and will be removed; use `preprocessor` instead.",
        FutureWarning,
        stacklevel=3,
    )
    logger.warning("Overwriting the `preprocessor` argument with `tokenizer` to generate dummy inputs.")
    return tokenizer
