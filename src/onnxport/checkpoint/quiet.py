"""Silence what Transformers and the hub client print while they work; errors come as exceptions anyway."""

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
    """Hide progress bars, load reports and warnings in a block; everything is as before after it.

    These settings are the process's, so the block holds the lock of `patching`.

    Loggers keep what is `ERROR` or worse. Progress bars are switched off only in packages that are loaded already
    or are about to be used: the hub client always, Transformers when it is imported.
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
    """Switch off the bars of a module that uses `tqdm` directly, out of reach of its package's own switch.

    Raises:
        AttributeError: the module has no `tqdm`: it no longer needs this.
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
