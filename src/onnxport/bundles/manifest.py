"""`onnxport.json`: the exported graphs, their checkpoint, the options and versions, and the validation report."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxport.checkpoint.json_files import parse_json_object
from onnxport.checkpoint.typed_values import typed
from onnxport.containment import check_links, inside
from onnxport.description.encoder_outputs import Modality
from onnxport.description.positions import END_TOKEN, TOKENS
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError
from onnxport.options import DEFAULT_LAYOUT

FILE_NAME = "onnxport.json"
FORMAT_VERSION = 2
"""2 added `modalities`."""


@dataclass(frozen=True)
class TensorDescription:
    """Describe one input or output.

    Attributes:
        name: flat name in the graph.
        dtype: ONNX element type in lower case, `int64` or `float32`.
        axes: for each axis its size, or its symbolic name if it is dynamic.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]


@dataclass(frozen=True)
class ComponentDescription:
    """Describe one graph of the directory.

    Attributes:
        name: the component's name, `model` for a single graph.
        file: file of the graph.
        external_data: external data files with its weights; empty if they are in the graph's file.
        opset: opset of the default ONNX domain.
        parameters: number of elements of all initializers.
        bytes: size of the graph's file and its external data, in bytes.
        inputs: in the graph's order.
        outputs: in the graph's order.
        fixed_axes: axes that the description declares as dynamic and the model fixes, as `input: label = size`.
        max_sizes: label of an input axis to the largest size that the graph computes as the model, of axes that have
            one.
        notes: the traced and stamped layers, and the reasons of slow fallbacks.
        adapter_inputs: optional inputs for the matrices of an adapter, in the graph's order.
        dtype: its precision, a name of `--dtype`; empty in manifests that were written before there were several.
        fused: with `--optimize`, the number of nodes of each fused operator.
        shares_cache: whether past and present of its cache may be one buffer that is longer than the cache.
        absent_inputs: inputs that a client's layout leaves out, because the client never passes them.
        model_names: name of an input or output that a client's layout has another name for, to the model's name.
    """

    name: str
    file: str
    external_data: tuple[str, ...]
    opset: int
    parameters: int
    bytes: int
    inputs: tuple[TensorDescription, ...]
    outputs: tuple[TensorDescription, ...]
    fixed_axes: tuple[str, ...] = ()
    max_sizes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    adapter_inputs: tuple[TensorDescription, ...] = ()
    dtype: str = ""
    fused: dict[str, int] = field(default_factory=dict)
    model_names: dict[str, str] = field(default_factory=dict)
    shares_cache: bool = False
    absent_inputs: tuple[str, ...] = ()

    def with_model_names(self) -> ComponentDescription:
        """Return the description with the model's names of inputs and outputs."""
        return replace(self, inputs=self._named(self.inputs), outputs=self._named(self.outputs))

    def _named(self, values: tuple[TensorDescription, ...]) -> tuple[TensorDescription, ...]:
        return tuple(replace(value, name=self.model_names.get(value.name, value.name)) for value in values)


