"""Arrange an exported directory for a client, in a new directory, without tracing or writing its weights again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from onnxport.bundles.manifest import Manifest, open_manifest
from onnxport.bundles.output import check_output, staged
from onnxport.errors import OptionError
from onnxport.layouts._arrange import arrange, check
from onnxport.layouts._layout import Exported
from onnxport.layouts._table import layout_of
from onnxport.options import DEFAULT_LAYOUT


def rearrange(
    directory: str | Path,
    layout: str,
    output: str | Path,
    *,
    dtypes: Sequence[str] | None = None,
    force: bool = False,
) -> Manifest:
    """Arrange an exported directory for a client, in a new directory.

    The files of weights are links to those of the export (reflinks, or hard links), or copies on another file system.

    Args:
        directory: directory that was exported in the default layout.
        layout: name of the layout.
        output: directory to create; it is created atomically.
        dtypes: precisions of the graphs to take; None for all.
        force: replace an earlier export.

    Returns:
        The manifest of the new directory.

    Raises:
        OptionError: there is no such layout, or the directory has no graphs of a precision or another layout.
        CheckpointError: the directory can't be read.
        UnsupportedError: the client can't load the export.
        OutputError: the output can't be written.
    """
    declared, directory, output = layout_of(layout), Path(directory), Path(output)
    manifest = open_manifest(directory)
    if manifest.layout != DEFAULT_LAYOUT:
        raise OptionError(
            f"{directory} has the layout {manifest.layout}, and only the default layout can be arranged; pass the "
            f"directory that it was made from, or export the model again with --layout {layout}"
        )
    if missing := [name for name in dtypes or () if name not in manifest.dtypes]:
        raise OptionError(
            f"{directory} has no graphs of dtype {', '.join(missing)}, only of {', '.join(manifest.dtypes)}; export it "
            f"with --dtype {','.join((*manifest.dtypes, *missing))}"
        )
    chosen = [item for item in manifest.components if dtypes is None or item.dtype in dtypes]
    exported = Exported(directory, replace(manifest, components=tuple(chosen)))
    check(exported, declared)
    check_output(output, force=force)
    with staged(output, force=force) as stage:
        return arrange(exported, declared, stage)
