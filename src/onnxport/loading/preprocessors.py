"""Load the tokenizer, image processor, feature extractor or processor of a checkpoint, if it has one."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from onnxport._foreign_errors import translating
from onnxport.architectures._table import architecture_of
from onnxport.checkpoint.checkpoint import SIDE_JSON_FILES, Checkpoint
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.quiet import quiet
from onnxport.containment import inside
from onnxport.description.preprocessor import Preprocessor, Preprocessors
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UntrustedCodeError
from onnxport.options import CheckpointOptions

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "source.spm", "target.spm", "bpe.codes",
    "vocab.bpe", "prophetnet.tokenizer", "tiktoken.model", "spm.model", "spm_char.model",
)  # fmt: skip


def load_preprocessor(checkpoint: Checkpoint, options: CheckpointOptions) -> Preprocessor | None:
    """Load the preprocessor that converts text, images or audio into the model's inputs.

    Args:
        checkpoint: the checkpoint; only its files, or its adapter's, are used.
        options: `trust_remote_code`.

    Returns:
        A processor, tokenizer, image processor or feature extractor; None if the checkpoint has no files for one, or
        only a vocabulary that the model type's tokenizer can't read (a warning is logged).

    Raises:
        CorruptCheckpointError: a file is malformed.
        CheckpointNotFoundError: there is a `tokenizer_config.json` but no vocabulary.
        UntrustedCodeError: the preprocessor is remote code, and `trust_remote_code` is false.
    """
    if checkpoint.sentence and checkpoint.sentence.static:
        return _static_tokenizer(checkpoint)
    checkpoint = replace(checkpoint, directory=checkpoint.preprocessor_directory, adapter=None)
    check_audio_tokenizer(checkpoint.directory)
    failures: list[str] = []
    for auto_class in _auto_classes(checkpoint):
        try:
            loaded = _load(auto_class, checkpoint, options)
        except UnreadablePreprocessorError as error:
            if "trust_remote_code" in str(error.__cause__):
                raise UntrustedCodeError(
                    f"{checkpoint.name}: its preprocessor is code of the repository, which would run on this machine; "
                    f"read that code, and pass --trust-remote-code (trust_remote_code=True) if you trust it"
                ) from error
            _raise_if_damaged(checkpoint)
            failures.append(f"{auto_class}: {error.reason}")
            continue
        if not (unread := _unread_vocabulary(loaded, checkpoint)):
            return _combined(loaded, checkpoint, options)
        failures.append(f"{type(loaded).__name__} reads {unread}, which the checkpoint doesn't have")
    if failures:
        _raise_if_vocabulary_missing(checkpoint, "; ".join(failures))
        logger.warning("%s: the preprocessor couldn't be loaded (%s)", checkpoint.name, "; ".join(failures))
    return None


def _static_tokenizer(checkpoint: Checkpoint) -> Preprocessor | None:
    """Load the tokenizer of static embeddings, which adds no special tokens; None for a tokenizer of words."""
    path = checkpoint.directory / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    _raise_if_damaged(checkpoint)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.post_processor = processors.Sequence([])
    vocabulary = tokenizer.get_vocab()
    padding = next(
        (token for token in _PADDING_TOKENS if token in vocabulary), min(vocabulary, key=vocabulary.__getitem__)
    )
    names = ["input_ids", "attention_mask"]
    return cast(
        "Preprocessor", PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=padding, model_input_names=names)
    )


_PADDING_TOKENS = ("[PAD]", "<pad>", "<|endoftext|>")


def _combined(loaded: Preprocessor, checkpoint: Checkpoint, options: CheckpointOptions) -> Preprocessor:
    """Combine a tokenizer with an image processor or feature extractor, if there is no processor class."""
    from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedTokenizerBase

    if isinstance(loaded, ImageProcessingMixin | FeatureExtractionMixin):
        if not any((checkpoint.directory / name).is_file() for name in _TOKENIZER_FILES):
            return cast("Preprocessor", loaded)
        part = "image_processor" if isinstance(loaded, ImageProcessingMixin) else "feature_extractor"
        return Preprocessors(cast("Any", _load("AutoTokenizer", checkpoint, options)), **{part: loaded})
    if not isinstance(loaded, PreTrainedTokenizerBase):
        return loaded
    if not (checkpoint.directory / "preprocessor_config.json").is_file():
        return cast("Preprocessor", loaded)
    auto_class = _settings_class(checkpoint)
    part = "image_processor" if auto_class == "AutoImageProcessor" else "feature_extractor"
    return Preprocessors(loaded, **{part: cast("Any", _load(auto_class, checkpoint, options))})


def _auto_classes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the Auto classes to try, with the best match for the files first."""
    directory = checkpoint.directory
    if checkpoint.format == "gguf":
        return ("AutoTokenizer",)
    for name, purpose in SIDE_JSON_FILES.items():
        if (directory / name).is_file():
            read_json_object(directory / name, purpose=purpose)
    record = architecture_of(checkpoint.model_type)
    if record is not None and record.preprocessors:
        return record.preprocessors
    has_tokenizer = any((directory / name).is_file() for name in _TOKENIZER_FILES)
    has_settings = (directory / "preprocessor_config.json").is_file()
    if (directory / "processor_config.json").is_file() or (has_settings and has_tokenizer):
        parts = (_settings_class(checkpoint),) if has_settings else ()
        return ("AutoProcessor", *parts, *(("AutoTokenizer",) if has_tokenizer else ()))
    if has_settings:
        return (_settings_class(checkpoint), "AutoProcessor")
    return ("AutoTokenizer",) if has_tokenizer else ()


