"""NeuCodec: audio of any length, whose features have a frame fewer than its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.architectures._symbolic import symbolic_int, symbolic_min
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.patching.patch import EAGER, Patch

_MODULE = "transformers.models.neucodec.modeling_neucodec"
_FEATURES = {"input_features", "input_features_mask"}


class NeucodecOnnxConfig(DerivedOnnxConfig):
    """Describe the codec as one graph: the lengths of samples and features are independent, the shorter counts."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Cut a frame off the features, which the feature extractor doesn't make; see `DerivedOnnxConfig`."""
        for name in inputs.keys() & _FEATURES:
            inputs[name] = inputs[name][:, :-1]

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return super()._axes_of(inputs) | {name: {0: "batch", 1: "frames"} for name in inputs.keys() & _FEATURES}


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("neucodec",),
        model=always(NeucodecOnnxConfig),
        tiny=Tiny(fields={"quantization_dim": 64}),
        patches=(
            Patch(
                f"{_MODULE}:int",
                symbolic_int,
                "int() of the number of samples specializes the number of codes",
                EAGER,
                "Transformers counts samples with torch_int",
            ),
            Patch(
                f"{_MODULE}:min",
                symbolic_min,
                "the shorter of the features and the samples is decided when traced",
                EAGER,
                "Transformers cuts both by slices",
            ),
        ),
    ),
)
