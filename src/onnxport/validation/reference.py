"""Choose the checkpoint to compare an exported directory with: the caller's, or by default the manifest's.

The manifest isn't trusted: its author is the author of the directory. The checkpoint that it names is read if it is on
this machine, but no code that it names is run, and nothing is downloaded: for both, the caller has to name the file or
the repository.
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
    """Hold a checkpoint and the options to read it.

    Attributes:
        model: directory or file; or the caller's checkpoint, which may be a repository of the hub.
        options: with the adapter, the framework and the description of the checkpoint.
    """

    model: str | Path
    options: ExportOptions


def choose_reference(directory: Path, manifest: Manifest, named: str | None, options: ExportOptions) -> Reference:
    """Choose the checkpoint that a directory is compared with.

    Args:
        directory: the exported directory, for messages.
        manifest: its manifest, which isn't trusted.
        named: the caller's checkpoint; None for the manifest's.
        options: the caller's options, including `description` and `adapter`.

    Raises:
        UntrustedCodeError: the directory was exported with `--description`, and the caller passes no such file.
        OptionError: `trust_remote_code` is set, and the caller names no checkpoint.
        CheckpointNotFoundError: the manifest's checkpoint or adapter isn't on this machine.
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
            f"--trust-remote-code runs code of the original, and only the manifest of {directory} names it "
            f"({recorded!r}); name it yourself, if you trust it: --reference {_argument(recorded)}"
        )
    revision = options.revision or manifest.source.get("revision")
    model = _find_locally(recorded, revision, options)
    if model is None:
        raise _not_found_error(directory, recorded, revision, "--reference")
    framework = options.framework or manifest.options.get("framework")
    return Reference(model, replace(options, framework=framework, adapter=_adapter(directory, manifest, options)))


def _adapter(directory: Path, manifest: Manifest, options: ExportOptions) -> str | None:
    recorded = manifest.options.get("adapter")
    if options.adapter is not None or recorded is None or manifest.options.get("adapter_inputs"):
        return options.adapter
    source = manifest.source.get("adapter")
    revision = source.get("revision") if isinstance(source, dict) else None
    found = _find_locally(recorded, revision, options) if isinstance(recorded, str) else None
    if found is None:
        raise _not_found_error(directory, recorded, revision, "--adapter")
    return str(found)


def _find_locally(recorded: str, revision: Any, options: ExportOptions) -> Path | None:
    """Return the path of a manifest's checkpoint, or its snapshot in the hub's cache; None if neither exists."""
    path = Path(os.path.expanduser(recorded))
    if path.exists():
        return path
    if not isinstance(revision, str) or not (revision == options.revision or _COMMIT.fullmatch(revision)):
        return None
    return find_snapshot(recorded, revision, options.checkpoint)


def _not_found_error(directory: Path, recorded: Any, revision: Any, flag: str) -> CheckpointNotFoundError:
    role = "the original" if flag == "--reference" else "the adapter"
    if revision is None:
        return CheckpointNotFoundError(
            f"{directory} names {role} {recorded!r}, and no such path exists; name it with {flag}"
        )
    return CheckpointNotFoundError(
        f"{directory} names {role} {recorded!r} at revision {revision!r}, a repository of the hub that isn't in its "
        f"cache; it is downloaded if you name it: {flag} {_argument(recorded)}"
        + (f" --revision {_argument(revision)}" if flag == "--reference" else "")
    )


def _argument(value: Any) -> str:
    """Return a value of the manifest as a quoted argument of a shell command."""
    text = str(value)
    return shlex.quote(text) if text.isprintable() else repr(text)
