"""Apply the patches that a model needs while it is captured, or while it runs with fake parameters."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from onnxport.architectures._dynamic_rope import dynamic_rope
from onnxport.architectures._patches import modeling_modules, patches_of
from onnxport.patching.caches import fresh_symbolic_caches
from onnxport.patching.module_state import preserving_state
from onnxport.patching.patch import Patch, Replacement
from onnxport.patching.scope import exclusive, patching
from onnxport.tracing._economy import exporter_patches_of, without_unneeded_work
from onnxport.tracing.engine_patches import ENGINE_PATCHES, FAKE_PATCHES, size_patches

if TYPE_CHECKING:
    import torch

_LOGGERS = (
    "torch._subclasses.fake_tensor",
    "torch.fx.experimental",
    "torch.export",
    "torch.onnx",
    "torch.onnx._internal.exporter._registration",
    "transformers",
    "onnxscript",
    "onnx_ir",
)


@contextlib.contextmanager
def capturing(model: torch.nn.Module) -> Iterator[None]:
    """Apply the patches of a capture: the engine's, and those of the modeling files that define the model.

    Caches of symbolic expressions are cleared before and after, so that a graph doesn't depend on earlier traces.

    Args:
        model: the model to capture.
    """
    modules = modeling_modules(model)
    changes: tuple[Patch | Replacement, ...] = (*ENGINE_PATCHES, *patches_of(model), *size_patches(modules))
    changes = (*changes, exporter_patches_of(modules), *dynamic_rope(model))
    with quiet_engine(), without_unneeded_work(), patching(*changes), fresh_symbolic_caches(), preserving_state(model):
        yield


@contextlib.contextmanager
def without_values(model: torch.nn.Module) -> Iterator[None]:
    """Apply the patches that a model needs to run with fake parameters.

    Args:
        model: the model to run, or the model that it is a submodule of.
    """
    model_patches = (patch for patch in patches_of(model) if patch.without_values)
    with quiet_engine(), patching(*FAKE_PATCHES, *model_patches, *dynamic_rope(model)), preserving_state(model):
        yield


@contextlib.contextmanager
def quiet_engine() -> Iterator[None]:
    """Suppress the exporter's progress output, log records and warnings."""
    with exclusive(), contextlib.ExitStack() as stack:
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(patching(Replacement(sys, "stdout", _Silenced(sys.stdout))))
        yield


class _Silenced:
    """A standard output stream that drops the output of the thread that created it, and of no other thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a string, and return its length."""
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)
