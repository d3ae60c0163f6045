"""Arrange an export for a client: files are linked to their new paths, and only settings and names are written."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from onnxport.bundles.manifest import FILE_NAME, ComponentDescription, Manifest, TensorDescription
from onnxport.checkpoint.digest import sha256_of_file
from onnxport.containment import inside
from onnxport.description.axes import LOGITS_TO_KEEP, is_cached
from onnxport.errors import OutputError, UnsupportedError
from onnxport.layouts._graph_files import (
    MASK,
    keep_all,
    leave_out_inputs,
    mask_padding,
    rename_data,
    rename_values,
    split_data,
    unbatch_inputs,
)
from onnxport.layouts._layout import Exported, Layout
from onnxport.layouts._logits import add_logits_to_keep
from onnxport.layouts._plain_attention import with_plain_attention
from onnxport.writing.linking import link_or_copy

logger = logging.getLogger(__name__)


def check(exported: Exported, layout: Layout) -> None:
    """Check that a client can load an export, and log what it can't use.

    Args:
        exported: the export, in the default layout; its files aren't read.
        layout: the layout.

    Raises:
        UnsupportedError: the client can load no graph of it, or the layout can't place its files.
        OutputError: two files would have one path.
    """
    _check_placement(exported, layout)
    for warning in layout.check(exported):
        logger.warning("%s", warning)


def arrange(exported: Exported, layout: Layout, target: Path) -> Manifest:
    """Arrange an export in another directory; weights aren't copied where the file system links files.

    Args:
        exported: the export, in the default layout; `check` accepts it.
        layout: the layout.
        target: an existing directory without these files.

    Returns:
        The manifest with the new paths and names, which is also written.

    Raises:
        CorruptCheckpointError: a file of the export can't be read.
        OSError: a file can't be written.
    """
    placed = tuple(_place_component(item, exported, layout, target) for item in exported.manifest.components)
    components = layout.exchange(replace(exported, placed=placed), target)
    exported = replace(exported, placed=components)
    files = [name for name in exported.manifest.files if name not in layout.edits]
    paths = [_place(name, exported, layout, target) for name in files]
    paths += [_edit(name, exported, layout, target) for name in layout.edits]
    paths += [_write(path, text, target) for path, text in layout.texts(exported).items()]
    others = dict.fromkeys(path.relative_to(target).as_posix() for path in paths if path is not None)
    names = [*others, *(name for item in components for name in (item.file, *item.external_data))]
    digests = _digests(exported, names, target)
    manifest = replace(
        exported.manifest,
        components=components,
        files=tuple(others),
        layout=layout.name,
        client_only=components != placed,
        digests=digests,
    )
    (target / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def _digests(exported: Exported, names: Iterable[str], target: Path) -> dict[str, str]:
    """Return the digests of arranged files: the export's for links to its files, which has none for linked weights."""
    before = exported.manifest.digests
    if not before:
        return {}
    sources = (*exported.manifest.files, *(n for c in exported.manifest.components for n in (c.file, *c.external_data)))
    known = {(exported.directory / name).stat().st_ino: before.get(name) for name in sources if exported.has(name)}
    found = {}
    for name in names:
        inode = (target / name).stat().st_ino
        digest = known[inode] if inode in known else sha256_of_file(target / name)
        if digest is not None:
            found[name] = digest
    return found


def _path_of(name: str, exported: Exported, layout: Layout) -> str | None:
    """Return the path of a file in a layout; None if it is left out."""
    name = _new_file_name(name, exported, layout)
    path = next((path for pattern, path in layout.files.items() if fnmatchcase(name, pattern)), None)
    return None if path is None else path.format(name=name, stem=PurePosixPath(name).name.split(".onnx")[0])


def _new_file_name(name: str, exported: Exported, layout: Layout) -> str:
    """Return the name of a file that follows the client's name of its graph, as `model_q8.onnx` follows `model`."""
    renamed = layout.graphs.get(exported.architecture, {})
    files = {file: item.name for item in exported.manifest.components for file in (item.file, *item.external_data)}
    graph = files.get(name, "")
    return renamed[graph] + name.removeprefix(graph) if graph in renamed and name.startswith(graph) else name


def _check_placement(exported: Exported, layout: Layout) -> None:
    """Check that no two files have one path, and that weights stay beside their graph, which refers to them by name.

    Raises:
        UnsupportedError: the weights are linked files of the checkpoint, and the graphs move.
        OutputError: two files would have one path.
    """
    names = [name for item in exported.manifest.components for name in (item.file, *item.external_data)]
    places = {name: _path_of(name, exported, layout) for name in (*names, *exported.manifest.files)}
    paths = [path for path in places.values() if path is not None]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise OutputError(f"the layout {layout.name} has several files for {', '.join(twice)}; choose one with --dtype")
    moved = [name for name in names if PurePosixPath(places[name] or "").parent != PurePosixPath(".")]
    if moved and exported.manifest.options.get("weights") == "link":
        raise UnsupportedError(
            f"the layout {layout.name} moves {moved[0]}, whose weights are the checkpoint's linked files; export with "
            "--weights copy"
        )


