"""Download only the files of a Hub repository that an export requires."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.quiet import quiet
from onnxport.checkpoint.sentence_transformers import MODULE_FOLDER
from onnxport.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from onnxport.options import CheckpointOptions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_REPOSITORY_ID = re.compile(r"(?!.*(\.\.|--))[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w.-]+(/[\w.-]+)*", re.ASCII)
_MAX_ID_LENGTH = 96

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "*vocab*",
    "merges.txt",
    "bpe.codes",
    "*.tiktoken",
    "*.spm",
    "*.model",
    "preprocessor_config.json",
    "processor_config.json",
    "chat_template*",
    "adapter_config.json",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "cnn_config.json",
    "router_config.json",
    "wordembedding_config.json",
    "*tokenizer_config.json",
)
"""Patterns of files other than weights: configuration, tokenizer and processor."""

WEIGHT_CHOICES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("model.safetensors", ("model.safetensors",)),
    ("model.safetensors.index.json", ("model.safetensors.index.json", "model-*-of-*.safetensors")),
    ("pytorch_model.bin", ("pytorch_model.bin",)),
    ("pytorch_model.bin.index.json", ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")),
    ("tf_model.h5", ("tf_model.h5",)),
    ("adapter_model.safetensors", ("adapter_model.safetensors",)),
)
"""Files that identify a weight format, in order of preference, and patterns of the files to download for it."""


def looks_like_repository(name: str) -> bool:
    """Return whether a name is a valid Hub repository id (`owner/name` or `name`)."""
    return len(name) <= _MAX_ID_LENGTH and _REPOSITORY_ID.fullmatch(name) is not None and not name.endswith(".git")


def fetch_snapshot(repository: str, options: CheckpointOptions, *, endpoint: str | None = None) -> Path:
    """Download the required files of a repository, or find them in the cache.

    Args:
        repository: `owner/name` or `name`.
        options: revision, cache directory, token, framework and `trust_remote_code`.
        endpoint: URL of the Hub; None for the client's default (`HF_ENDPOINT`).

    Returns:
        The snapshot's directory in the cache, whose name is the commit.

    Raises:
        CheckpointNotFoundError: the repository or revision doesn't exist or can't be accessed, or the Hub can't be
            reached and the cache doesn't have the files.
        CorruptCheckpointError: a download is incomplete.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.errors import IncompleteSnapshotError, RevisionResolutionError, XetDownloadError

    offline = (hub_errors.HTTPError, RevisionResolutionError, XetDownloadError)  # type: ignore[attr-defined]
    common: dict[str, Any] = {"revision": options.revision, "cache_dir": options.cache_dir, "token": options.token}
    with quiet():
        try:
            names = _list_files(HfApi(endpoint=endpoint, token=options.token), repository, options.revision)
            patterns = ["config.json"] if names is None else choose_files(names, options)
            path = snapshot_download(
                repository, allow_patterns=patterns, local_files_only=names is None, endpoint=endpoint, **common
            )
        except IncompleteSnapshotError as error:
            path = error.snapshot_path
        except (*offline, OSError, ValueError, RuntimeError) as error:
            raise _explain(error, repository, options) from error
    return Path(path)


