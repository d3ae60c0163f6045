"""Audio codecs as Transformers models: a graph that encodes audio to codes, and one that decodes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from onnxport._transformers_api import model_class_named
from onnxport.description.components import CODES_DECODER
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.light import run_codec, run_component
from onnxport.runtime.models import OnnxModel, as_arrays
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers.utils import ModelOutput

    from onnxport.runtime.graph import Graph

_ENCODER = "encoder_model"


class OnnxCodec(OnnxModel):
    """Run the two graphs of a codec that was exported with `--split-encoders`: `encode`, `decode`, or both."""

    def _main_graph(self) -> Graph:
        return self.directory.graph(_ENCODER)

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_codec(self.directory, arrays)

    def encode(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Encode audio.

        Args:
            *arguments: at most one, `input_values`, [batch, channels, samples].
            **inputs: tensors or arrays by input name, as the feature extractor returns them.

        Returns:
            `audio_codes`, [batch, quantizers, codes], or `latents` of a codec without quantizers; what else `decode`
            takes, such as the mask of the codes.

        Raises:
            OptionError: an input is missing or has the wrong shape, or no graph takes it and it would change the codes.
        """
        return self._run_alone(_ENCODER, {**dict(zip(("input_values",), arguments, strict=False)), **inputs})

    def decode(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Decode codes.

        Args:
            *arguments: at most one, the first argument of the original's `decode`.
            **inputs: the outputs of `encode` by name.

        Returns:
            `audio_values`, or `audio` where the class calls it so. Like that of the original, the audio isn't cut to
            the length of what was encoded.

        Raises:
            OptionError: an input is missing or has the wrong shape, or no graph takes it and it would change the audio.
        """
        original = model_class_named(self.architecture)
        names = self.directory.graph(CODES_DECODER).inputs if original is None else _parameters_of(original)
        return self._run_alone(CODES_DECODER, {**dict(zip(names, arguments, strict=False)), **inputs})

    def _run_alone(self, component: str, named: Mapping[str, Any]) -> ModelOutput:
        check_arguments(self.directory, named)
        outputs = run_component(self.directory, component, as_arrays(named))
        tensors = any(isinstance(value, torch.Tensor) for value in named.values())
        return model_output({name: torch.from_numpy(array) if tensors else array for name, array in outputs.items()})


def _parameters_of(original: Any) -> list[str]:
    """Return the names of the parameters of a codec's `decode`: DAC's first one isn't the codes."""
    return [name for name in inspect.signature(original.decode).parameters if name != "self"]