def _place(name: str, exported: Exported, layout: Layout, target: Path, *, linked: bool = False) -> Path | None:
    """Copy or link a file to its path in a layout; return None if it is left out."""
    path = _path_of(name, exported, layout)
    if path is None:
        return None
    source, placed = inside(exported.directory, name, exported.directory / FILE_NAME), _new_file(path, target)
    if linked:
        link_or_copy(source, placed)
    else:
        shutil.copyfile(source, placed)
    return placed


def _new_file(path: str, target: Path) -> Path:
    """Return the path of a file to write, in an existing directory."""
    file = inside(target, path, target)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _place_component(
    component: ComponentDescription, exported: Exported, layout: Layout, target: Path
) -> ComponentDescription:
    """Link the files of a graph; write the graph if a tensor has another name or its data is split."""
    graph = _place(component.file, exported, layout, target, linked=True)
    if graph is None:
        raise UnsupportedError(f"the layout {layout.name} has no path for the graph {component.file}")
    placed = [_place(name, exported, layout, target, linked=True) for name in component.external_data]
    data = [file for file in placed if file is not None]
    named = zip(component.external_data, placed, strict=True)
    if renamed := {name: file.name for name, file in named if file is not None and file.name != name}:
        rename_data(graph, renamed)
    patterns = {**layout.names.get(exported.model_type, {}), **layout.names.get(exported.architecture, {})}
    names = _new_names(component, patterns)
    if names:
        rename_values(graph, names)
    if layout.plain_attention and "GroupQueryAttention" in component.fused:
        component = with_plain_attention(component, graph)
    absent = _leave_out(graph, component, exported, layout)
    unbatched = [value for value in component.inputs if value.name in layout.unbatched.get(exported.architecture, ())]
    if unbatched:
        unbatch_inputs(graph, [value.name for value in unbatched])
    taken = (value for value in component.inputs if value.name not in absent)
    inputs = _renamed((replace(one, axes=one.axes[1:]) if one in unbatched else one for one in taken), names)
    outputs = _renamed(component.outputs, names)
    if layout.logits_to_keep and _is_decoder(component) and add_logits_to_keep(graph):
        inputs = (*inputs, TensorDescription(LOGITS_TO_KEEP, "int64", ()))
        outputs = tuple(_shortened(value) if value.name == "logits" else value for value in outputs)
    if layout.max_data_bytes is not None and any(file.stat().st_size > layout.max_data_bytes for file in data):
        data = split_data(graph, data, layout.max_data_bytes)
    return replace(
        component,
        file=graph.relative_to(target).as_posix(),
        external_data=tuple(file.relative_to(target).as_posix() for file in data),
        inputs=inputs,
        absent_inputs=tuple(absent),
        outputs=outputs,
        model_names={new: old for old, new in names.items()},
    )


def _leave_out(graph: Path, component: ComponentDescription, exported: Exported, layout: Layout) -> list[str]:
    """Remove the inputs from a graph that the client never passes; return their names."""
    absent, whole, unmasked = (
        [value.name for value in component.inputs if value.name in names.get(exported.model_type, ())]
        for names in (layout.absent, layout.whole, layout.unmasked)
    )
    if absent:
        leave_out_inputs(graph, absent)
    if unmasked:
        leave_out_inputs(graph, unmasked, fill=1)
    for mask in whole:
        keep_all(graph, mask)
    absent += [*whole, *unmasked]
    if component.name in layout.token_masks.get(exported.architecture, ()):
        mask_padding(graph, int(exported.config["pad_token_id"]))
        absent.append(MASK)
    return absent


def _is_decoder(component: ComponentDescription) -> bool:
    """Return whether a graph is a decoder with a cache, and not that of an encoder-decoder."""
    names = [value.name for value in component.inputs]
    return any(map(is_cached, names)) and "encoder_hidden_states" not in names


def _shortened(logits: TensorDescription) -> TensorDescription:
    batch, _, vocabulary = logits.axes
    return replace(logits, axes=(batch, "num_logits", vocabulary))


def _new_names(component: ComponentDescription, patterns: Mapping[str, str]) -> dict[str, str]:
    """Map the names of a graph's inputs and outputs to those of the client, where they differ."""
    names = [value.name for value in (*component.inputs, *component.outputs)]
    found = {}
    for name in names:
        matches = ((re.fullmatch(pattern, name), new) for pattern, new in patterns.items())
        if (new_name := next((match.expand(new) for match, new in matches if match), name)) != name:
            found[name] = new_name
    return found


def _renamed(values: Iterable[TensorDescription], names: Mapping[str, str]) -> tuple[TensorDescription, ...]:
    return tuple(replace(value, name=names.get(value.name, value.name)) for value in values)


def _edit(name: str, exported: Exported, layout: Layout, target: Path) -> Path | None:
    """Write a JSON file as the client needs it; an unchanged one is copied. Return None if there is none."""
    before = exported.read(name)
    after = layout.edits[name](before, exported)
    if after == before:
        return _place(name, exported, layout, target) if exported.has(name) else None
    return _write(name, json.dumps(after, indent=2, ensure_ascii=False) + "\n", target) if after else None


def _write(path: str, text: str, target: Path) -> Path:
    file = _new_file(path, target)
    file.write_text(text, encoding="utf-8")
    return file
