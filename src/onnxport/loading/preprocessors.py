"""Load the tokenizer, image processor, feature extractor or processor that a checkpoint has, if it has one."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.architectures._table import architecture_of
from onnxport.checkpoint.checkpoint import SIDE_JSON_FILES, Checkpoint
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.quiet import quiet
from onnxport.containment import inside
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UntrustedCodeError
from onnxport.options import CheckpointOptions

logger = logging.getLogger(__name__)

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model", "source.spm", "target.spm", "bpe.codes",
    "vocab.bpe", "prophetnet.tokenizer", "tiktoken.model", "spm.model", "spm_char.model",
)  # fmt: skip


def load_preprocessor(checkpoint: Checkpoint, options: CheckpointOptions) -> Any:
    """Load what turns text, images or sound into the model's inputs.

    Args:
        checkpoint: the checkpoint; only its own files are used, or its adapter's.
        options: whether code may run.

    Returns:
        A processor, tokenizer, image processor or feature extractor; `None` when the checkpoint has no file for
        one, or a vocabulary that the model type's tokenizer doesn't read (a log record says so).

    Raises:
        CorruptCheckpointError: a file is malformed.
        CheckpointNotFoundError: there are settings of a tokenizer, and no vocabulary of any kind.
        UntrustedCodeError: it is code that isn't allowed to run.
    """
    checkpoint = replace(checkpoint, directory=checkpoint.preprocessor_directory, adapter=None)
    check_audio_tokenizer(checkpoint.directory)
    kinds = _kinds(checkpoint)
    failures: list[str] = []
    for kind in kinds:
        try:
            loaded = _load(kind, checkpoint, options)
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise UntrustedCodeError(
                    f"{checkpoint.name}: its preprocessor is code of the repository, which would run on this machine; "
                    f"read that code, and pass --trust-remote-code (trust_remote_code=True) if you trust it"
                ) from error
            _refuse_damaged_tokenizer(checkpoint, error)
            failures.append(f"{kind}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        if not (unread := _unread_vocabulary(loaded, checkpoint)):
            return _with_settings(loaded, checkpoint, options)
        failures.append(f"{type(loaded).__name__} reads {unread}, and none of them is there")
    if failures:
        _refuse_lost_vocabulary(checkpoint, "; ".join(failures))
        logger.warning("%s: the preprocessor couldn't be loaded (%s)", checkpoint.name, "; ".join(failures))
    return None


@dataclass(frozen=True)
class Preprocessors:
    """Hold a tokenizer and an image processor or feature extractor that no processor holds together.

    Attributes:
        tokenizer: the tokenizer.
        image_processor: what prepares pictures, None where the checkpoint is about sounds.
        feature_extractor: what prepares sounds, None where the checkpoint is about pictures.
    """

    tokenizer: Any
    image_processor: Any = None
    feature_extractor: Any = None

    def save_pretrained(self, directory: Any) -> None:
        """Write the files of both."""
        for part in (self.tokenizer, self.image_processor, self.feature_extractor):
            if part is not None:
                part.save_pretrained(directory)


def _with_settings(loaded: Any, checkpoint: Checkpoint, options: CheckpointOptions) -> Any:
    """Put a tokenizer and an image processor or feature extractor together where no processor class does."""
    from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedTokenizerBase

    if isinstance(loaded, ImageProcessingMixin | FeatureExtractionMixin):
        if not any((checkpoint.directory / name).is_file() for name in _TOKENIZER_FILES):
            return loaded
        part = "image_processor" if isinstance(loaded, ImageProcessingMixin) else "feature_extractor"
        return Preprocessors(_load("AutoTokenizer", checkpoint, options), **{part: loaded})
    if not isinstance(loaded, PreTrainedTokenizerBase):
        return loaded
    if not (checkpoint.directory / "preprocessor_config.json").is_file():
        return loaded
    kind = _settings_kind(checkpoint)
    part = "image_processor" if kind == "AutoImageProcessor" else "feature_extractor"
    return Preprocessors(loaded, **{part: _load(kind, checkpoint, options)})


def _kinds(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the auto classes to try, the one that fits the files best first."""
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
        alone = (_settings_kind(checkpoint),) if has_settings else ()
        return ("AutoProcessor", *alone, *(("AutoTokenizer",) if has_tokenizer else ()))
    if has_settings:
        return (_settings_kind(checkpoint), "AutoProcessor")
    return ("AutoTokenizer",) if has_tokenizer else ()


def _settings_kind(checkpoint: Checkpoint) -> str:
    settings = read_json_object(
        checkpoint.directory / "preprocessor_config.json", purpose=SIDE_JSON_FILES["preprocessor_config.json"]
    )
    extractor = str(settings.get("feature_extractor_type", ""))
    is_image = "image_processor_type" in settings or "image_mean" in settings or "do_resize" in settings
    return "AutoImageProcessor" if is_image or not extractor else "AutoFeatureExtractor"


def _load(kind: str, checkpoint: Checkpoint, options: CheckpointOptions) -> Any:
    import transformers

    extra: dict[str, Any] = {"gguf_file": checkpoint.weight_files[0].name} if checkpoint.format == "gguf" else {}
    with quiet():
        return getattr(transformers, kind).from_pretrained(
            checkpoint.directory, trust_remote_code=options.trust_remote_code, local_files_only=True, **extra
        )


def check_audio_tokenizer(directory: Path) -> None:
    """Check that a processor's audio tokenizer is no directory of this machine outside of its own.

    `ProcessorMixin.get_processor_dict` loads the model that `audio_tokenizer_name_or_path` names, for Dia,
    wherever that is.

    Raises:
        CorruptCheckpointError: it is elsewhere.
    """
    for name in ("processor_config.json", "audio_tokenizer_config.json"):
        file = directory / name
        settings: object = read_json_object(file, purpose="the processor's settings") if file.is_file() else {}
        if name == "processor_config.json" and isinstance(settings, dict):
            settings = settings.get("audio_tokenizer")
        path = settings.get("audio_tokenizer_name_or_path") if isinstance(settings, dict) else None
        if isinstance(path, str) and os.path.exists(path):
            inside(directory.absolute(), Path(path).absolute(), file)


def _unread_vocabulary(loaded: Any, checkpoint: Checkpoint) -> str:
    """Return the files that a tokenizer reads when it has none of them: it would know special tokens only."""
    names = sorted(set((getattr(loaded, "vocab_files_names", None) or {}).values()))
    if checkpoint.format == "gguf" or any((checkpoint.directory / name).is_file() for name in names):
        return ""
    return " or ".join(names)


def _refuse_lost_vocabulary(checkpoint: Checkpoint, reason: str) -> None:
    """Raise when a tokenizer's settings came without its vocabulary."""
    held = [name for name in _TOKENIZER_FILES if (checkpoint.directory / name).is_file()]
    if held == ["tokenizer_config.json"]:
        raise CheckpointNotFoundError(
            f"{checkpoint.directory} has tokenizer_config.json, but no vocabulary of a tokenizer ({reason}). "
            f"Download it too, or remove tokenizer_config.json to export the model without a tokenizer"
        )


def _refuse_damaged_tokenizer(checkpoint: Checkpoint, error: Exception) -> None:
    """Raise when `tokenizer.json` itself is what can't be read."""
    path = checkpoint.directory / "tokenizer.json"
    if not path.is_file():
        return
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as reason:  # noqa: BLE001  the tokenizers library raises bare Exception
        raise CorruptCheckpointError(
            f"{path}: the tokenizer can't be read ({' '.join(str(reason).split())[:300]}); "
            f"download or save the file again"
        ) from error