def find_snapshot(repository: str, revision: str, options: CheckpointOptions) -> Path | None:
    """Find the snapshot of a repository in the Hub cache, without network access.

    Args:
        repository: `owner/name` or `name`.
        revision: commit, branch or tag; may come from an untrusted file.
        options: the cache directory.

    Returns:
        The snapshot's directory; None if it isn't in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import IncompleteSnapshotError, LocalEntryNotFoundError

    if not looks_like_repository(repository) or not _REVISION.fullmatch(revision):
        return None
    try:
        path = snapshot_download(
            repository,
            revision=revision,
            cache_dir=options.cache_dir,
            allow_patterns=["config.json"],
            local_files_only=True,
        )
    except IncompleteSnapshotError as error:
        path = error.snapshot_path
    except LocalEntryNotFoundError:
        return None
    return Path(path)


def choose_files(names: Iterable[str], options: CheckpointOptions) -> list[str]:
    """Choose the files of a repository that an export requires.

    Args:
        names: all files of the repository.
        options: `framework="tf"` chooses `tf_model.h5`; `trust_remote_code` adds the `*.py` files.

    Returns:
        File names: side files, and the files of the most preferred weight format in the repository; the same for each
        sentence-transformers module. A GGUF file is chosen if it is the only one and there are no other weights.
    """
    names = sorted(names)
    patterns = [*SIDE_FILES, *(("*.py",) if options.trust_remote_code else ())]
    chosen = [name for name in names if any(_matches(name, pattern) for pattern in patterns)]
    chosen += _choose_weights(names, options.framework)
    if "modules.json" in names:
        folders = {name.rpartition("/")[0] for name in names if "/" in name}
        for folder in (one for one in folders if all(map(MODULE_FOLDER.fullmatch, one.split("/")))):
            inside = [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
            chosen += [f"{folder}/{name}" for name in choose_files(inside, options)]
    return sorted({*chosen})


def _choose_weights(names: list[str], framework: str | None) -> list[str]:
    for marker, patterns in WEIGHT_CHOICES:
        is_requested = framework is None or (framework == "tf") == (marker == "tf_model.h5")
        if is_requested and marker in names:
            return [name for name in names if any(_matches(name, pattern) for pattern in patterns)]
    gguf = [name for name in names if name.endswith(".gguf") and "/" not in name]
    return gguf if len(gguf) == 1 and framework is None else []


def _matches(name: str, pattern: str) -> bool:
    # SIDE_FILES also match weights for other runtimes, such as "tokenizer.onnx".
    return fnmatch(name, pattern) and "/" not in name and not name.endswith((".onnx", ".msgpack", ".ot", ".tflite"))


def _list_files(api: HfApi, repository: str, revision: str | None) -> list[str] | None:
    """Return the names of a repository's files; None if the Hub can't be reached or offline mode is set."""
    # This is the `HTTPError` of the HTTP client in use, which changed from requests to httpx in huggingface_hub 1.0.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        info = api.model_info(repository, revision=revision)
    except (HTTPError, OSError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
            raise
        logger.info("%s: the hub can't be reached (%s); looking in the cache", repository, error)
        return None
    return [sibling.rfilename for sibling in info.siblings or ()]


def _explain(error: Exception, repository: str, options: CheckpointOptions) -> CheckpointError:
    """Translate an error of the Hub client."""
    from huggingface_hub import errors

    at = f" at revision {options.revision!r}" if options.revision else ""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return CheckpointNotFoundError(
            f"{repository}{at}: access is gated (HTTP {status}); accept the conditions on its page of the hub, "
            f"then log in with `hf auth login` or pass --token"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointNotFoundError(
            f"{repository}: there is no revision {options.revision!r}; pass a branch, tag or commit of the repository"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointNotFoundError(
            f"{repository}: neither a local directory nor a repository that can be read on the hub (HTTP {status}); "
            f"check the spelling, and pass --token or `hf auth login` if it is private"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return CheckpointNotFoundError(
            f"{repository}{at}: not a local directory, not in the hub's cache, and the hub can't be reached; "
            f"check the network (or unset HF_HUB_OFFLINE), or pass a directory"
        )
    if status is not None:
        return CheckpointNotFoundError(f"{repository}{at}: the hub returned HTTP {status}; {_first_line(error)}")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return CorruptCheckpointError(f"{repository}{at}: the download was cut off ({_first_line(error)}); try again")
    return CheckpointNotFoundError(
        f"{repository}{at} couldn't be downloaded ({type(error).__name__}: {_first_line(error)}); "
        f"check the network and the disk, then try again"
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
