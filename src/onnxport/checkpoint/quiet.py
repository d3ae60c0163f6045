"""Silence progress bars, logs and warnings of Transformers and the Hub client."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import ModuleType

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import exclusive, patching

_LOGGERS = ("transformers", "huggingface_hub", "torch", "accelerate", "httpx", "httpx2")


@contextmanager
def quiet() -> Iterator[None]:
    """Hide progress bars, load reports and warnings within the block, and restore the settings afterwards.

    Loggers emit `ERROR` and above. Progress bars of the Hub client are always disabled, those of Transformers only if
    it is already imported. The settings are global, so the block holds the lock of `patching`.
    """
    with exclusive(), ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        _hide_hub_bars(stack)
        _hide_transformers_bars(stack)
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(max(logger.level, logging.ERROR))
        yield


@contextmanager
def hidden_bars(module: ModuleType) -> Iterator[None]:
    """Disable the progress bars of a module that uses `tqdm` directly, like Transformers 5.23's GGUF loader.

    Transformers' progress bar setting has no effect on them.

    Raises:
        AttributeError: the module has no `tqdm`, so the workaround can be removed.
    """
    with patching(Replacement(module, "tqdm", partial(module.tqdm, disable=True))):
        yield


def _hide_hub_bars(stack: ExitStack) -> None:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if not are_progress_bars_disabled():
        disable_progress_bars()
        stack.callback(enable_progress_bars)


def _hide_transformers_bars(stack: ExitStack) -> None:
    if "transformers" not in sys.modules:
        return
    from transformers.utils import logging as transformers_logging

    if transformers_logging.is_progress_bar_enabled():
        transformers_logging.disable_progress_bar()
        stack.callback(transformers_logging.enable_progress_bar)