@dataclass(frozen=True)
class Manifest:
    """Hold the content of `onnxport.json`.

    Attributes:
        task: the task that was exported.
        source: model name, revision, model type, architecture, weights format and digests.
        options: the options of the export, without the token.
        versions: package to version.
        components: the graphs.
        validation: the validation report as plain values.
        files: every other file of the directory.
        modalities: how the encoders' outputs are merged into the decoder's inputs; empty without separate encoders.
        left_out: parameter of the model's forward that no graph has as an input to the reason.
        positions: what the model's forward counts as position ids if it gets none; see `description.positions`.
        defaults: name of an input to what the model's forward takes if it isn't passed; see
            `description.description.Description`.
        reread_length: number of tokens beyond which generation reads all tokens again; see `description.positions`.
        image_processing: with `--image-processing`, the pre- and postprocessing of images in the graph; see
            `description.image_processing.ImageProcessing`.
        adds_tokens: whether generation adds tokens to those of each step; see `description.positions`.
        end_token: the setting with the token that ends a sequence; see `description.positions`.
        digests: SHA-256 of the directory's other files, by name, without those that are linked; empty in manifests that
            were written before there were digests.
        quantization: precision to how its parameters are quantized; see `weights.quantization`.
        layout: how the files are arranged, a name of `--layout`.
        client_only: whether the graphs pass each other what the layout's client does, and not what the runtime does.
        format_version: version of the format.
    """

    task: str
    source: dict[str, Any]
    options: dict[str, Any]
    versions: dict[str, str]
    components: tuple[ComponentDescription, ...]
    validation: dict[str, Any]
    files: tuple[str, ...] = ()
    modalities: tuple[Modality, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)
    positions: str = TOKENS
    defaults: dict[str, str] = field(default_factory=dict)
    reread_length: int = 0
    image_processing: dict[str, Any] = field(default_factory=dict)
    adds_tokens: bool = False
    end_token: str = END_TOKEN
    digests: dict[str, str] = field(default_factory=dict)
    quantization: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    layout: str = DEFAULT_LAYOUT
    client_only: bool = False
    format_version: int = field(default=FORMAT_VERSION)

    @property
    def architecture(self) -> str:
        """Name of the exported model class.

        Raises:
            CorruptCheckpointError: the manifest has none.
        """
        try:
            return typed(self.source.get("architecture"), str, "source.architecture")
        except ValueError as error:
            raise CorruptCheckpointError(f"{FILE_NAME} is damaged: {error}; export the model again") from error

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The precisions of the graphs, in the order of the export."""
        return tuple(dict.fromkeys(component.dtype for component in self.components))

    def of_dtype(self, dtype: str) -> Manifest:
        """Return the manifest with the graphs of one precision alone."""
        return replace(self, components=tuple(item for item in self.components if item.dtype == dtype))

    def with_model_names(self) -> Manifest:
        """Return the manifest with the model's names of inputs and outputs, which a client's layout may change."""
        return replace(self, components=tuple(item.with_model_names() for item in self.components))

    def check_runnable(self, directory: Path) -> None:
        """Check that the runtime can run the graphs.

        Args:
            directory: their directory, for the error.

        Raises:
            OptionError: the directory is for a client alone.
        """
        if self.client_only:
            raise OptionError(
                f"{directory} has the layout {self.layout}, whose graphs pass each other what its client does: pass "
                "the export in the default layout"
            )

    def to_json(self) -> str:
        """Return the text of `onnxport.json`."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse the text of `onnxport.json`.

        Raises:
            CorruptCheckpointError: the text isn't a manifest, or has a later format version.
        """
        try:
            values = parse_json_object(text.encode(), Path(FILE_NAME), purpose="the manifest")
            version = typed(values.get("format_version"), int, "format_version")
            if version > FORMAT_VERSION:
                raise CorruptCheckpointError(
                    f"{FILE_NAME} has format {version}, this onnxport reads up to {FORMAT_VERSION}: upgrade onnxport"
                )
            return typed(values, cls, "")
        except ValueError as error:
            raise CorruptCheckpointError(f"{FILE_NAME} is damaged: {error}; export the model again") from error


def read_manifest(directory: Path) -> Manifest | None:
    """Read a directory's manifest; return None if it has none.

    Raises:
        CorruptCheckpointError: the manifest is damaged, or a link to a file elsewhere.
    """
    file = inside(directory, directory / FILE_NAME)
    if not file.is_file():
        return None
    try:
        return Manifest.from_json(file.read_text(encoding="utf-8"))
    except (CorruptCheckpointError, UnicodeDecodeError) as error:
        raise CorruptCheckpointError(f"{directory}: {error}") from error


def open_manifest(directory: Path) -> Manifest:
    """Read the manifest of an exported directory, and check that the files of its graphs exist.

    Raises:
        CheckpointNotFoundError: it isn't an exported directory, or lacks a file of a graph.
        CorruptCheckpointError: the manifest is damaged, it names a file outside of the directory, or a file of the
            directory is a link to one.
    """
    if not directory.is_dir():
        raise CheckpointNotFoundError(f"{directory}: no such directory; pass one that onnxport export wrote")
    manifest = read_manifest(directory)
    if manifest is None:
        raise CheckpointNotFoundError(
            f"{directory} holds no {FILE_NAME}: it isn't a directory that onnxport wrote; export the model first"
        )
    if not manifest.components:
        raise CorruptCheckpointError(
            f"{directory}: {FILE_NAME} is damaged: components is empty; export the model again"
        )
    for component in manifest.components:
        for name in (component.file, *component.external_data):
            if not inside(directory, name, directory / FILE_NAME).is_file():
                raise CheckpointNotFoundError(f"{directory} lacks {name}, which its {FILE_NAME} names; export it again")
    check_links(directory)
    return manifest
