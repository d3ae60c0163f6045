"""Transformers pipelines over exported directories."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import BatchFeature, pipelines
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CTC_MAPPING_NAMES,
    MODEL_FOR_RNNT_MAPPING_NAMES,
    MODEL_FOR_TDT_MAPPING_NAMES,
    MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES,
)

from onnxport._transformers_api import model_class_named
from onnxport.description.image_processing import IMAGES, PIXEL_VALUES
from onnxport.description.tasks import PAST_SUFFIX, SENTENCE_SIMILARITY, canonical_task
from onnxport.errors import CheckpointNotFoundError, OptionError, UnsupportedError
from onnxport.loading.preprocessors import UnreadablePreprocessorError, check_audio_tokenizer, read_preprocessor
from onnxport.runtime.fixed_sizes import at_fixed_sizes
from onnxport.runtime.models import OnnxModel
from onnxport.runtime.raw_images import raw_images
from onnxport.runtime.speech import vocode

if TYPE_CHECKING:
    from transformers import Pipeline
    from transformers.utils import ModelOutput

    from onnxport.description.tasks import Task
    from onnxport.runtime.directory import Directory

_LAYOUTLMV3 = "LayoutLMv3ForQuestionAnswering"
_PREPROCESSORS = {
    "tokenizer": "AutoTokenizer",
    "image_processor": "AutoImageProcessor",
    "feature_extractor": "AutoFeatureExtractor",
    "processor": "AutoProcessor",
}
"""Arguments of a pipeline to the Auto classes that load them."""
_RENAMED_TASKS = {"image-to-text": "image-text-to-text", "audio-text-to-text": "any-to-any"}
"""Tasks whose pipeline has another name in Transformers 5."""


_AUDIO = "text-to-audio"
"""Task that few models are exported for with a cache."""
_FOR_SENTENCES = "feature-extraction"
"""The pipeline of models of sentences, which take text alone; their Auto class also loads models for others."""
_DONUT = ("document-question-answering", "VisionEncoderDecoderModel")
"""Pipeline and class that generates its answers: it isn't among the pipeline's Auto classes."""


def make_pipeline(task: str, model: OnnxModel, arguments: dict[str, Any]) -> Pipeline:
    """Build a pipeline.

    Args:
        task: a task of Transformers' pipelines.
        model: the model.
        arguments: further arguments of `transformers.pipeline`; preprocessors that the pipeline requires and that
            aren't among them are loaded from the directory.

    Raises:
        UnsupportedError: Transformers has no such pipeline, or the directory was exported for another task.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        OptionError: the model returns spectrograms, and there is no vocoder.
    """
    task = _RENAMED_TASKS.get(task, task)
    try:
        _, entry, _ = pipelines.check_task(task)
    except KeyError as error:
        supported = ", ".join(sorted(pipelines.PIPELINE_REGISTRY.get_supported_tasks()))
        raise UnsupportedError(f"Transformers has no pipeline for {task!r}; it has {supported}") from error
    _check_task(task, model, entry["pt"])
    pipeline_class = getattr(pipelines, entry["impl"].rpartition(".")[2])
    if pipeline_class._pipeline_calls_generate and not model.can_generate() and _can_generate(model):
        raise UnsupportedError(
            f"{model.directory.path} was exported without a cache and doesn't generate, which a pipeline for {task} "
            f"requires; {_remedy(model)}"
        )
    vocoder = _vocoder(model, arguments) if task in (_AUDIO, "text-to-speech") else None
    preprocessors = {
        name: _preprocessor(name, task, model, required=bool(getattr(pipeline_class, f"_load_{name}")))
        for name in _PREPROCESSORS
        if name not in arguments and getattr(pipeline_class, f"_load_{name}") is not False
    }
    if IMAGES in model.directory.input_names and preprocessors.get("image_processor") is not None:
        preprocessors["image_processor"] = _RawImages(preprocessors["image_processor"])
    trust_remote_code = bool(arguments.pop("trust_remote_code", False))
    pipe: Pipeline = transformers.pipeline(
        task,
        model=_with_class_name(model),
        device=model.device,
        trust_remote_code=trust_remote_code,
        **preprocessors,
        **arguments,
    )
    if vocoder is not None:  # the pipeline takes one for Transformers' own classes only
        pipe.vocoder, pipe.sampling_rate = partial(vocode, vocoder), vocoder.config.sampling_rate
    return pipe


def _remedy(model: OnnxModel) -> str:
    """Return what to do with an export that has no cache instead of running a pipeline that generates."""
    if model.architecture in (*MODEL_FOR_TDT_MAPPING_NAMES.values(), *MODEL_FOR_RNNT_MAPPING_NAMES.values()):
        return "transducers have no export with a cache: run the original in PyTorch"
    exported = model.directory.task
    if exported == _AUDIO:
        return f"export it with --task {_AUDIO}{PAST_SUFFIX} (SpeechT5, MusicGen), or run its graphs one by one"
    if not model.config.is_encoder_decoder:
        return "its single graph takes images and the whole text in each step: run the original in PyTorch"
    return f"export it with --task {exported}{PAST_SUFFIX}"


def _can_generate(model: OnnxModel) -> bool:
    """Return whether a pipeline generates with the original; FastSpeech 2 is an encoder-decoder that doesn't."""
    original = model_class_named(model.architecture)
    if original is None:
        return bool(model.config.is_encoder_decoder)
    return original.can_generate() and model.architecture not in MODEL_FOR_CTC_MAPPING_NAMES.values()


