"""Determine the task, the model class, the configuration and the preprocessor of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxport.architectures.classes import infer_task, model_class, text_only, transformer_task
from onnxport.architectures.describe import has_own_encoder
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.sentence_head import with_head
from onnxport.description.static_embedding import CLASSES
from onnxport.description.tasks import Task, canonical_task
from onnxport.errors import OptionError
from onnxport.loading.load import load_config, load_preprocessor
from onnxport.options import ExportOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Subject:
    """Hold the task, the model class, the configuration and the preprocessor of an export.

    Attributes:
        task: the task.
        model_class: the model class, of Transformers or of the checkpoint's code.
        config: the model's configuration.
        preprocessor: tokenizer, processor, image processor or feature extractor; None if the checkpoint has none.
        is_inferred: whether the task was inferred, not requested.
    """

    task: Task
    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    preprocessor: Any
    is_inferred: bool = False


def subject_of(checkpoint: Checkpoint, options: ExportOptions) -> Subject:
    """Determine the task, the model class, the configuration and the preprocessor of a checkpoint.

    Raises:
        CheckpointError: its configuration or preprocessor can't be read.
        UnsupportedError: Transformers has no class for it and the task.
    """
    name = checkpoint.adapter.task if checkpoint.adapter and options.task is None else options.task
    requested = canonical_task(name) if name is not None else None
    config = load_config(checkpoint, options.checkpoint)
    if not config.architectures and checkpoint.format == "gguf":
        requested = requested or canonical_task("text-generation-with-past")
    code = checkpoint.directory if options.trust_remote_code else None
    if checkpoint.sentence:
        requested = requested or canonical_task(checkpoint.sentence.task)
    task = requested or infer_task(config, code=code)
    if not options.past:
        task = task.past(False)
    if options.last_logits and task.name != "text-generation":
        raise OptionError(f"--last-logits is for text-generation, and this is {task.name}: leave it out")
    loaded_class = _model_class(checkpoint, config, task, code)
    task = text_only(task, loaded_class)
    if options.split_encoders and options.past and has_own_encoder(loaded_class, task):
        task = task.past()
    preprocessor = load_preprocessor(checkpoint, options.checkpoint)
    return Subject(task, loaded_class, config, preprocessor, is_inferred=options.task is None)


def _model_class(checkpoint: Checkpoint, config: PreTrainedConfig, task: Task, code: Path | None) -> type:
    """Return the model class for a task; the modules of a sentence-transformers directory are part of it."""
    sentence = checkpoint.sentence
    if sentence is None:
        return model_class(config, task, code=code)
    if sentence.static:
        loaded_class: type = CLASSES[checkpoint.architectures[0]]
    else:
        loaded_class = model_class(config, transformer_task(sentence.model), code=code)
    return cast("type", with_head(loaded_class, sentence.model))
