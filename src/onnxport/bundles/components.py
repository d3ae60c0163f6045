"""Describe a finished export for the manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from onnxport.blueprints.blueprint import Blueprint, Depth
from onnxport.blueprints.keys import PACKAGES
from onnxport.bundles.adapter_files import adapter_inputs_of
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest, TensorDescription
from onnxport.bundles.written import BoundGraphs, PlannedFile
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.description import GraphDescription, TensorSpec
from onnxport.fusions.cache_length import shares_cache
from onnxport.fusions.fuse import fused_operators
from onnxport.options import ExportOptions
from onnxport.passes.quantization_plan import to_values

VERSIONS = (*PACKAGES, "onnxruntime")
_PRIVATE_OPTIONS = ("token", "cache_dir")


@dataclass(frozen=True)
class Outcome:
    """Hold the results of an export.

    Attributes:
        files: every file of the output.
        validation: the report as plain values.
        digests: SHA-256 of the checkpoint's files, by name.
    """

    files: tuple[PlannedFile, ...]
    validation: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)


def make_manifest(
    checkpoint: Checkpoint,
    graphs: Sequence[BoundGraphs],
    outcome: Outcome,
    options: ExportOptions,
) -> Manifest:
    """Describe an export.

    Args:
        checkpoint: the exported checkpoint.
        graphs: the graphs of each precision.
        outcome: its files and its validation report; for a dry run, the planned files.
        options: the options of the export.
    """
    sizes = {file.name: file.bytes or 0 for file in outcome.files}
    components = tuple(
        describe_component(described, depth, file, bound, sizes, optimized=options.optimize != "none")
        for bound in graphs
        for described, depth, file in zip(
            bound.blueprint.description.graphs, bound.blueprint.trace.depths, bound.models, strict=True
        )
    )
    blueprint = graphs[0].blueprint
    in_components = {FILE_NAME} | {name for c in components for name in (c.file, *c.external_data)}
    return Manifest(
        task=blueprint.description.task,
        source=_source(checkpoint, blueprint, outcome.digests),
        options=recorded(options),
        versions={name: metadata.version(name) for name in VERSIONS},
        components=components,
        validation=dict(outcome.validation),
        files=tuple(name for name in sizes if name not in in_components),
        modalities=blueprint.description.modalities,
        left_out=dict(blueprint.description.left_out),
        positions=blueprint.description.positions,
        defaults=dict(blueprint.description.defaults),
        reread_length=blueprint.description.reread_length,
        image_processing=asdict(blueprint.image_processing) if blueprint.image_processing is not None else {},
        adds_tokens=blueprint.description.adds_tokens,
        end_token=blueprint.description.end_token,
        quantization={bound.precision.name: to_values(bound.quantized) for bound in graphs if bound.quantized},
    )


def recorded(options: ExportOptions) -> dict[str, Any]:
    """Return the options as JSON values, without those that nobody else may see."""
    values = {name: value for name, value in asdict(options).items() if name not in _PRIVATE_OPTIONS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _source(checkpoint: Checkpoint, blueprint: Blueprint, digests: Mapping[str, str]) -> dict[str, Any]:
    source: dict[str, Any] = {
        "model": checkpoint.name,
        "revision": checkpoint.revision,
        "model_type": blueprint.description.model_type,
        "architecture": blueprint.description.architecture,
        "weights_format": checkpoint.format,
        "weights_sha256": dict(digests),
    }
    if checkpoint.quantization is not None:
        source["quantization"] = checkpoint.quantization
    if adapter := checkpoint.adapter:
        source["adapter"] = {"model": adapter.name, "revision": adapter.revision, "base": adapter.base}
    return source


def describe_component(
    described: GraphDescription,
    depth: Depth,
    file: str,
    bound: BoundGraphs,
    sizes: Mapping[str, int],
    *,
    optimized: bool,
) -> ComponentDescription:
    """Describe one graph.

    Args:
        described: its inputs and outputs.
        depth: its traced and stamped layers.
        file: the graph's file.
        bound: the graphs of its precision.
        sizes: file name to bytes.
        optimized: whether its operators are fused.
    """
    model = bound.models[file]
    graph = model.graph
    data = tuple(name for name in sizes if name.startswith(f"{file}_data"))
    tensors = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    return ComponentDescription(
        name=described.name,
        file=file,
        external_data=data,
        opset=model.opset_imports[""],
        parameters=sum(tensor.size for tensor in tensors),
        bytes=sum(sizes.get(name, 0) for name in (file, *data)),
        inputs=tuple(map(_tensor_description, described.inputs)),
        outputs=tuple(map(_tensor_description, described.outputs)),
        fixed_axes=described.fixed_axes,
        max_sizes=dict(described.max_sizes),
        notes=tuple(_notes(depth, bound.blueprint.binding.note)),
        adapter_inputs=adapter_inputs_of(model),
        dtype=bound.precision.name,
        fused=fused_operators(model) if optimized else {},
        shares_cache=optimized and shares_cache(model),
    )


def _tensor_description(spec: TensorSpec) -> TensorDescription:
    return TensorDescription(spec.name, spec.dtype, spec.axes)


def _notes(depth: Depth, loading_note: str) -> Iterator[str]:
    for layers in depth.layers:
        traced, stamped = len(layers.traced), len(layers.full)
        yield f"{', '.join(layers.paths)}: {traced} layers traced and proved isomorphic, {stamped} stamped"
    if depth.note:
        yield depth.note
    if loading_note:
        yield f"weights read eagerly: {loading_note}"
