"""An exported directory: its manifest, its JSON files, and its graphs, each loaded when it is first used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from onnxport.bundles.adapter_names import adapter_file
from onnxport.bundles.manifest import open_manifest
from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.typed_values import typed
from onnxport.containment import inside
from onnxport.description.axes import is_cached
from onnxport.description.encoder_outputs import Interface, Modality, modalities_of
from onnxport.description.lengths import positions_in
from onnxport.description.positions import INPUT_IDS
from onnxport.description.tasks import PAST_SUFFIX
from onnxport.errors import CorruptCheckpointError, OnnxportError, OptionError, ReplacedExportError
from onnxport.runtime.graph import Graph
from onnxport.runtime.settings import RunSettings
from onnxport.runtime.token_embedding import EMBEDDING, EMBEDS, TokenEmbedding

_MAX_AUDIO_EMBEDDINGS = 500
"""Maximum number of audio embeddings in exports of format 1 with `audio_input_features` (Phi-4-multimodal)."""


"""Input of a decoder that the layout of onnxruntime-genai leaves out."""


class Directory:
    """Open an exported directory.

    Args:
        path: the directory.
        settings: device, execution providers and session options of its graphs.

    Raises:
        CheckpointNotFoundError: the directory wasn't written by onnxport, or lacks a file.
        CorruptCheckpointError: its manifest is damaged.
        OptionError: the settings have an adapter, and its graphs have no inputs for one; or a precision that it lacks;
            or the directory is for onnxruntime-genai alone.
        ReplacedExportError: another export replaces it; also later, when a file of it is read.
    """

    def __init__(self, path: str | Path, settings: RunSettings | None = None) -> None:
        self.path = Path(path)
        self.settings = settings or RunSettings()
        self._identity = _identity(self.path)
        with self.unreplaced():
            manifest = open_manifest(self.path)
        dtype = self.settings.dtype or manifest.dtypes[0]
        if dtype not in manifest.dtypes:
            found, wanted = list(filter(None, manifest.dtypes)), dtype.split(",")
            all_of_them = f"export it with --dtype {','.join(dict.fromkeys((*found, *wanted)))}"
            raise OptionError(
                f"{self.path} has no graphs of dtype {dtype!r}, only of {', '.join(found)}; "
                f"{'name one of them' if set(wanted) <= set(found) else all_of_them}"
            )
        manifest.check_runnable(self.path)
        self._model_names = {item.name: item.model_names for item in manifest.of_dtype(dtype).components}
        self.manifest = manifest.of_dtype(dtype).with_model_names()
        self._graphs: dict[str, Graph] = {}
        self._adapted = [component.name for component in self.manifest.components if component.adapter_inputs]
        if self.settings.adapter is not None and not self._adapted:
            raise OptionError(f"{self.path} has no inputs for adapters: export it with --adapter-inputs")

    @property
    def task(self) -> str:
        """The task, without `-with-past`."""
        return self.manifest.task.removesuffix(PAST_SUFFIX)

    @property
    def component_names(self) -> list[str]:
        """Names of the components (graphs)."""
        return [item.name for item in self.manifest.components]

    @cached_property
    def input_names(self) -> frozenset[str]:
        """Names of the inputs of all graphs."""
        return frozenset(value.name for item in self.manifest.components for value in item.inputs)

    def axes_of(self, name: str) -> tuple[int | str, ...]:
        """Return the axes of an input, of the first graph that has it; none if no graph has it."""
        found = (value.axes for item in self.manifest.components for value in item.inputs if value.name == name)
        return next(found, ())

    def fixed_length(self, name: str) -> int | None:
        """Return the size of an input's last axis, a number of tokens or samples.

        None if it is dynamic, no graph takes the input, or a graph with a cache does: it takes some tokens at a time.
        """
        found = next((item for item in self.manifest.components if name in [one.name for one in item.inputs]), None)
        if found is None or any(is_cached(one.name) for one in found.inputs):
            return None
        size = self.axes_of(name)[-1]
        return size if isinstance(size, int) else None

    def has(self, component: str) -> bool:
        """Return whether the directory has a component of this name."""
        return component in self.component_names

    def _adapter_of(self, component: str) -> Path | None:
        """Return the adapter's file for a graph; None without an adapter, or if the graph has no inputs for it."""
        file = self.settings.adapter
        return adapter_file(file, component, self._adapted) if file is not None and component in self._adapted else None

    def graph(self, component: str) -> Graph:
        """Return a component's graph, loaded on the first call.

        Raises:
            CorruptCheckpointError: the manifest has no such component.
        """
        if component not in self._graphs:
            found = next((item for item in self.manifest.components if item.name == component), None)
            if found is None:
                raise CorruptCheckpointError(
                    f"{self.path} has no component {component}, only {', '.join(self.component_names)}; export it again"
                )
            file, positions = inside(self.path, found.file), positions_in(self.config)
            defaults = self.manifest.defaults
            settings = replace(self.settings, adapter=self._adapter_of(component))
            with self.unreplaced():
                graph = Graph(file, settings, found.max_sizes, positions, defaults, self._model_names[component])
            graph.shares_cache = found.shares_cache and settings.on_cpu
            self._graphs[component] = graph
            if EMBEDS in graph.inputs and self.has(EMBEDDING):
                counts_ids = self.manifest.positions == INPUT_IDS and "position_ids" not in graph.inputs
                padding = self.setting("pad_token_id") if counts_ids else None
                graph.embedding = TokenEmbedding(self.graph(EMBEDDING), padding)
        return self._graphs[component]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """How the encoders' embeddings are merged into the decoder's inputs."""
        if self.manifest.format_version > 1:
            return self.manifest.modalities
        return self._modalities_of_format_1

    @cached_property
    def _modalities_of_format_1(self) -> tuple[Modality, ...]:
        """The modalities for a manifest of format 1, which lacks them, derived from the graphs' inputs and outputs."""
        graphs = {
            item.name: Interface([value.name for value in item.inputs], [value.name for value in item.outputs])
            for item in self.manifest.components
        }
        config = json.loads(json.dumps(self.config), object_hook=lambda values: SimpleNamespace(**values))
        return tuple(
            replace(found, max_length=_MAX_AUDIO_EMBEDDINGS * config.audio_config.time_reduction)
            if found.input == "audio_input_features"
            else found
            for found in modalities_of(cast("Any", config), graphs)
        )

    def read(self, name: str) -> dict[str, Any]:
        """Read a JSON file; return an empty dictionary if it doesn't exist.

        Raises:
            CorruptCheckpointError: it isn't a JSON object.
        """
        file = self.path / name
        with self.unreplaced():
            return read_json_object(file, purpose="a file of the export") if file.is_file() else {}

    @contextmanager
    def unreplaced(self) -> Iterator[None]:
        """Read files of the directory in a block, which are of one export: graph, weights, settings and manifest.

        Raises:
            ReplacedExportError: another export has replaced the directory since it was opened.
        """
        cause: OnnxportError | None = None
        try:
            yield
        except OnnxportError as error:
            cause = error
        if _identity(self.path) != self._identity:
            raise ReplacedExportError(
                f"{self.path} was replaced by another export while it was loaded; load it again"
            ) from cause
        if cause is not None:
            raise cause

    @cached_property
    def config(self) -> dict[str, Any]:
        """Contents of `config.json`."""
        return self.read("config.json")

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """Contents of `generation_config.json`."""
        return self.read("generation_config.json")

    def setting(self, name: str) -> Any:
        """Return a value from the generation config, the config, or its `decoder` or `text_config`, in this order.

        Raises:
            CorruptCheckpointError: it isn't a token id, and its name ends with `token_id`.
        """
        config = self.config
        parts = (config.get("decoder"), config.get("text_config"))
        sources = (self.generation_config, config, *(part for part in parts if isinstance(part, dict)))
        found = next((source[name] for source in sources if source.get(name) is not None), None)
        if not name.endswith("token_id"):
            return found
        try:
            return typed(found, cast("type[Any]", int | list[int] | None), name)
        except ValueError as error:
            raise CorruptCheckpointError(f"{self.path}: {error}; correct config.json, or export again") from error

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids of the tokens that end a sequence."""
        ids = self.setting(self.manifest.end_token)
        return frozenset(int(index) for index in (ids if isinstance(ids, list) else [ids]) if index is not None)

    @property
    def decoder_start_token_id(self) -> int:
        """Id of the token that an encoder-decoder starts from, with the fallbacks of Transformers' `generate`."""
        names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
        found = (self.setting(name) for name in names)
        return next((token[0] if isinstance(token, list) else token for token in found if token not in (None, [])), 0)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a directory, which differ if another one replaces it; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
