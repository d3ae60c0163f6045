"""Provide `transformers.onnx.features`: look up the features of each model type, and load models for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.configs.model_types import MODEL_TYPES, load_config_class
from onnxport.description.tasks import PAST_SUFFIX

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.configs import OnnxConfig

Constructor = Callable[..., Any]
_WEIGHTS = {
    "pt": ("pytorch_model.bin", "model.safetensors", "pytorch_model.bin.index.json", "model.safetensors.index.json"),
    "tf": ("tf_model.h5",),
}
_AUTO_CLASSES = {
    "default": "AutoModel",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "object-detection": "AutoModelForObjectDetection",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "image-segmentation": "AutoModelForImageSegmentation",
    "masked-im": "AutoModelForMaskedImageModeling",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "vision2seq-lm": "AutoModelForImageTextToText",
    "speech2seq-lm": "AutoModelForSpeechSeq2Seq",
}
"""Task to Auto class; Transformers 5 renamed AutoModelForVision2Seq to AutoModelForImageTextToText."""
_TF_TASKS = (
    "default",
    "masked-lm",
    "causal-lm",
    "seq2seq-lm",
    "sequence-classification",
    "token-classification",
    "multiple-choice",
    "question-answering",
    "semantic-segmentation",
)


def supported_features_mapping(*supported_features: str, onnx_config_cls: str | None = None) -> dict[str, Constructor]:
    """Map features to the constructors of their descriptions.

    Args:
        supported_features: feature names, with or without `-with-past`.
        onnx_config_cls: name of a configuration class; only the last component of a dotted path is used.

    Returns:
        A partial of the class's `with_past` or `from_model_config` for each feature.

    Raises:
        ValueError: `onnx_config_cls` is None.
    """
    if onnx_config_cls is None:
        raise ValueError("A OnnxConfig class must be provided")
    name = onnx_config_cls.rsplit(".", 1)[-1] if ":" not in onnx_config_cls else onnx_config_cls
    config_class = load_config_class(name)
    mapping: dict[str, Constructor] = {}
    for feature in supported_features:
        make = config_class.with_past if feature.endswith(PAST_SUFFIX) else config_class.from_model_config
        mapping[feature] = partial(make, task=feature.removesuffix(PAST_SUFFIX))
    return mapping


class _LazyTable:
    """A table that is built on first access, so that importing this module imports neither torch nor transformers."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self._value: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        if self._value is None:
            self._value = self._build()
        return self._value


def _model_types() -> dict[str, dict[str, Constructor]]:
    return {
        name: supported_features_mapping(*known.features, onnx_config_cls=known.config)
        for name, known in MODEL_TYPES.items()
    }


def _auto_models(tasks: Iterable[str]) -> dict[str, type]:
    import transformers

    return {task: getattr(transformers, _AUTO_CLASSES[task]) for task in tasks}


