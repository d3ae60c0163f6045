"""The record of a layout, and the export in the default layout that its functions read.

A layout is data: patterns of files, defaults of options, and functions from the content of a file to its new content.
Only `_arrange.py` touches the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxport.bundles.manifest import ComponentDescription, Manifest
from onnxport.checkpoint.json_files import read_json_object
from onnxport.containment import inside
from onnxport.options import ExportOptions

Settings = Mapping[str, Any]
"""Content of a JSON file."""


@dataclass(frozen=True)
class Exported:
    """Hold an export in the default layout.

    Attributes:
        directory: its directory.
        manifest: its manifest, with the graphs that are arranged.
        placed: the same graphs with their files in the layout; empty before they are placed.
    """

    directory: Path
    manifest: Manifest
    placed: tuple[ComponentDescription, ...] = ()

    @cached_property
    def config(self) -> Settings:
        """Content of `config.json`."""
        return self.read("config.json")

    @cached_property
    def text_config(self) -> Settings:
        """The part of `config.json` that describes the text decoder: `text_config`, or the whole."""
        nested = (self.config.get(name) for name in ("text_config", "llm_config", "language_config", "decoder"))
        return next((part for part in nested if isinstance(part, Mapping)), self.config)

    @property
    def model_type(self) -> str:
        """The model type."""
        return str(self.manifest.source.get("model_type", ""))

    @property
    def architecture(self) -> str:
        """The name of the model class."""
        return str(self.manifest.source.get("architecture", ""))

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return inside(self.directory, name, self.directory).is_file()

    def read(self, name: str) -> Settings:
        """Read a JSON file; return an empty mapping if it doesn't exist.

        Raises:
            CorruptCheckpointError: it isn't a JSON object.
        """
        return read_json_object(self.directory / name, purpose="a file of the export") if self.has(name) else {}

    def text(self, name: str) -> str:
        """Read a text file; return an empty string if it doesn't exist."""
        return (self.directory / name).read_text(encoding="utf-8") if self.has(name) else ""


Edit = Callable[[Settings, Exported], Settings]


def _no_texts(exported: Exported) -> Mapping[str, str]:
    return {}


def _as_placed(exported: Exported, target: Path) -> tuple[ComponentDescription, ...]:
    return exported.placed


def _no_warnings(exported: Exported) -> Iterable[str]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Describe how the files of an export are arranged for a client.

    Attributes:
        name: the name of `--layout`.
        client: the software that loads it, with the version that it was tested with.
        files: pattern of a file name (as in `fnmatch`) to its path in the layout; the first pattern that matches
            counts; None, or no pattern, leaves a file out. In the path, `{name}` is the file's name and `{stem}` the
            name up to `.onnx`.
        edits: JSON file to the function that returns its new content. It gets an empty mapping if the file doesn't
            exist; an empty result isn't written.
        texts: returns further text files, path to content.
        names: model type, or class, to the names of inputs and outputs that the client has others for: pattern of a
            whole name (a regular expression) to its replacement.
        graphs: class to the names of its graphs that the client has others for: name in the default layout to its own.
        absent: model type to inputs that the client never passes; its graph gets tensors without elements in place of
            them, as for those that aren't passed to the model.
        whole: model type to masks of features that the client never passes; its graph keeps all features.
        unmasked: model type to masks that the client never passes; its graph gets ones, as for inputs without padding.
        token_masks: class to the graphs that the client passes token ids without `attention_mask`; the graph masks
            padding tokens itself.
        unbatched: class to inputs that the client passes without the batch axis.
        logits_to_keep: whether the client passes decoders with a cache the input `num_logits_to_keep`.
        plain_attention: whether the client's ONNX Runtime lacks `query_seqlens` of `GroupQueryAttention`.
        exchange: changes what graphs of one model pass each other, if the client's do otherwise. It gets the export,
            whose `placed` graphs may be replaced in the target directory, and returns their descriptions.
        check: yields warnings about what the client can't load or use. It raises UnsupportedError if it can load
            nothing.
        options: field of `ExportOptions` to its default with this layout.
        type_options: model type to further ones.
        class_options: class to further ones, if no task is chosen, which would export another class.
        max_data_bytes: largest file of external data that the client reads, in bytes; None for any.
    """

    name: str
    client: str
    files: Mapping[str, str | None]
    edits: Mapping[str, Edit] = field(default_factory=dict)
    texts: Callable[[Exported], Mapping[str, str]] = _no_texts
    names: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    graphs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    absent: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmasked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    token_masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unbatched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    logits_to_keep: bool = False
    plain_attention: bool = False
    exchange: Callable[[Exported, Path], tuple[ComponentDescription, ...]] = _as_placed
    check: Callable[[Exported], Iterable[str]] = _no_warnings
    options: Mapping[str, Any] = field(default_factory=dict)
    type_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    max_data_bytes: int | None = None

    def with_defaults(
        self, options: ExportOptions, model_type: str, architectures: Iterable[str] = ()
    ) -> ExportOptions:
        """Return options in which those that weren't chosen have this layout's defaults.

        Args:
            options: the options of an export.
            model_type: the model type.
            architectures: the classes that `config.json` names.
        """
        wanted = {**self.options, **self.type_options.get(model_type, {})}
        for name in architectures if options.task is None else ():
            wanted |= self.class_options.get(name, {})
        unset = {item.name for item in fields(options) if getattr(options, item.name) == item.default}
        return replace(options, **{name: value for name, value in wanted.items() if name in unset})
