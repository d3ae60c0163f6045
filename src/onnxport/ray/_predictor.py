"""Predict for the rows of a dataset: a class for Ray's `Dataset.map_batches`, which also works without Ray."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.components import SPLIT_ENCODERS
from onnxport.errors import OptionError, UnsupportedError
from onnxport.ray._columns import AudioColumn, Column, ImageColumn, TextColumn
from onnxport.ray._results import EMBEDDING, LABEL, SCORE, TRANSCRIPTION, embeddings, labels
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.load import pipeline
from onnxport.runtime.settings import RunSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

Batch = Mapping[str, "NDArray[Any]"]
"""Columns by name, arrays with one entry for each row."""

_EMBEDDING_TASKS = ("sentence-similarity", "feature-extraction")
_SPEECH = "automatic-speech-recognition"
_COLUMNS: dict[str, type[Column]] = {"text": TextColumn, "image": ImageColumn, "audio": AudioColumn}


class Predictor:
    """Add the predictions of an exported model to batches of rows.

    Ray constructs it once in each worker, and calls it with batches:

        dataset.map_batches(
            Predictor, fn_constructor_kwargs={"directory": "/shared/minilm", "column": "title"}, concurrency=4
        )

    A batch is a mapping from column names to arrays; the result has these columns and

    - `embedding`, float32 [rows, size], for sentence-similarity and feature-extraction: the graph's
      `sentence_embedding`; of a dual encoder, `text_embeds`, `image_embeds` or `audio_embeds`; otherwise, the mean of
      `last_hidden_state` over the tokens of a text, and `pooler_output`, or the mean of all positions, of images and
      audio;
    - `label` and `score` for the classification of texts, images and audio: the most probable class and its
      probability, or the model's value for a regression;
    - `transcription` for speech recognition.

    Args:
        directory: the exported directory, which every worker finds under this path.
        column: column of the inputs, of one kind:
            texts;
            images: arrays [height, width, channels] or [height, width] of 8-bit values, or the bytes of image files;
            audio: samples between -1 and 1, [time] or [channels, time].
        kind: `text`, `image` or `audio`; required for a dual encoder, which takes two of them.
        sampling_rate: samples per second in a column of audio, in Hz; defaults to the model's.
        batch_size: number of rows in one run of the graph; speech is recognized clip by clip. Texts are run in order
            of their length, each padded to the longest of its run.
        **settings: `device`, `providers`, `threads` and `dtype`, as in `load`; `threads` defaults to the CPUs that Ray
            gave to the worker, and to 1 without Ray.

    Raises:
        OptionError: the model doesn't take inputs of this kind, or takes several and none is named.
        UnsupportedError: the directory was exported for another task.
        CheckpointNotFoundError: the directory wasn't written by onnxport, or lacks a tokenizer or processor.
    """

    def __init__(
        self,
        directory: str | Path,
        column: str,
        *,
        kind: str | None = None,
        sampling_rate: int | None = None,
        batch_size: int = 32,
        **settings: Any,
    ) -> None:
        if batch_size < 1:
            raise OptionError(f"batch_size {batch_size}: it is a number of rows, from 1")
        settings.setdefault("threads", _cpus_of_worker())
        self._directory = Directory(directory, RunSettings(**settings))
        self._name, self._batch_size, self._model = column, batch_size, LightModel(self._directory)
        self._column = _COLUMNS[self._kind(kind)](self._directory, sampling_rate)
        self._pipeline: Any = pipeline(_SPEECH, directory, **settings) if self._directory.task == _SPEECH else None

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Return a batch with the columns of predictions.

        Args:
            batch: the columns by name.

        Raises:
            OptionError: the column is missing, has an entry that can't be read, or the batch has a column with the name
                of a prediction.
        """
        if self._name not in batch:
            raise OptionError(f"the batch has no column {self._name!r}, only {', '.join(map(repr, batch))}")
        if taken := [name for name in self.columns if name in batch]:
            raise OptionError(f"the batch has a column {taken[0]!r} already, rename it: the predictions have this name")
        values = self._column.read(batch[self._name], self._name)
        if self._pipeline is not None:
            return {**batch, TRANSCRIPTION: np.array([self._transcription(clip) for clip in values], dtype=object)}
        order: list[int] = []
        parts: list[tuple[NDArray[Any], ...]] = []
        for rows, columns in self._run(values):
            order += rows
            parts.append(columns)
        back = np.argsort(order)
        joined = [np.concatenate(pieces)[back] for pieces in zip(*parts, strict=True)]
        return {**batch, **dict(zip(self.columns, joined, strict=True))}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of predictions."""
        if self._directory.task == _SPEECH:
            return (TRANSCRIPTION,)
        return (EMBEDDING,) if self._embeds else (LABEL, SCORE)

    @property
    def _embeds(self) -> bool:
        """Whether the graph makes embeddings; the separate graphs of a dual encoder do, for any task."""
        return self._directory.task in _EMBEDDING_TASKS or any(map(self._directory.has, SPLIT_ENCODERS))

    def _transcription(self, clip: NDArray[Any]) -> str:
        """Return the text of a clip; one that is longer than Whisper's window is transcribed by segments."""
        is_long = self._pipeline.type == "seq2seq_whisper" and len(clip) > self._pipeline.feature_extractor.n_samples
        return str(self._pipeline(clip, **({"return_timestamps": True} if is_long else {}))["text"])

    def _run(self, values: Sequence[Any]) -> Iterator[tuple[list[int], tuple[NDArray[Any], ...]]]:
        """Yield the indices of some rows, and their predictions."""
        for rows, feed in self._column.runs(values, self._batch_size):
            outputs = self._model(**feed)
            if self._embeds:
                yield rows, (embeddings(outputs, feed, self._column.kind),)
            else:
                yield rows, labels(outputs["logits"], self._directory.config)

    def _kind(self, named: str | None) -> str:
        """Return the kind of the column that the model takes."""
        path, task, inputs = self._directory.path, self._directory.task, self._directory.input_names
        kinds = [kind for kind, column in _COLUMNS.items() if not inputs.isdisjoint(column.inputs)]
        if task == _SPEECH:  # decoders take tokens, too
            kinds = ["audio"]
        if named is not None and named not in kinds:
            raise OptionError(f"kind {named!r}: {path} takes {' or '.join(kinds) or ', '.join(sorted(inputs))}")
        if not self._embeds and task not in (_SPEECH, *(f"{kind}-classification" for kind in kinds)):
            raise UnsupportedError(
                f"{path} was exported for {task}: Predictor computes embeddings, transcriptions, and classes of texts, "
                "images and audio; call onnxport.load or onnxport.pipeline in a class of your own"
            )
        if named is None and len(kinds) != 1:
            raise OptionError(f"{path} takes {' and '.join(kinds) or ', '.join(sorted(inputs))}: name one with kind=")
        return named or kinds[0]


def _cpus_of_worker() -> int:
    """Return the number of CPUs that Ray gave to this worker; 1 outside of workers."""
    ray = sys.modules.get("ray")
    context = ray.get_runtime_context() if ray is not None and ray.is_initialized() else None
    if context is None or context.get_actor_id() is None:
        return 1
    return max(1, int(context.get_assigned_resources().get("CPU", 1)))
