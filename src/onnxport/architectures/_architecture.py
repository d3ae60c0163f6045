"""What can't be found out about a model type by looking at it: one record for each, in its family's file."""

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
"""Describes all graphs of a model; the flag keeps the last token's logits only. None: as the model's traits tell."""
DescribeModel = Callable[["PreTrainedModel", "Task", "Preprocessor", bool], "OnnxConfig | None"]
"""The same for a model that becomes a single graph."""
DescribeModality = Callable[["Modality", "PreTrainedConfig"], "Modality"]
"""Changes the description of one modality of a model with this configuration."""


@dataclass(frozen=True)
class Tiny:
    """Tell what a tiny checkpoint of a model type needs, for conformance: what no shrinking rule can know.

    Attributes:
        fields: values of the configuration's fields; one for a configuration inside is a dictionary with the key `...`.
        base: fields without which the default configuration can't be made.
        tasks: task to fields that its class needs; those of a configuration inside are a dictionary.
        image_size: height and width of images, where the configuration doesn't tell.
        num_mel_bins: values of each frame of audio, where the configuration doesn't tell.
        feature_extractor: class that Transformers' mapping leaves out.
        feature_extractor_arguments: what checkpoints' feature extractors have, and their class hasn't by default.
        scales: parameter to the factor by which its random values are multiplied.
        separate_tasks: tasks whose class finds no weights in a checkpoint of the whole model.
        original_names: classes that are saved under names that Transformers finds again only if they aren't converted.
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
    """Record what the model's own traits don't tell.

    A graph's axes, dummy inputs and cache layout are those of its description, an `OnnxConfig` in the family's file.

    Attributes:
        model_types: as in `config.json`.
        components: describes all graphs, where none of `description.component_types` does.
        model: describes the graph of a model that becomes a single one.
        encoders: component name to what describes it: encoders of images or audio for a decoder of text.
        decoder: describes the decoder beside such encoders.
        generation_classes: model class to the class in it that generates text, where only that has a forward.
        patches: replacements while a model with modules of this family is traced.
        modalities: changes what the configuration and the graphs tell of how an encoder's rows get into the decoder.
        packages: distributions that the model's code is in, where that isn't Transformers itself.
        preprocessors: Auto classes to load the preprocessor with, where the checkpoint's files don't tell.
        tiny: what a tiny checkpoint needs, for conformance.
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
    """Describe a single graph with a class where the model is a decoder of text or an encoder-decoder."""
    describe = always(config_class)

    def describe_generating(
        model: PreTrainedModel, task: Task, preprocessor: Preprocessor, last_logits: bool
    ) -> OnnxConfig | None:
        if task.name != "text-generation" and not model.config.is_encoder_decoder:
            return None
        return describe(model, task, preprocessor, last_logits)

    return describe_generating