def _vocoder(model: OnnxModel, arguments: dict[str, Any]) -> Any:
    """Remove the vocoder from a pipeline's arguments, and return it; None for a model that returns audio.

    Raises:
        OptionError: the model returns spectrograms, and there is no vocoder.
    """
    vocoder = arguments.pop("vocoder", None)
    if model.architecture not in MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES.values():
        return None
    if vocoder is None:
        raise OptionError(
            f"{model.directory.path} returns spectrograms ({model.architecture}), which a vocoder turns into audio: "
            "pass vocoder=, a model such as SpeechT5HifiGan or an export of one (onnxport run: --vocoder DIR)"
        )
    return vocoder


class _RawImages:
    """Pass images on to a graph that preprocesses them; results are made by the image processor.

    Args:
        processor: the image processor of the directory.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **_: Any) -> BatchFeature:
        """Return the images, uint8 [batch, height, width, channels]."""
        return BatchFeature({IMAGES: torch.from_numpy(raw_images(images))})


def _check_task(task: str, model: OnnxModel, auto_classes: tuple[Any, ...]) -> None:
    """Check that the exported model is of a class that the pipeline loads.

    Raises:
        UnsupportedError: it isn't; the message names the pipelines that fit.
    """
    exported = canonical_task(model.directory.manifest.task)
    if set(exported.auto_classes) & {auto.__name__ for auto in auto_classes}:
        return
    if (task, model.architecture) == _DONUT:
        return
    for auto in auto_classes:  # one model class may serve several tasks
        found = auto._model_mapping.get(type(model.config), ())
        classes = found if isinstance(found, tuple) else (found,)
        if model.architecture in [model_class.__name__ for model_class in classes]:
            return
    fitting = ", ".join(pipelines_for(exported))
    hint = f"pipelines for it: {fitting}" if fitting else "Transformers has no pipeline for that"
    raise UnsupportedError(
        f"{model.directory.path} was exported for {exported.full_name} ({model.architecture}), which a pipeline for "
        f"{task} can't use; {hint}"
    )


def pipelines_for(exported: Task) -> list[str]:
    """Return the names of Transformers' pipelines that load the model classes of a task."""
    entries = {name: pipelines.check_task(name)[1] for name in pipelines.PIPELINE_REGISTRY.get_supported_tasks()}
    classes = set(exported.auto_classes)
    found = sorted(name for name, entry in entries.items() if classes & {auto.__name__ for auto in entry["pt"]})
    return [name for name in found if exported.name != SENTENCE_SIMILARITY or name == _FOR_SENTENCES]


def _preprocessor(name: str, task: str, model: OnnxModel, *, required: bool) -> Any:
    """Load a preprocessor; None if the directory has none and the pipeline doesn't require it."""
    path = model.directory.path
    loaded, reason = load_preprocessor(_PREPROCESSORS[name], model.directory)
    if loaded is None and required:
        raise CheckpointNotFoundError(
            f"{path} has no {name.replace('_', ' ')}, which a pipeline for {task} needs ({reason}); "
            f"save the checkpoint's to the directory, or pass {name}= to onnxport.pipeline"
        )
    return loaded


def load_preprocessor(auto_class: str, directory: Directory) -> tuple[Any, str]:
    """Load a preprocessor from an exported directory, for the sizes that the graphs fix; code in it never runs.

    Args:
        auto_class: name of the Auto class that loads it.
        directory: the exported directory.

    Returns:
        The preprocessor, or None and the reason why it can't be loaded.

    Raises:
        CorruptCheckpointError: an audio tokenizer outside of the directory is named.
    """
    path = directory.path
    check_audio_tokenizer(path)
    try:
        loaded = read_preprocessor(path, auto_class)
    except UnreadablePreprocessorError as error:
        return None, error.reason
    if auto_class == "AutoProcessor" and not isinstance(loaded, transformers.ProcessorMixin):
        return None, f"there is only a {type(loaded).__name__}"
    # Transformers 5 builds a tokenizer that has only special tokens if no vocabulary file exists.
    names = sorted(set((getattr(loaded, "vocab_files_names", None) or {}).values()))
    if names and not any((path / name).is_file() for name in names):
        return None, f"no {' or '.join(names)}"
    return at_fixed_sizes(loaded, directory), ""


def _with_class_name(model: OnnxModel) -> OnnxModel:
    """Return a copy whose class is named like the original model's; pipelines distinguish models by class name.

    The copy shares the sessions; the caller's model keeps its class.
    """
    named = copy.copy(model)
    bases = (_Documents, type(model)) if model.architecture == _LAYOUTLMV3 else (type(model),)
    named.__class__ = type(model.architecture, bases, {"__module__": __name__})
    return named


class _Documents:
    """Answer questions about documents with LayoutLMv3, as Transformers' pipeline expects of LayoutLMv2.

    The pipeline of Transformers 5.23 calls the image `image`, which LayoutLMv3 ignores, and takes no logits of patches.
    """

    def forward(self, *arguments: Any, image: torch.Tensor | None = None, **inputs: Any) -> ModelOutput:
        """Run the model with the image, and return the logits of tokens; see `OnnxModel`."""
        if image is None:
            return super().forward(*arguments, **inputs)  # type: ignore[misc]
        outputs = super().forward(*arguments, **inputs, **{PIXEL_VALUES: image})  # type: ignore[misc]
        tokens = inputs["input_ids"].shape[1]
        return type(outputs)(**{name: value[:, :tokens] for name, value in outputs.items()})
