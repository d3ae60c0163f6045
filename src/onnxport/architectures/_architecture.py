"""Define the record of a model type, with whatever can't be derived from the model itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.description.component_types import DescribeDecoder, DescribeEncoder
    from onnxport.description.components import Component
    from onnxport.description.derived import DerivedOnnxConfig
    from onnxport.description.encoder_outputs import Modality
    from onnxport.description.preprocessor import Preprocessor
    from onnxport.description.tasks import Task
    from onnxport.patching.patch import Patch

DescribeComponents = Callable[["PreTrainedModel", "Task", "Preprocessor", bool], "tuple[Component, ...] | None"]
"""Describe all graphs of a model; the flag keeps only the last token's logits. None: derive them from the model."""
DescribeParts = Callable[["PreTrainedModel", "Preprocessor"], "tuple[Component, ...]"]
"""Describe the encoders of a model, and what takes their outputs, as graphs of their own."""
DescribeModel = Callable[["PreTrainedModel", "Task", "Preprocessor", bool], "OnnxConfig | None"]
"""Describe the graph of a model that is exported as a single graph. None: derive it from the model."""
DescribeModality = Callable[["Modality", "PreTrainedConfig"], "Modality"]
"""Modify the description of one modality of a model with this configuration."""


@dataclass(frozen=True)
class Tiny:
    """Settings of a tiny checkpoint for conformance tests, if the general rules for shrinking don't suffice.

    Attributes:
        fields: values of configuration fields; a sub-configuration is a dictionary with the key `...`.
        base: fields that the default configuration requires.
        tasks: fields that the class of each task requires; a sub-configuration is a dictionary.
        image_size: height and width of images, if the configuration doesn't have them.
        num_mel_bins: mel bins of each audio frame, if the configuration doesn't have them.
        feature_extractor: feature extractor class that isn't in Transformers' mapping.
        feature_extractor_arguments: arguments of the feature extractor that differ from its class's defaults.
        scales: factors by which the random values of parameters are multiplied, by parameter name.
        separate_tasks: tasks whose class finds no weights in a checkpoint of the full model.
        original_names: classes whose weights Transformers loads only under the names that it doesn't convert.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    num_mel_bins: int | None = None
    feature_extractor: str | None = None
    feature_extractor_arguments: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    separate_tasks: tuple[str, ...] = ()
    original_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """Everything that can't be derived from a model of one of these types.

    A graph's axes, dummy inputs and cache layout come from its description, an `OnnxConfig` in the family's module.

    Attributes:
        model_types: `model_type` values in `config.json`.
        components: describes all graphs, if no function of `description.component_types` does.
        split: describes the graphs of `--split-encoders`, if the model isn't a dual encoder.
        model: describes the graph of a model that is exported as a single graph.
        encoders: functions that describe an image or audio encoder of a text decoder, by component name.
        decoder: describes the decoder for such encoders.
        audio_classes: classes that generate audio step by step, for which text-to-audio has the cache by default.
        generation_classes: class of the submodel that generates text, by model class, if only the submodel has a
            forward.
        patches: patches to apply while a model with modules of this family is traced.
        modalities: modifies how encoder outputs are merged into the decoder's embeddings.
        packages: distributions with the model's code, if it isn't part of Transformers.
        left_out: parameter of the forward that can't be an input to the reason.
        defaults: returns what forward takes for inputs that aren't passed, by the name of the model class; see
            `description.description.Description`.
        image_size: returns the height and width of images, in pixels, if the configuration has no field for them.
        image_processor: image processor class, if Transformers doesn't map the model type to one.
        preprocessors: Auto classes that load the preprocessor, if the checkpoint's files don't name one.
        tiny: settings of a tiny checkpoint for conformance tests.
    """

    model_types: tuple[str, ...]
    components: DescribeComponents | None = None
    split: DescribeParts | None = None
    model: DescribeModel | None = None
    encoders: Mapping[str, DescribeEncoder] = field(default_factory=dict)
    decoder: DescribeDecoder | None = None
    audio_classes: tuple[str, ...] = ()
    generation_classes: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    modalities: DescribeModality | None = None
    packages: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    defaults: Callable[[str], Mapping[str, str]] | None = None
    image_size: Callable[[PreTrainedConfig], tuple[int, int]] | None = None
    image_processor: str = ""
    preprocessors: tuple[str, ...] = ()
    tiny: Tiny = Tiny()


def always(config_class: type[DerivedOnnxConfig]) -> DescribeModel:
    """Return a function that describes a single graph with a class, for any task."""

    def describe(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig:
        return config_class(model, preprocessor, task.with_past, last_logits, task.name == "multiple-choice")

    return describe


def of_class(class_name: str, config_class: type[DerivedOnnxConfig]) -> DescribeModel:
    """Return a function that describes the single graph of one class of the family, by its name."""
    describe = always(config_class)

    def describe_class(
        model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
    ) -> OnnxConfig | None:
        return describe(model, task, preprocessor, last_logits) if type(model).__name__ == class_name else None

    return describe_class


def when_generating(config_class: type[DerivedOnnxConfig]) -> DescribeModel:
    """Return a function that describes a single graph with a class if the model is a decoder or an encoder-decoder."""
    describe = always(config_class)

    def describe_generating(
        model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
    ) -> OnnxConfig | None:
        if task.name != "text-generation" and not model.config.is_encoder_decoder:
            return None
        return describe(model, task, preprocessor, last_logits)

    return describe_generating
