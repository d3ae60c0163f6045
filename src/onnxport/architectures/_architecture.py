"""The record of a model type: what can't be derived from the model, in the file of its family."""

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
"""Describes all graphs of a model; the flag keeps the last token's logits only. None: derive them from the model."""
DescribeModel = Callable[["PreTrainedModel", "Task", "Preprocessor", bool], "OnnxConfig | None"]
"""Describes the graph of a model that is exported to a single one."""
DescribeModality = Callable[["Modality", "PreTrainedConfig"], "Modality"]
"""Changes the description of one modality of a model with this configuration."""


@dataclass(frozen=True)
class Tiny:
    """Settings of a tiny checkpoint for conformance tests, where the general rules for shrinking don't suffice.

    Attributes:
        fields: values of the configuration's fields; those of a sub-configuration are a dictionary with the key `...`.
        base: fields that the default configuration requires.
        tasks: task to fields that its class requires; those of a sub-configuration are a dictionary.
        image_size: height and width of images, where the configuration doesn't have them.
        num_mel_bins: mel bins of each frame of audio, where the configuration doesn't have them.
        feature_extractor: class that isn't in Transformers' mapping.
        feature_extractor_arguments: arguments of the feature extractor that differ from its class's defaults.
        scales: parameter name to the factor by which its random values are multiplied.
        separate_tasks: tasks whose class finds no weights in a checkpoint of the whole model.
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
    """Describe what can't be derived from a model of one of these types.

    A graph's axes, dummy inputs and cache layout are those of its description, an `OnnxConfig` in the family's file.

    Attributes:
        model_types: as in `config.json`.
        components: describes all graphs, where none of `description.component_types` does.
        model: describes the graph of a model that is exported to a single one.
        encoders: component name to the function that describes an encoder of images or audio for a text decoder.
        decoder: describes the decoder for such encoders.
        generation_classes: model class to the class of its submodel that generates text, where only that has a forward.
        patches: replacements while a model with modules of this family is traced.
        modalities: changes how encoder outputs are merged into the decoder's embeddings.
        packages: distributions with the model's code, where that isn't Transformers itself.
        preprocessors: Auto classes that load the preprocessor, where the checkpoint's files don't name one.
        tiny: settings of a tiny checkpoint, for conformance tests.
    """

    model_types: tuple[str, ...]
    components: DescribeComponents | None = None
    model: DescribeModel | None = None
    encoders: Mapping[str, DescribeEncoder] = field(default_factory=dict)
    decoder: DescribeDecoder | None = None
    generation_classes: Mapping[str, str] = field(default_factory=dict)
    patches: tuple[Patch, ...] = ()
    modalities: DescribeModality | None = None
    packages: tuple[str, ...] = ()
    preprocessors: tuple[str, ...] = ()
    tiny: Tiny = Tiny()


def always(config_class: type[DerivedOnnxConfig]) -> DescribeModel:
    """Describe a single graph with a class, whatever the task."""

    def describe(model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool) -> OnnxConfig:
        return config_class(model, preprocessor, task.with_past, last_logits, task.name == "multiple-choice")

    return describe


def when_generating(config_class: type[DerivedOnnxConfig]) -> DescribeModel:
    """Describe a single graph with a class where the model is a text decoder or an encoder-decoder."""
    describe = always(config_class)

    def describe_generating(
        model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
    ) -> OnnxConfig | None:
        if task.name != "text-generation" and not model.config.is_encoder_decoder:
            return None
        return describe(model, task, preprocessor, last_logits)

    return describe_generating
