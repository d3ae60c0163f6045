"""Device, execution providers and session options of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxport.errors import OptionError

if TYPE_CHECKING:
    import onnxruntime

Provider = str | tuple[str, Mapping[str, object]]
"""An execution provider: its name, or its name and its options."""

_PROVIDERS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "cuda": ("CUDAExecutionProvider",),
    "rocm": ("ROCMExecutionProvider",),
    "dml": ("DmlExecutionProvider",),
    "coreml": ("CoreMLExecutionProvider",),
}
"""Device type to its execution providers, in order of preference; the CPU's follows all of them."""
_CPU = "CPUExecutionProvider"
_LOG_ERRORS_ONLY = 3


@dataclass(frozen=True)
class RunSettings:
    """Choose the device and the session options to run graphs.

    Attributes:
        device: `cpu`, or an accelerator type with an optional index, such as `cuda` or `cuda:1`.
        providers: ONNX Runtime execution providers in order of preference; defaults to those of the device.
        session_options: ONNX Runtime session options; defaults to ONNX Runtime's.
        threads: number of intra-op threads; defaults to the number of cores.
        spinning: let intra-op threads spin between two runs, too, and not only between two operators; ignored with
            `session_options`. Spinning threads take cores from what else the process computes with, such as torch.
        adapter: file of the adapter that the graphs run with; None to run the base model.
        dtype: precision of the graphs; None for the directory's first.
        exact: load graphs in the form that is compared with the original: `MatMulNBits` computes with the graph's
            floating-point type, whatever its `accuracy_level` is, and random numbers are a constant; slower.
    """

    device: str = "cpu"
    providers: Sequence[Provider] | None = None
    session_options: onnxruntime.SessionOptions | None = None
    threads: int | None = None
    spinning: bool = True
    adapter: Path | None = None
    dtype: str | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise OptionError(f"threads {self.threads} isn't 1 or more")
        is_known_type = self.device_type in _PROVIDERS
        if not is_known_type or not (self.device == self.device_type or self.device.partition(":")[2].isdigit()):
            types = ", ".join(_PROVIDERS)
            raise OptionError(f"device {self.device!r} isn't one of {types}, with an optional index as in cuda:1")

    @property
    def device_type(self) -> str:
        """The device without its index."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """The device's index, 0 by default."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU's execution provider runs all operators."""
        return self.resolve_providers() == [_CPU]

    def resolve_providers(self) -> list[Provider]:
        """Return the execution providers.

        Raises:
            OptionError: the installed ONNX Runtime lacks one of them.
        """
        import onnxruntime

        resolved = list(self.providers) if self.providers is not None else self._default_providers()
        available = onnxruntime.get_available_providers()
        names = [provider if isinstance(provider, str) else provider[0] for provider in resolved]
        missing = [name for name in names if name not in available]
        if missing:
            raise OptionError(
                f"the installed ONNX Runtime has no {', '.join(missing)}; it has {', '.join(available)}: install the "
                "ONNX Runtime package for the device (onnxruntime-gpu for CUDA), or choose another device"
            )
        return resolved

    def _default_providers(self) -> list[Provider]:
        names = _PROVIDERS[self.device_type]
        if self.device_type == "coreml":  # it has no devices to choose from, and rejects the option
            return [*names, _CPU]
        return [*((name, {"device_id": str(self.device_index)}) for name in names), _CPU]

    def resolve_session_options(self) -> onnxruntime.SessionOptions:
        """Return the session options."""
        import onnxruntime

        options = self.session_options
        if options is None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = _LOG_ERRORS_ONLY
            options.add_session_config_entry("session.force_spinning_stop", str(int(not self.spinning)))
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options
