"""`onnxport run DIR`: run an exported directory on one input."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.cli._options import add_dtype
from onnxport.cli._outcome import DONE
from onnxport.cli._sampling import add_sampling, sampling_from, with_length
from onnxport.errors import OptionError

if TYPE_CHECKING:
    from onnxport.cli._request import RunRequest, RunResult
    from onnxport.runtime.directory import Directory

_DEFAULT_MAX_NEW_TOKENS = 20
_SPEECH = "automatic-speech-recognition"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add = parser.add_argument
    add("directory", metavar="DIR", help="directory that onnxport export wrote")
    add("--text", "--prompt", action="append", default=[], help="input text or prompt; repeat it for several")
    add("--text-pair", action="append", default=[], metavar="TEXT", help="second sequence of each --text")
    add("--question", metavar="TEXT", help="question about the context (question answering)")
    add("--context", dest="text", action="append", metavar="TEXT", help="context of the question: the same as --text")
    add("--image", action="append", default=[], metavar="FILE", help="input image; repeat it for several")
    text = "input audio: WAV, FLAC, Ogg or MP3, of any sampling rate; repeat it for several"
    add("--audio", action="append", default=[], metavar="FILE", help=text)
    add("--input-ids", type=_token_ids, default=(), metavar="ID,ID,...", help="token ids instead of text")
    add("--language", metavar="NAME", help="language of the audio, such as en (Whisper; detected by default)")
    text = "write down the audio, or translate it to English (Whisper; default: the checkpoint's)"
    add("--task", dest="audio_task", choices=("transcribe", "translate"), help=text)
    add("--source-language", metavar="CODE", help="language of the text, as the tokenizer names it (translators)")
    add("--target-language", metavar="CODE", help="language to translate to, as the tokenizer names it (translators)")
    text = "write generated audio to this WAV file, which is replaced if it exists (text-to-audio)"
    add("--save", type=Path, metavar="FILE", help=text)
    text = "export of a vocoder, for models that generate spectrograms (text-to-audio)"
    add("--vocoder", type=Path, metavar="DIR", help=text)
    add("--adapter", type=Path, metavar="FILE", help="adapter to run with, for an export with --adapter-inputs")
    add_dtype(parser)
    add_sampling(parser)
    add("--stream", action="store_true", help="print generated text token by token")
    add("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run the model, and print the result."""
    from onnxport.cli._rendering import print_json, print_line
    from onnxport.cli._request import RunRequest
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.settings import RunSettings

    request = RunRequest(
        texts=tuple(arguments.text),
        text_pairs=tuple(arguments.text_pair),
        question=arguments.question,
        images=tuple(arguments.image),
        audio=tuple(arguments.audio),
        input_ids=arguments.input_ids,
        language=arguments.language,
        audio_task=arguments.audio_task,
        source_language=arguments.source_language,
        target_language=arguments.target_language,
        save=arguments.save,
        vocoder=arguments.vocoder,
    )
    directory = Directory(arguments.directory, RunSettings(adapter=arguments.adapter, dtype=arguments.dtype))
    stream = arguments.stream and not arguments.json
    result = _run(directory, request, sampling_from(arguments), stream=stream)
    if arguments.json:
        print_json(result.values)
    elif result.lines:
        print_line("\n".join(result.lines))
    return DONE


def _run(directory: Directory, request: RunRequest, settings: dict[str, Any], *, stream: bool) -> RunResult:
    from onnxport.cli._generation import generate
    from onnxport.cli._tasks import recognize_speech, run_task
    from onnxport.cli._text_to_audio import TEXT_TO_AUDIO, generate_audio
    from onnxport.runtime.light import LightModel

    generates = LightModel(directory).can_generate
    is_audio = directory.task == TEXT_TO_AUDIO and not request.input_ids
    is_speech = directory.task == _SPEECH and not request.input_ids
    made = _AUDIO if is_audio else (_TRANSCRIPT if is_speech else _GENERATED) if generates else ""
    _check_options(directory, request, settings, made)
    if is_audio:
        return generate_audio(directory, request, settings)
    if is_speech:
        return recognize_speech(directory, request, settings)
    if generates:
        return generate(directory, request, with_length(settings, directory, _DEFAULT_MAX_NEW_TOKENS), stream=stream)
    return run_task(directory, request)


_AUDIO, _TRANSCRIPT, _GENERATED = "audio", "transcript", "text"
"""What is generated; empty for a task that doesn't generate."""


def _check_options(directory: Directory, request: RunRequest, settings: dict[str, Any], made: str) -> None:
    """Check that the options apply.

    Raises:
        OptionError: one doesn't apply to the directory's task.
    """
    options: dict[str, dict[str, Any]] = {
        _TRANSCRIPT: {"--language": request.language, "--task": request.audio_task},
        _GENERATED: {"--source-language": request.source_language, "--target-language": request.target_language},
        _AUDIO: {"--save": request.save, "--vocoder": request.vocoder},
    }
    unused = {name: value for kind, named in options.items() if kind != made for name, value in named.items()}
    if not made:
        unused |= {f"--{name.replace('_', '-')}": value for name, value in settings.items() if name != "do_sample"}
        unused |= {"--greedy": True} if settings.get("do_sample") is False else {}
    names = [name for name, value in unused.items() if value is not None]
    if names:
        raise OptionError(f"{', '.join(names)} can't be used with an export for {directory.task}: leave it out")


def _token_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a list of token ids like 5,12,7") from None
