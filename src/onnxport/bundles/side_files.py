"""Copy a checkpoint's other files: configuration, generation configuration, tokenizer, processors.

The modules of a sentence-transformers directory are copied with their weights, which the ONNX backend of
sentence-transformers reads in addition to the graph.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onnxport.bundles.client_settings import (
    portable_preprocessor_settings,
    portable_tokenizer_settings,
    read_json,
    rewrite_json,
    with_labels,
    with_sizes,
    with_vocabulary,
)
from onnxport.checkpoint.sentence_transformers import LIST_FILE
from onnxport.containment import files_inside
from onnxport.patching.scope import exclusive

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedConfig

    from onnxport.checkpoint.checkpoint import Checkpoint
    from onnxport.description.preprocessor import Preprocessor

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
    "decision.json",
    "decision_template.jinja",
    "README.md",
    "LICENSE*",
)
"""Patterns of the files that clients read in addition to a graph, and of the license and the model card."""


class CheckpointObjects(Protocol):
    """Configuration and preprocessor of a checkpoint, loaded on first access."""

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration."""

    @property
    def preprocessor(self) -> Preprocessor | None:
        """Tokenizer, processor, image processor or feature extractor; None if the checkpoint has none."""

    @property
    def generation_config(self) -> GenerationConfig | None:
        """The generation configuration derived from `config`; None for a model that doesn't generate."""


_TOKENIZER_FILES = ("tokenizer", "vocab", "spiece", "sentencepiece")


def side_files(directory: Path, preprocessor: Path | None = None) -> list[Path]:
    """List the files to copy other than weights, sorted by name.

    Args:
        directory: the checkpoint.
        preprocessor: another directory, whose tokenizer and processor take precedence over the checkpoint's.

    Raises:
        CorruptCheckpointError: a file is a link out of the directory.
    """
    files = {path.name: path for path in files_inside(directory, *_NAMES)}
    if preprocessor not in (None, directory):
        model_files = ("config.json", "generation_config.json", "README", "LICENSE")
        files |= {path.name: path for path in side_files(preprocessor) if not path.name.startswith(model_files)}
    return [files[name] for name in sorted(files)]


def write_side_files(
    stage: Path,
    originals: list[Path],
    original: CheckpointObjects,
    *,
    labelled: bool = False,
    own_tokenizer: bool = True,
    has_adapter: bool = False,
) -> None:
    """Copy the checkpoint's files, and save the missing ones that clients require.

    Settings that only Transformers 5 supports are rewritten; see `onnxport.bundles.client_settings`.

    Args:
        stage: the staging directory.
        originals: result of `side_files`.
        original: saves the configuration if the checkpoint has none (GGUF), and the preprocessor if the checkpoint has
            older formats without `tokenizer.json`; files of the checkpoint take precedence.
        labelled: whether the outputs of the exported task are scores of labels.
        own_tokenizer: whether the checkpoint's tokenizer files are copied; otherwise, its tokenizer is saved as it was
            loaded.
        has_adapter: whether an adapter may have resized the vocabulary.
    """
    if not own_tokenizer:
        originals = [path for path in originals if not path.name.startswith(_TOKENIZER_FILES)]
    names = {path.name for path in originals}
    has_old_format = "tokenizer.json" not in names and any(name.startswith(_TOKENIZER_FILES) for name in names)
    with exclusive():
        if "config.json" not in names:
            original.config.save_pretrained(stage)
            if "generation_config.json" not in names and original.generation_config is not None:
                original.generation_config.save_pretrained(stage)
        is_saved = "config.json" not in names or has_old_format or not own_tokenizer
        if is_saved and original.preprocessor is not None:
            original.preprocessor.save_pretrained(stage)
    for path in originals:
        if path.name == "config.json" and b"quantization_config" in path.read_bytes():
            _write_unquantized(path, stage / path.name)
        else:
            shutil.copyfile(path, stage / path.name)
    rewrite_json(
        stage / "config.json",
        lambda settings: with_sizes(with_labels(settings, lambda: original.config, labelled=labelled)),
    )
    if has_adapter:
        rewrite_json(stage / "config.json", lambda settings: with_vocabulary(settings, original.config))
    if (stage / "tokenizer_config.json").is_file():
        rewrite_json(stage / "tokenizer_config.json", portable_tokenizer_settings)
    processor = read_json(stage / "processor_config.json")
    rewrite_json(
        stage / "preprocessor_config.json", lambda settings: portable_preprocessor_settings(settings, processor)
    )


def _write_unquantized(path: Path, target: Path) -> None:
    """Write a configuration without `quantization_config`: the exported weights are in floating point."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for values in (config, config.get("text_config")):
        if isinstance(values, dict):
            values.pop("quantization_config", None)
    target.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def module_files(checkpoint: Checkpoint) -> dict[str, Path]:
    """Map paths relative to the output to files of the model's sentence-transformers directory."""
    root, directory = checkpoint.root, checkpoint.directory
    if root is None:
        return {}
    return {
        (path.relative_to(directory if path.parent == directory else root)).as_posix(): path
        for path in checkpoint.more_files
    }


def write_module_files(stage: Path, checkpoint: Checkpoint) -> None:
    """Copy the modules of a sentence-transformers directory, with an empty path of the Transformer in `modules.json`.

    Args:
        stage: the staging directory.
        checkpoint: the Transformer, in the sentence-transformers directory or, in older releases, a subdirectory.
    """
    for name, path in module_files(checkpoint).items():
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():  # linked weights
            continue
        listed = json.loads(path.read_text(encoding="utf-8")) if name == LIST_FILE else []
        has_route = [entry["path"] for entry in listed] != [module.path for module in checkpoint.listed]
        if name != LIST_FILE or (checkpoint.root == checkpoint.directory and not has_route):
            shutil.copyfile(path, target)
            continue
        if has_route:
            modules = enumerate(checkpoint.listed)
            listed = [{"idx": i, "name": str(i), "path": one.path, "type": one.full_type} for i, one in modules]
        listed[0]["path"] = ""
        target.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
