"""Call a function many times on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from onnxport._foreign_errors import translating
from onnxport.errors import MissingDependencyError, OptionError

Result = TypeVar("Result")
_RETRIES = 3
"""How often a call is repeated if its worker or machine is lost."""


def run_tasks(function: Callable[..., Result], calls: Iterable[tuple[Any, ...]], address: str) -> Iterator[Result]:
    """Call a function with each tuple of arguments, each in a Ray task of one CPU.

    Args:
        function: a function of an installed module.
        calls: the arguments of each call.
        address: the cluster's address, as `ray.init` takes it: `auto` for the one that runs on this machine, `local` to
            start one, or `ray://HOST:PORT`.

    Yields:
        The results, in the order in which the calls end.

    Raises:
        MissingDependencyError: Ray isn't installed.
        OptionError: there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("Ray isn't installed: pip install 'onnxport[ray]'") from error

    def unreachable(error: Exception) -> OptionError:
        reason = " ".join(str(error).split())[:200]
        return OptionError(f"--ray {address}: no cluster can be reached ({reason}); start one with ray start --head")

    with translating(unreachable):
        started = not ray.is_initialized()
        ray.init(
            address=address,
            ignore_reinit_error=True,
            log_to_driver=False,
            include_dashboard=False if address == "local" else None,
        )
    try:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(function)
        pending = [remote.remote(*arguments) for arguments in calls]
        while pending:
            (done, *_), pending = ray.wait(pending)
            yield ray.get(done)
    finally:
        if started:
            ray.shutdown()
