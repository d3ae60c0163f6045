"""EnCodec: audio encoded as a single chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

_MODULE = "transformers.models.encodec.modeling_encodec"
_NUM_BOUNDS = 3


def _one_step(original: type[range]) -> Callable[..., Iterable[int]]:
    """Return only the start of a range whose end is its step, without comparing the symbolic sizes."""

    def steps(*bounds: int) -> Iterable[int]:
        is_one_chunk = len(bounds) == _NUM_BOUNDS and bounds[1] is bounds[2]
        return (bounds[0],) if is_one_chunk else original(*bounds)

    return steps


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("encodec",),
        patches=(
            Patch(
                f"{_MODULE}:range",
                _one_step,
                "the loop over the chunks of audio that has a single chunk specializes its length",
                EAGER,
                "torch.export supports a range with a single step of symbolic size",
            ),
        ),
    ),
)
