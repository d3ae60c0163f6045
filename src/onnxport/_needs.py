"""Failures that aren't the end: what can't be traced as it is can be with more layers, or with the weights in memory.

Both are raised where that is found out. Any other exception is an error of the model, of the user, or a bug.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from onnxport._foreign_errors import translating
from onnxport.errors import OnnxportError, UnsupportedError

_PACKAGE = str(Path(__file__).parent)


class MoreLayersNeededError(Exception):
    """Say why the traced layers don't stand for the others.

    Args:
        reason: what was found.
        stacks: names of the stacks whose other layers have to be traced, too; empty where it may be any.
    """

    def __init__(self, reason: str, stacks: frozenset[str] = frozenset()) -> None:
        super().__init__(reason)
        self.stacks = stacks


class WeightsNeededError(Exception):
    """Say where a model looks at the values of its parameters while it is built, run or traced."""


def with_few_layers() -> AbstractContextManager[None]:
    """Run a model in a block that has fewer layers than it was made for.

    Raises:
        MoreLayersNeededError: the model's own code fails, as where it takes the output of a layer that isn't there.
        WeightsNeededError: see `noticing_missing_values`.
    """

    def translate(error: Exception) -> Exception | None:
        if (needed := _weights_needed(error)) is not None:
            return needed
        if isinstance(error, OnnxportError):
            of_model = isinstance(error, UnsupportedError) and error.__cause__ is not None
        else:
            of_model = not _is_ours(error)
        return MoreLayersNeededError(_one_line(error)) if of_model else None

    return translating(translate)


def noticing_missing_values() -> AbstractContextManager[None]:
    """Run a block in which parameters have no values.

    Raises:
        WeightsNeededError: the block needs the values of a tensor that has none.
    """
    return translating(_weights_needed)


def _weights_needed(error: Exception) -> WeightsNeededError | None:
    cause = _missing_values(error)
    return None if cause is None else WeightsNeededError(_one_line(cause))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OnnxportError) else f"{type(error).__name__}: {text}"


def _is_ours(error: BaseException) -> bool:
    """Say whether code of this package raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is None or traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE)


def _missing_values(error: BaseException) -> BaseException | None:
    """Return the exception by which torch said that a tensor has no values, None where it said no such thing.

    An error that was raised while it was handled has it as its cause or context.
    """
    from torch._subclasses import fake_tensor
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    kinds = (
        fake_tensor.DataDependentOutputException,
        fake_tensor.DynamicOutputShapeException,
        fake_tensor.UnsupportedFakeTensorException,
        fake_tensor.UnsupportedOperatorException,
        GuardOnDataDependentSymNode,
    )
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kinds):
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return cause
