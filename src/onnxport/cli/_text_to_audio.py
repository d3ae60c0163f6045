"""Generate audio from text with Transformers' pipeline, and write it to a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.cli._audio import write_audio
from onnxport.cli._pipelines import refused, seeded
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import MissingDependencyError, OptionError
from onnxport.runtime.generators import has_transformers
from onnxport.runtime.load import load, pipeline

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory

TEXT_TO_AUDIO = "text-to-audio"


def generate_audio(directory: Directory, request: RunRequest, settings: Mapping[str, Any] | None = None) -> RunResult:
    """Generate the audio of a text.

    Args:
        directory: an export for text-to-audio.
        request: one text, the file to write, and the export of a vocoder for models that return spectrograms.
        settings: settings of Transformers' `generate`, and `seed`, for models that generate step by step.

    Raises:
        OptionError: there isn't one text, the model needs a vocoder or a speaker, or the file can't be written.
        MissingDependencyError: torch or Transformers isn't installed; or soundfile, to write the file.
        CheckpointNotFoundError: the directory lacks a tokenizer.
    """
    if request.modalities != {"text"} or len(request.texts) != 1 or request.text_pairs or request.question:
        raise OptionError(f"{TEXT_TO_AUDIO} takes one text alone: pass it with --text")
    if not has_transformers():
        raise MissingDependencyError(f"{TEXT_TO_AUDIO} needs torch and transformers: pip install 'onnxport[export]'")
    arguments = {} if request.vocoder is None else {"vocoder": load(request.vocoder)}
    pipe = pipeline(TEXT_TO_AUDIO, directory.path, **arguments)
    settings = seeded(settings or {})
    with translating(refused(TEXT_TO_AUDIO)):
        made = pipe(request.texts[0], **({"generate_kwargs": settings} if settings else {}))
    samples = np.asarray(made["audio"], dtype=np.float32)
    samples = samples.reshape(-1, samples.shape[-1]).T  # [channels, samples] or one channel
    rate = int(made["sampling_rate"])
    if request.save is not None:
        write_audio(request.save, samples, rate)
    found = {"seconds": len(samples) / rate, "channels": samples.shape[1], "sampling_rate": rate}
    where = f"in {request.save}" if request.save is not None else "(--save FILE writes it to a WAV file)"
    return RunResult([f"{found['seconds']:.2f} s of audio at {rate} Hz {where}"], [found])
