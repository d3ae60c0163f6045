"""Choose what an exported directory is compared with: what the caller names, else what its manifest does.

Whoever wrote the directory wrote the manifest. What it names is read where it is on this machine; but no file that it
names is run, and nothing is fetched for it: for both, the caller names the file or the repository.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxport.bundles.manifest import FILE_NAME, Manifest
from onnxport.checkpoint.hub import find_snapshot
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OptionError, UntrustedCodeError
from onnxport.options import ExportOptions

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """Name a checkpoint and how it is read.

    Attributes:
        model: directory or file; or what the caller named, which may be a repository of the hub.
        options: with the adapter, the framework and the description that belong to it.
    """

    model: str | Path
    options: ExportOptions


def choose_reference(directory: Path, manifest: Manifest, named: str | None, options: ExportOptions) -> Reference:
    """Choose the checkpoint that a directory is compared with.

    Args:
        directory: the exported directory, for messages.
        manifest: its manifest, which isn't trusted.
        named: the checkpoint that the caller names; None for the manifest's.
        options: what the caller chose; `description` and `adapter` are of his own choice, too.

    Raises:
        UntrustedCodeError: the directory was exported with `--description`, and the caller names no such file.
        OptionError: code may run, and the caller doesn't say whose.
        CheckpointNotFoundError: what the manifest names isn't on this machine.
        CorruptCheckpointError: the manifest names no checkpoint.
    """
    described = manifest.options.get("description")
    if described is not None and options.description is None:
        raise UntrustedCodeError(
            f"{directory} was exported with --description {described!r}, a Python file that would run on this machine; "
            f"read it, and pass --description FILE (description=...) if you trust it"
        )
    if named is not None:
        return Reference(named, options)
    recorded = manifest.source.get("model")
    if not isinstance(recorded, str) or not recorded:
        raise CorruptCheckpointError(
            f"{directory / FILE_NAME}: source.model is {recorded!r}, not the name of a checkpoint; name the original "
            f"with --reference"
        )
    if options.trust_remote_code:
        raise OptionError(
            f"--trust-remote-code lets code of the original run, and only the manifest of {directory} names it "
            f"({recorded!r}); name it yourself, if you trust it: --reference {_argument(recorded)}"
        )
    revision = options.revision or manifest.source.get("revision")
    model = _on_this_machine(recorded, revision, options)
    if model is None:
        raise _not_here(directory, recorded, revision, "--reference")
    framework = options.framework or manifest.options.get("framework")
    return Reference(model, replace(options, framework=framework, adapter=_adapter(directory, manifest, options)))


def _adapter(directory: Path, manifest: Manifest, options: ExportOptions) -> str | None:
    recorded = manifest.options.get("adapter")
    if options.adapter is not None or recorded is None:
        return options.adapter
    source = manifest.source.get("adapter")
    revision = source.get("revision") if isinstance(source, dict) else None
    found = _on_this_machine(recorded, revision, options) if isinstance(recorded, str) else None
    if found is None:
        raise _not_here(directory, recorded, revision, "--adapter")
    return str(found)


def _on_this_machine(recorded: str, revision: Any, options: ExportOptions) -> Path | None:
    """Return the path that a manifest names, or the snapshot in the hub's cache; None where it is neither."""
    path = Path(os.path.expanduser(recorded))
    if path.exists():
        return path
    if not isinstance(revision, str) or not (revision == options.revision or _COMMIT.fullmatch(revision)):
        return None
    return find_snapshot(recorded, revision, options.checkpoint)


def _not_here(directory: Path, recorded: Any, revision: Any, flag: str) -> CheckpointNotFoundError:
    what = "the original" if flag == "--reference" else "the adapter"
    if revision is None:
        return CheckpointNotFoundError(
            f"{directory} names {what} {recorded!r}, and there is no such path here; name it with {flag}"
        )
    return CheckpointNotFoundError(
        f"{directory} names {what} {recorded!r} at revision {revision!r}, a repository of the hub that isn't in its "
        f"cache; it is fetched if you name it: {flag} {_argument(recorded)}"
        + (f" --revision {_argument(revision)}" if flag == "--reference" else "")
    )


def _argument(value: Any) -> str:
    """Return a value of the manifest as an argument of a command that can be copied to a shell."""
    text = str(value)
    return shlex.quote(text) if text.isprintable() else repr(text)
