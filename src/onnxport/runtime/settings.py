"""Choose where and how ONNX Runtime runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.errors import OptionError

if TYPE_CHECKING:
    import onnxruntime

_PROVIDERS = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider",),
    "rocm": ("ROCMExecutionProvider",),
    "dml": ("DmlExecutionProvider",),
    "coreml": ("CoreMLExecutionProvider",),
}
"""Kinds of devices to the providers that run on them, best first; the CPU's comes after all of them."""
_CPU = "CPUExecutionProvider"
_ONLY_ERRORS = 3


@dataclass(frozen=True)
class RunSettings:
    """Choose where and how graphs are run.

    Attributes:
        device: `cpu`, or a kind of accelerator with an optional number, such as `cuda` or `cuda:1`.
        providers: ONNX Runtime's execution providers, best first, each a name or a pair of name and options; those of
            the device without.
        session_options: ONNX Runtime's session options, its own defaults without.
        threads: threads of one operator, as many as there are cores without.
        spinning: let threads wait busily between two operators and two steps, unless there are session options. On two
            cores, SmolLM2's shape generates 8 % faster with it where nothing else computes; beside torch, Whisper-tiny
            generates 1.5 times as fast without.
    """

    device: str = "cpu"
    providers: Sequence[Any] | None = None
    session_options: onnxruntime.SessionOptions | None = None
    threads: int | None = None
    spinning: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads {self.threads} isn't 1 or more")
        if self.kind not in _PROVIDERS or not (self.device == self.kind or self.device.partition(":")[2].isdigit()):
            known = ", ".join(_PROVIDERS)
            raise OptionError(f"device {self.device!r} isn't one of {known}, with an optional number as in cuda:1")

    @property
    def kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def index(self) -> int:
        """The device's number."""
        return int(self.device.partition(":")[2] or 0)

    def chosen_providers(self) -> list[Any]:
        """Return the execution providers.

        Raises:
            OptionError: the installed ONNX Runtime lacks one of them.
        """
        import onnxruntime

        if self.providers is not None:
            chosen = list(self.providers)
        else:
            own = [(name, {"device_id": str(self.index)}) for name in _PROVIDERS[self.kind] if self.kind != "coreml"]
            chosen = [*(own or _PROVIDERS[self.kind]), _CPU]
        there = onnxruntime.get_available_providers()
        lacking = [name for name in (p if isinstance(p, str) else p[0] for p in chosen) if name not in there]
        if lacking:
            raise OptionError(
                f"the installed ONNX Runtime has no {', '.join(lacking)}; it has {', '.join(there)}: install the "
                "package of ONNX Runtime for the device (onnxruntime-gpu for CUDA), or choose another device"
            )
        return chosen

    def chosen_options(self) -> onnxruntime.SessionOptions:
        """Return the session options."""
        import onnxruntime

        options = self.session_options
        if options is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = _ONLY_ERRORS
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self.spinning)))
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options