def _settings_class(checkpoint: Checkpoint) -> str:
    """Return the Auto class that reads `preprocessor_config.json`."""
    settings = read_json_object(
        checkpoint.directory / "preprocessor_config.json", purpose=SIDE_JSON_FILES["preprocessor_config.json"]
    )
    extractor = str(settings.get("feature_extractor_type", ""))
    is_image = "image_processor_type" in settings or "image_mean" in settings or "do_resize" in settings
    return "AutoImageProcessor" if is_image or not extractor else "AutoFeatureExtractor"


class UnreadablePreprocessorError(CorruptCheckpointError):
    """Transformers can't load a preprocessor from a directory, or there is none.

    Args:
        directory: the directory.
        auto_class: name of the Auto class.
        error: Transformers' exception, whose type for missing or damaged files varies by class.

    Attributes:
        reason: type and start of the message of `error`.
    """

    def __init__(self, directory: Path, auto_class: str, error: Exception) -> None:
        self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        super().__init__(f"{directory}: {auto_class} can't load the preprocessor ({self.reason}); save its files again")


def read_preprocessor(
    directory: Path, auto_class: str, *, trust_remote_code: bool = False, gguf_file: str | None = None
) -> Preprocessor:
    """Load a preprocessor with an Auto class, from local files only.

    Raises:
        UnreadablePreprocessorError: Transformers can't load it.
    """
    import transformers

    extra = {} if gguf_file is None else {"gguf_file": gguf_file}
    with quiet(), translating(partial(UnreadablePreprocessorError, directory, auto_class)):
        loaded = getattr(transformers, auto_class).from_pretrained(
            directory, trust_remote_code=trust_remote_code, local_files_only=True, **extra
        )
    return cast("Preprocessor", loaded)


def _load(auto_class: str, checkpoint: Checkpoint, options: CheckpointOptions) -> Preprocessor:
    gguf_file = checkpoint.weight_files[0].name if checkpoint.format == "gguf" else None
    return read_preprocessor(
        checkpoint.directory, auto_class, trust_remote_code=options.trust_remote_code, gguf_file=gguf_file
    )


def check_audio_tokenizer(directory: Path) -> None:
    """Check that a processor's audio tokenizer isn't a local directory outside the checkpoint's directory.

    `ProcessorMixin.get_processor_dict` (Transformers 5.23) loads the model in `audio_tokenizer_name_or_path`, which Dia
    has, from any path.

    Raises:
        CorruptCheckpointError: the audio tokenizer is outside the checkpoint's directory.
    """
    for name in ("processor_config.json", "audio_tokenizer_config.json"):
        file = directory / name
        settings: object = read_json_object(file, purpose="the processor's settings") if file.is_file() else {}
        if name == "processor_config.json" and isinstance(settings, dict):
            settings = settings.get("audio_tokenizer")
        path = settings.get("audio_tokenizer_name_or_path") if isinstance(settings, dict) else None
        if isinstance(path, str) and os.path.exists(path):
            inside(directory.absolute(), Path(path).absolute(), file)


def _unread_vocabulary(loaded: Preprocessor, checkpoint: Checkpoint) -> str:
    """Return a tokenizer's vocabulary files if all are missing: its vocabulary would consist of special tokens only."""
    names = sorted(set((getattr(loaded, "vocab_files_names", None) or {}).values()))
    if checkpoint.format == "gguf" or any((checkpoint.directory / name).is_file() for name in names):
        return ""
    return " or ".join(names)


def _raise_if_vocabulary_missing(checkpoint: Checkpoint, reason: str) -> None:
    """Raise if there is a `tokenizer_config.json` without a vocabulary."""
    found = [name for name in _TOKENIZER_FILES if (checkpoint.directory / name).is_file()]
    if found == ["tokenizer_config.json"]:
        raise CheckpointNotFoundError(
            f"{checkpoint.directory} has tokenizer_config.json, but no vocabulary of a tokenizer ({reason}). "
            f"Download it too, or remove tokenizer_config.json to export the model without a tokenizer"
        )


def _raise_if_damaged(checkpoint: Checkpoint) -> None:
    """Raise if `tokenizer.json` can't be read."""
    path = checkpoint.directory / "tokenizer.json"
    if not path.is_file():
        return
    from tokenizers import Tokenizer

    def damaged(error: Exception) -> CorruptCheckpointError:
        reason = " ".join(str(error).split())[:300]
        return CorruptCheckpointError(
            f"{path}: the tokenizer can't be read ({reason}); download or save the file again"
        )

    with translating(damaged):  # tokenizers (as of 0.23) raises bare Exception for a bad file
        Tokenizer.from_file(str(path))
