"""Recoverable failures: the model can be traced with more layers, or with its weights in memory.

They are raised where the cause is detected. Any other exception is an error of the model, of the user, or a bug.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from onnxport._foreign_errors import translating
from onnxport.errors import OnnxportError, UnsupportedError

_PACKAGE = str(Path(__file__).parent)


class MoreLayersNeededError(Exception):
    """The traced layers don't represent the other layers.

    Args:
        reason: the difference or failure that was found.
        stacks: names of the layer stacks whose remaining layers have to be traced, too; empty if unknown.
    """

    def __init__(self, reason: str, stacks: frozenset[str] = frozenset()) -> None:
        super().__init__(reason)
        self.stacks = stacks


class WeightsNeededError(Exception):
    """Building, running or tracing a model requires the values of its parameters."""


def with_few_layers() -> AbstractContextManager[None]:
    """Run a model in a block with fewer layers than its code expects.

    Raises:
        MoreLayersNeededError: the model's code fails, for example because it reads the output of a removed layer.
        WeightsNeededError: see `translating_missing_values`.
    """

    def translate(error: Exception) -> Exception | None:
        if (needed := _weights_needed(error)) is not None:
            return needed
        if isinstance(error, OnnxportError):
            raised_by_model = isinstance(error, UnsupportedError) and error.__cause__ is not None
        else:
            raised_by_model = not _raised_by_this_package(error)
        return MoreLayersNeededError(_one_line(error)) if raised_by_model else None

    return translating(translate)


def translating_missing_values() -> AbstractContextManager[None]:
    """Run a block in which parameters have no values.

    Raises:
        WeightsNeededError: the block requires the values of a tensor that has none.
    """
    return translating(_weights_needed)


def needs_weights(error: Exception) -> bool:
    """Return whether an error was caused by the missing values of a tensor."""
    return _missing_values_cause(error) is not None


def _weights_needed(error: Exception) -> WeightsNeededError | None:
    cause = _missing_values_cause(error)
    return None if cause is None else WeightsNeededError(_one_line(cause))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OnnxportError) else f"{type(error).__name__}: {text}"


def _raised_by_this_package(error: BaseException) -> bool:
    """Return whether code of this package raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is None or traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _missing_values_cause(error: BaseException) -> BaseException | None:
    """Return the exception that torch raises for a tensor without values, or None.

    It may be the error itself, or in the chain of its causes and contexts.
    """
    from torch._subclasses import fake_tensor
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    types = (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedFakeTensorException,
        fake_tensor.UnsupportedOperatorException,
        GuardOnDataDependentSymNode,
    )
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, types):
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return cause
