"""Find out what a checkpoint is, what it is for, and which class loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.architectures.describe import infer_task, model_class, text_only
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.sentence_head import with_head
from onnxport.description.tasks import SENTENCE_SIMILARITY, Task, canonical_task
from onnxport.errors import OptionError
from onnxport.loading.load import load_config, load_preprocessor
from onnxport.options import ExportOptions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Subject:
    """Name what is exported.

    Attributes:
        task: what for.
        model_class: the class that loads it.
        config: its configuration.
        preprocessor: tokenizer, processor, image processor or feature extractor; None where the checkpoint has none.
    """

    task: Task
    model_class: type[PreTrainedModel]
    config: PreTrainedConfig
    preprocessor: Any


def subject_of(checkpoint: Checkpoint, options: ExportOptions) -> Subject:
    """Find out what a checkpoint is and what it is for.

    Raises:
        CheckpointError: its configuration or preprocessor can't be read.
        UnsupportedError: there is no class for it and the task.
    """
    named = checkpoint.adapter.task if checkpoint.adapter and options.task is None else options.task
    wanted = canonical_task(named) if named is not None else None
    config = load_config(checkpoint, options.checkpoint)
    if not config.architectures and checkpoint.format == "gguf":
        wanted = wanted or canonical_task("text-generation-with-past")
    code = checkpoint.directory if options.trust_remote_code else None
    if checkpoint.sentence:
        wanted = wanted or canonical_task(SENTENCE_SIMILARITY)
    task = wanted or infer_task(config, code=code)
    if not options.past:
        task = task.past(False)
    if options.last_logits and task.name != "text-generation":
        raise OptionError(f"--last-logits is for text-generation, and this is {task.name}: leave it out")
    chosen = model_class(config, task, code=code)
    task = text_only(task, chosen)
    if checkpoint.sentence:
        chosen = with_head(chosen, checkpoint.sentence.modules)
    return Subject(task, chosen, config, load_preprocessor(checkpoint, options.checkpoint))
