"""Everything of a checkpoint that isn't weights: configuration, generation settings, tokenizer, processors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

_NAMES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.spm",
    "*.bpe.model",
    "spiece.model",
    "sentencepiece*.model",
    "*preprocessor_config.json",
    "processor_config.json",
    "chat_template.*",
    "normalizer.json",
    "entity_vocab.json",
    "README.md",
    "LICENSE*",
)
"""Patterns of the files that clients read beside a graph; the licence and the model card go with the weights."""


class Original(Protocol):
    """What a checkpoint's side files are made from, loaded when it is asked for."""

    @property
    def config(self) -> Any:
        """The configuration."""

    @property
    def preprocessor(self) -> Any:
        """Tokenizer, processor, image processor or feature extractor; None where the checkpoint has none."""


_TOKENIZER_FILES = ("tokenizer", "vocab", "spiece", "sentencepiece")


def side_files(directory: Path, preprocessor: Path | None = None) -> list[Path]:
    """List the files that an export takes along, by name.

    Args:
        directory: the checkpoint.
        preprocessor: another directory, whose tokenizer and processor come before the checkpoint's.
    """
    found = {path.name: path for pattern in _NAMES for path in directory.glob(pattern) if path.is_file()}
    if preprocessor not in (None, directory):
        of_model = ("config.json", "generation_config.json", "README", "LICENSE")
        found |= {path.name: path for path in side_files(preprocessor) if not path.name.startswith(of_model)}
    return [found[name] for name in sorted(found)]


def write_side_files(stage: Path, originals: list[Path], original: Original) -> None:
    """Copy what the checkpoint has, and write what clients need and it lacks.

    Args:
        stage: directory to write into.
        originals: what `side_files` found.
        original: asked only for what the checkpoint lacks: its configuration where there is none (GGUF), its
            preprocessor where there are only older formats, so that today's (`tokenizer.json`) exist; the checkpoint's
            own files win.
    """
    names = {path.name for path in originals}
    if "config.json" not in names:
        original.config.save_pretrained(stage)
    has_old_format = "tokenizer.json" not in names and any(name.startswith(_TOKENIZER_FILES) for name in names)
    if ("config.json" not in names or has_old_format) and original.preprocessor is not None:
        original.preprocessor.save_pretrained(stage)
    for path in originals:
        if path.name == "config.json" and b"quantization_config" in path.read_bytes():
            _write_unquantized(path, stage / path.name)
        else:
            shutil.copyfile(path, stage / path.name)


def _write_unquantized(path: Path, target: Path) -> None:
    """Write a configuration without what it says of quantized weights: the export's are floating-point numbers."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part.pop("quantization_config", None)
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
