"""Verify an exported directory without torch and without its original, before it is used: what a server runs first.

The graphs are loaded and run in a process of its own, with limits of time and memory: ONNX Runtime executes them, and a
damaged one may crash it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onnxport._process import python_command
from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest, open_manifest
from onnxport.checkpoint.digest import sha256_of_file
from onnxport.checkpoint.json_files import parse_json_object
from onnxport.checkpoint.typed_values import typed
from onnxport.containment import all_files_inside, inside
from onnxport.errors import CheckpointError, MissingDependencyError, OnnxportError, one_line
from onnxport.runtime.signature import SIGNATURE, Signer, signature_problem

if TYPE_CHECKING:
    from onnx import GraphProto

    from onnxport.bundles.inspection import GraphInspection

ADAPTERS = ".onnx_adapter"
"""Suffix of the files that `onnxport adapter` adds to a directory."""
_SECONDS = 600
_MEMORY = 4 << 30
"""Memory of the process that runs the graphs, besides four times the size of the directory."""


@dataclass(frozen=True)
class Verification:
    """Hold the result of a verification.

    Attributes:
        manifest_sha256: SHA-256 of `onnxport.json`, which has the digests of all other files.
        problems: what differs from the manifest, is damaged, or can't be run; empty if the directory is as it was
            exported.
        files: number of files whose digest was compared.
        without_digest: files whose digest isn't in the manifest: linked weights, added adapters, and all files of
            exports of earlier versions.
        not_run: precision to why its graphs were loaded, but not run.
    """

    manifest_sha256: str
    problems: tuple[str, ...]
    files: int = 0
    without_digest: tuple[str, ...] = ()
    not_run: dict[str, str] = field(default_factory=dict)


def verify(directory: str | Path, sha256: str | None = None, signer: Signer | None = None) -> Verification:
    """Verify an exported directory: its manifest, the digests of its files, and its graphs, which are run once.

    Without a digest that is known from elsewhere and without a signer, it is proved to be complete, not who wrote it.

    Args:
        directory: the exported directory.
        sha256: SHA-256 that `onnxport.json` must have; None for any.
        signer: who must have signed `onnxport.json`; None for anyone or no one.

    Returns:
        The problems that were found, and what was compared.

    Raises:
        CheckpointNotFoundError: it isn't an exported directory, or lacks a file of a graph.
        CorruptCheckpointError: the manifest is damaged, or names or links lead out of the directory.
        MissingDependencyError: a package for reading graphs or verifying signatures isn't installed.
        OptionError: the signer's trusted root can't be read.
    """
    directory = Path(directory)
    manifest = open_manifest(directory)
    digest = sha256_of_file(directory / FILE_NAME)
    problems: list[str] = []
    if sha256 is not None and sha256.lower() != digest:
        problems.append(f"{FILE_NAME} has the SHA-256 {digest}, not {sha256}")
    if signer is not None and (problem := signature_problem(directory, signer)):
        problems.append(problem)
    problems += _compare_files(directory, manifest)
    for component in manifest.components:
        problems += _check_graph(directory, component, manifest.files)
    not_run: dict[str, str] = {}
    for dtype in manifest.dtypes if not problems else ():
        status, message = _run_apart(directory, dtype)
        if status == "failed":
            problems.append(message)
        elif status == "not run":
            not_run[dtype] = message
    compared = set(manifest.digests)
    others = sorted(_names(directory) - compared - {FILE_NAME, SIGNATURE})
    return Verification(digest, tuple(map(one_line, problems)), len(compared), tuple(others), not_run)


def _names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in all_files_inside(directory)}


def _compare_files(directory: Path, manifest: Manifest) -> Iterator[str]:
    """Yield files that are missing, were added, or differ from their digests."""
    found = _names(directory)
    exported = {FILE_NAME, *manifest.files, *manifest.digests}
    for component in manifest.components:
        exported |= {component.file, *component.external_data}
    yield from (f"{name} is missing" for name in sorted(exported - found))
    added = sorted(name for name in found - exported - {SIGNATURE} if not name.endswith(ADAPTERS))
    yield from (f"{name} isn't in {FILE_NAME}: it was added after the export" for name in added)
    for name, digest in manifest.digests.items():
        file = inside(directory, name, directory / FILE_NAME)
        if file.is_file() and (actual := sha256_of_file(file)) != digest:
            yield f"{name} was changed after the export: its SHA-256 is {actual}, not {digest}"


def _check_graph(directory: Path, component: ComponentDescription, files: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with a graph, or differs from the manifest; its external data isn't read."""
    try:
        import onnx
        from google.protobuf.message import Error

        from onnxport.bundles.inspection import inspect
    except ImportError as error:
        raise MissingDependencyError('reading graphs needs onnx: pip install "onnxport[verify]"') from error
    file = inside(directory, component.file, directory / FILE_NAME)
    try:
        (graph,) = inspect(file).graphs
    except CheckpointError as error:
        yield str(error)
        return
    yield from _differences(component, graph, files)
    try:
        model = onnx.ModelProto.FromString(file.read_bytes())
        _drop_external_data(model.graph)  # the checker refuses hard links, which weights may be
        for value in model.graph.input:  # and inputs of any rank, which the layout genai has
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, Error, ValueError, RuntimeError, OSError) as error:
        yield f"{component.file} isn't a well-formed graph: {error}"


def _drop_external_data(graph: GraphProto) -> None:
    """Replace tensors outside of the file by empty ones, in place; `inspect` has checked where they are."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    subgraphs = [part for attribute in attributes for part in (attribute.g, *attribute.graphs)]
    for tensor in (*graph.initializer, *(t for attribute in attributes for t in (attribute.t, *attribute.tensors))):
        if tensor.external_data:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.dims[:] = [0]
    for subgraph in subgraphs:
        _drop_external_data(subgraph)


def _differences(component: ComponentDescription, graph: GraphInspection, files: Collection[str]) -> Iterator[str]:
    optional = {value.name for value in component.adapter_inputs}
    inputs = [value.name for value in graph.inputs if value.name not in optional]
    data = {(PurePosixPath(component.file).parent / name).as_posix() for name in graph.external_data}
    linked = data.intersection(files)  # weights of the checkpoint
    described = {
        "inputs": ([value.name for value in component.inputs], inputs),
        "outputs": ([value.name for value in component.outputs], [value.name for value in graph.outputs]),
        "external data": (sorted(component.external_data), sorted(data - linked)),
    }
    for what, (expected, actual) in described.items():
        if expected != actual:
            yield f"the {what} of {component.file} are {', '.join(actual)}, and in {FILE_NAME} {', '.join(expected)}"


def _run_apart(directory: Path, dtype: str) -> tuple[str, str]:
    """Load and run the graphs of a precision in another process; return the status, and the reason of a failure."""
    size = sum(path.stat().st_size for path in all_files_inside(directory))
    limit = _MEMORY + 4 * size
    command = python_command("-m", "onnxport.runtime._one_step", str(directory), dtype, str(limit))
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return "failed", f"ONNX Runtime didn't load and run the graphs of {dtype or 'the directory'} in {_SECONDS} s"
    try:
        values = parse_json_object(done.stdout, directory, purpose="the result of running the graphs")
        return typed(values["status"], str, "status"), typed(values["message"], str, "message")
    except (OnnxportError, ValueError, KeyError):
        ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else ended
        return "failed", f"loading and running the graphs of {dtype or 'the directory'} failed ({ended}): {reason}"
