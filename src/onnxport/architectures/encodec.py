"""EnCodec: audio encoded as a single chunk, and the decoder that other models generate codes for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from onnxport.description.preprocessor import Preprocessor

_MODULE = "transformers.models.encodec.modeling_encodec"
_NUM_BOUNDS = 3


def _one_step(original: type[range]) -> Callable[..., Iterable[int]]:
    """Return only the start of a range whose end is its step, without comparing the symbolic sizes."""

    def steps(*bounds: int) -> Iterable[int]:
        is_one_chunk = len(bounds) == _NUM_BOUNDS and bounds[1] is bounds[2]
        return (bounds[0],) if is_one_chunk else original(*bounds)

    return steps


_FRAMES = 10
"""Number of frames of dummy codes."""


class CodesDecoderOnnxConfig(OnnxConfig):
    """Describe the decoder, which makes audio of codes.

    Args:
        config: the codec's configuration.
        num_codebooks: number of codes for each frame.
    """

    def __init__(self, config: PreTrainedConfig, num_codebooks: int) -> None:
        super().__init__(config)
        self._num_codebooks = num_codebooks

    @property
    def inputs(self) -> Axes:
        """Codes, [1, batch, codebooks, frames]; the first axis is that of EnCodec's chunks."""
        return {"audio_codes": {1: "batch", 3: "frames"}}

    @property
    def outputs(self) -> Axes:
        """Audio, [batch, channels, samples]."""
        return {"audio_values": {0: "batch"}}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Preprocessor, batch_size: int = -1, **named: Any
    ) -> Mapping[str, Any]:
        """Make codes that differ by codebook and frame; see `OnnxConfig`."""
        import torch

        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        shape = (1, batch, self._num_codebooks, _FRAMES)
        codes = torch.arange(batch * self._num_codebooks * _FRAMES) % self._config.codebook_size
        return {"audio_codes": codes.reshape(shape)}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Decode one chunk without a scale, which only normalized audio has."""
        return {"audio_values": model_of(forward)._decode_frame(arguments["audio_codes"][0])}


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