class FeaturesManager:
    """Look up the features of model types, and load models for them."""

    _TASKS_TO_AUTOMODELS: ClassVar[Any] = _LazyTable(lambda: _auto_models(_AUTO_CLASSES))
    _TASKS_TO_TF_AUTOMODELS: ClassVar[Any] = _LazyTable(lambda: _auto_models(_TF_TASKS))
    _SUPPORTED_MODEL_TYPE: ClassVar[Any] = _LazyTable(_model_types)
    AVAILABLE_FEATURES: ClassVar[list[str]] = sorted({f for known in MODEL_TYPES.values() for f in known.features})

    @staticmethod
    def get_supported_features_for_model_type(model_type: str, model_name: str | None = None) -> dict[str, Constructor]:
        """Return the features of a model type, each with the constructor of its description.

        Raises:
            KeyError: the model type isn't supported.
        """
        table = FeaturesManager._SUPPORTED_MODEL_TYPE
        key = model_type.lower().replace("_", "-")
        if key not in table:
            shown = f"{model_type} ({model_name})" if model_name else model_type
            raise KeyError(
                f"{shown} is not supported yet. Only {list(table)} are supported. "
                f"If you want to support {model_type} please propose a PR or open up an issue."
            )
        features: dict[str, Constructor] = table[key]
        return features

    @staticmethod
    def feature_to_task(feature: str) -> str:
        """Return the task of a feature: its name without `-with-past`."""
        return feature.replace(PAST_SUFFIX, "")

    @staticmethod
    def _validate_framework_choice(framework: str) -> None:
        """Check that a framework is `pt` or `tf`.

        Raises:
            ValueError: the framework is neither `pt` nor `tf`.
        """
        if framework not in ("pt", "tf"):
            raise ValueError(
                f"Only two frameworks are supported for ONNX export: pt or tf, but {framework} was provided."
            )

    @staticmethod
    def get_model_class_for_feature(feature: str, framework: str = "pt") -> type:
        """Return the Auto class that loads a model for a feature.

        For `tf`, this is the PyTorch class that the TensorFlow weights are loaded into.

        Raises:
            ValueError: the framework is unknown.
            KeyError: the feature is unknown.
        """
        task = FeaturesManager.feature_to_task(feature)
        FeaturesManager._validate_framework_choice(framework)
        table = FeaturesManager._TASKS_TO_AUTOMODELS if framework == "pt" else FeaturesManager._TASKS_TO_TF_AUTOMODELS
        if task not in table:
            raise KeyError(f"Unknown task: {feature}. Possible values are {list(table)}")
        auto_class: type = table[task]
        return auto_class

    @staticmethod
    def determine_framework(model: str, framework: str | None = None) -> str:
        """Return the framework of a model's weights.

        Args:
            model: directory, or Hub repository.
            framework: returned unchanged unless None.

        Raises:
            FileNotFoundError: the directory has no weights.
        """
        if framework is not None:
            return framework
        directory = Path(model)
        if not directory.is_dir():
            return "pt"
        for name, files in _WEIGHTS.items():
            if any((directory / file).is_file() for file in files):
                return name
        if any(directory.glob("*.gguf")):
            return "pt"
        raise FileNotFoundError(
            f"Cannot determine framework from given checkpoint location: {model} has none of "
            f"{', '.join(file for files in _WEIGHTS.values() for file in files)}"
        )

    @staticmethod
    def get_model_from_feature(
        feature: str, model: str, framework: str | None = None, cache_dir: str | None = None
    ) -> PreTrainedModel:
        """Load a model for a feature.

        Args:
            feature: name of the feature.
            model: directory, or Hub repository.
            framework: `pt` or `tf`; determined from the files by default.
            cache_dir: directory for downloads.

        Raises:
            CheckpointError: the checkpoint can't be read, or its weights don't fit the class.
        """
        from onnxport.architectures.classes import model_class
        from onnxport.checkpoint.checkpoint import open_checkpoint
        from onnxport.description.tasks import canonical_task
        from onnxport.loading.load import load_config, load_model
        from onnxport.options import CheckpointOptions

        framework = FeaturesManager.determine_framework(model, framework)
        FeaturesManager.get_model_class_for_feature(feature, framework)
        options = CheckpointOptions(task=feature, framework="tf" if framework == "tf" else None, cache_dir=cache_dir)
        checkpoint = open_checkpoint(model, options)
        config = load_config(checkpoint, options)
        loaded: PreTrainedModel = load_model(checkpoint, model_class(config, canonical_task(feature)), options)
        return loaded

    @staticmethod
    def check_supported_model_or_raise(model: PreTrainedModel, feature: str = "default") -> tuple[str, Constructor]:
        """Check that a model supports a feature.

        Args:
            model: a model with its configuration.
            feature: name of the feature.

        Returns:
            The model type, and the constructor of the description.

        Raises:
            KeyError: the model type isn't supported.
            ValueError: the model type doesn't support the feature.
        """
        model_type = model.config.model_type
        features = FeaturesManager.get_supported_features_for_model_type(
            model_type, model_name=getattr(model, "name", "")
        )
        if feature not in features:
            raise ValueError(
                f"{model_type.replace('_', '-')} doesn't support feature {feature}. "
                f"Supported values are: {list(features)}"
            )
        return model_type, features[feature]

    @staticmethod
    def get_config(model_type: str, feature: str) -> Constructor:
        """Return the constructor of the description for a model type and feature.

        Raises:
            KeyError: the model type or the feature is unknown.
        """
        constructor: Callable[[PreTrainedConfig], OnnxConfig] = FeaturesManager._SUPPORTED_MODEL_TYPE[
            model_type.replace("_", "-")
        ][feature]
        return constructor
