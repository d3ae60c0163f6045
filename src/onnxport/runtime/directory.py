"""An exported directory: its manifest, its settings, its graphs, each loaded when it is first asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from onnxport.bundles.manifest import open_manifest
from onnxport.containment import inside
from onnxport.description.encoder_outputs import Interface, Modality, modalities_of
from onnxport.description.tasks import PAST_SUFFIX
from onnxport.errors import CorruptCheckpointError
from onnxport.runtime.graph import Graph
from onnxport.runtime.settings import RunSettings

_AUDIO_ROWS = 500
"""Longest audio, in rows, of the one encoder with `audio_input_features` that format 1 knew (Phi-4-multimodal)."""


class Directory:
    """Open what an export wrote.

    Args:
        path: the directory.
        settings: where and how its graphs are run.

    Raises:
        CheckpointNotFoundError: it isn't a directory that onnxport wrote, or lacks a file.
        CorruptCheckpointError: its manifest is damaged.
    """

    def __init__(self, path: str | Path, settings: RunSettings | None = None) -> None:
        self.path = Path(path)
        self.settings = settings or RunSettings()
        self.manifest = open_manifest(self.path)
        self._graphs: dict[str, Graph] = {}

    @property
    def task(self) -> str:
        """The task without the suffix for the cache."""
        return self.manifest.task.removesuffix(PAST_SUFFIX)

    def has(self, component: str) -> bool:
        """Say whether there is a graph of this name."""
        return any(item.name == component for item in self.manifest.components)

    def graph(self, component: str) -> Graph:
        """Return a graph by its component's name."""
        if component not in self._graphs:
            file = next(item.file for item in self.manifest.components if item.name == component)
            self._graphs[component] = Graph(inside(self.path, file), self.settings)
        return self._graphs[component]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """How what the encoders return gets into the decoder."""
        if self.manifest.format_version > 1:
            return self.manifest.modalities
        return self._modalities_of_format_1

    @cached_property
    def _modalities_of_format_1(self) -> tuple[Modality, ...]:
        """What the manifest's first version left to the names of the graphs."""
        graphs = {
            item.name: Interface([value.name for value in item.inputs], [value.name for value in item.outputs])
            for item in self.manifest.components
        }
        config = json.loads(json.dumps(self.config), object_hook=lambda values: SimpleNamespace(**values))
        return tuple(
            replace(found, max_length=_AUDIO_ROWS * config.audio_config.time_reduction)
            if found.input == "audio_input_features"
            else found
            for found in modalities_of(cast("Any", config), graphs)
        )

    def read(self, name: str) -> dict[str, Any]:
        """Read a JSON file, empty where there is none.

        Raises:
            CorruptCheckpointError: it isn't a JSON object.
        """
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorruptCheckpointError(f"{file} isn't JSON: {error}; export the model again") from error
        if not isinstance(values, dict):
            raise CorruptCheckpointError(f"{file} isn't a JSON object; export the model again")
        return values

    @cached_property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return self.read("config.json")

    @cached_property
    def generation(self) -> dict[str, Any]:
        """What `generation_config.json` says."""
        return self.read("generation_config.json")

    def setting(self, name: str) -> Any:
        """Return a value that the generation settings or, else, the configuration or its decoder's have."""
        config = self.config
        places = (self.generation, config, config.get("decoder"), config.get("text_config"))
        return next((place[name] for place in places if place and place.get(name) is not None), None)

    @property
    def first_token(self) -> int:
        """The token that a decoder starts from, as Transformers finds it."""
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        found = (self.setting(name) for name in names)
        return next((int(token) for token in found if token is not None), 0)
