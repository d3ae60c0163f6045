"""The bytes of an export depend on the checkpoint only, not on earlier exports or other threads."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface

import onnxport
from conformance.checkpoints import make_checkpoint
from conformance.matrix.tiny import checkpoint_of
from onnxport.architectures._patches import patches_in
from onnxport.passes.cleanup import _PATCHES
from onnxport.tracing.engine_patches import ENGINE_PATCHES, FAKE_PATCHES

OPTIONS = onnxport.ExportOptions(validate="none", cache=False)
SCRIPT = """
import json, sys
from pathlib import Path
from tests.integration.test_repeatable import digest
print(json.dumps([digest(Path(source), Path(sys.argv[1]) / str(index)) for index, source in enumerate(sys.argv[2:])]))
"""


def digest(source: Path, output: Path) -> str:
    """Export, and return the SHA-256 of the graph."""
    onnxport.export(source, output, OPTIONS)
    return hashlib.sha256((output / "model.onnx").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models: one that divides sizes and has patches, and one without either."""
    directory = tmp_path_factory.mktemp("checkpoints")
    canine, _ = checkpoint_of("canine", "multiple-choice", directory)
    return [canine, make_checkpoint("bert", "default", directory)]


@pytest.fixture(scope="module")
def alone(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of two exports in a separate process, in another order than in the tests."""
    output = tmp_path_factory.mktemp("alone")
    arguments = [str(output), *map(str, reversed(sources))]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, check=True)
    digests: list[str] = json.loads(done.stdout.splitlines()[-1])
    return digests[::-1]


def test_an_export_restores_everything(sources: list[Path], alone: list[str], tmp_path: Path) -> None:
    changes = [patch.resolve() for patch in (*ENGINE_PATCHES, *FAKE_PATCHES, *_PATCHES, *patches_in("canine"))]
    before = [vars(change.owner).get(change.name) for change in changes]  # type: ignore[call-overload]
    settings = _settings()
    digests = [digest(source, tmp_path / source.name) for source in sources]
    assert _settings() == settings
    for change, value in zip(changes, before, strict=True):
        assert vars(change.owner).get(change.name) is value, change  # type: ignore[call-overload]
    assert digests == alone  # exported in the other order


def _settings() -> dict[str, object]:
    return {
        "dtype": torch.get_default_dtype(),
        "garbage": gc.get_threshold(),
        "attention": list(AttentionInterface._global_mapping),
        "filters": list(warnings.filters),
        "levels": {name: logging.getLogger(name).level for name in ("transformers", "torch.onnx", "torch.export")},
        "standard output": sys.stdout,
        "gradients": torch.is_grad_enabled(),
    }


def test_threads_export_the_same_bytes(sources: list[Path], alone: list[str], tmp_path: Path) -> None:
    found: dict[int, str | Exception] = {}

    def work(index: int) -> None:
        try:
            found[index] = digest(sources[index % 2], tmp_path / str(index))
        except Exception as error:
            found[index] = error

    settings = _settings()
    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(4)] == alone * 2
    assert _settings() == settings
