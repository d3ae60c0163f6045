"""Describe an audio codec as two graphs: an encoder from audio to codes, and a decoder from codes to audio.

Codes are discrete (`audio_codes`), or continuous (`latents`). The whole model as one graph encodes and decodes at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from onnxport.configs._base import Axes, OnnxConfig, model_of
from onnxport.configs._parameters import compute_effective_axis_dimension
from onnxport.description.completion import completed
from onnxport.description.components import CODES_DECODER, Component
from onnxport.description.derived import DerivedOnnxConfig, move, tensor_names
from onnxport.description.forward import forward_parameters
from onnxport.description.tasks import canonical_task
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from onnxport.description.preprocessor import Preprocessor

_CODES, _LATENTS = "audio_codes", "latents"
_OTHER_FORMS = (_LATENTS, "quantized_representation")
"""What a decoder takes instead of the codes."""
_CODE_AXES = {3: {0: "batch", 2: "codes"}, 4: {1: "batch", 3: "codes"}}
"""Rank of codes to their axes: [batch, quantizers, codes], and EnCodec's [chunks, batch, quantizers, codes]."""
_FRAMES = {0: "batch", 1: "codes"}
"""Axes of latents, [batch, codes, size], and of a mask."""
_FEW_CODES = 4
"""Number of codes that are tried if the configuration doesn't have the size of its codebooks."""


def is_codec(model_class: type) -> bool:
    """Return whether a class has methods that encode audio to codes and decode these."""
    encode, decode = (getattr(model_class, name, None) for name in ("encode", "decode"))
    if encode is None or decode is None or "input_values" not in inspect.signature(encode).parameters:
        return False
    return not {_CODES, _LATENTS}.isdisjoint(inspect.signature(decode).parameters)


def codec(
    model: PreTrainedModel, preprocessor: Preprocessor, *, excluded: Collection[str] = ()
) -> tuple[Component, ...]:
    """Describe the two graphs, which have the names that optimum and transformers.js expect.

    Args:
        model: the codec; see `is_codec`.
        preprocessor: makes the encoder's inputs.
        excluded: names of parameters that can't be inputs.
    """
    taken = inspect.signature(type(model).encode).parameters  # type: ignore[attr-defined]
    parameters = forward_parameters(type(model))  # type: ignore[arg-type]  # classes are hashable
    excluded = [*excluded, *(name for name in parameters if name not in taken)]
    encoder = CodecEncoderOnnxConfig(model, preprocessor)
    decoder = CodecDecoderOnnxConfig(model, encoder, preprocessor)
    whole = completed(model, encoder, preprocessor, canonical_task("feature-extraction"), excluded)
    return (
        Component("encoder_model", model, whole, preprocessor),
        Component(CODES_DECODER, model, decoder, preprocessor),
    )


class CodecEncoderOnnxConfig(DerivedOnnxConfig):
    """Describe the encoder of a codec, which returns what its decoder takes.

    Attributes:
        constants: what its decoder takes as well, and what isn't a tensor (EnCodec's missing scales).

    Raises:
        UnsupportedError: the decoder takes a list of tensors.
    """

    def __init__(self, model: PreTrainedModel, preprocessor: Preprocessor) -> None:
        self.constants: dict[str, Any] = {}
        self._ranks: dict[str, int] = {}
        super().__init__(model, preprocessor)

    def parameters_of(self, model: PreTrainedModel) -> tuple[str, ...]:
        """Return the names of the encoder's parameters."""
        return tuple(inspect.signature(type(model).encode).parameters)

    @property
    def outputs(self) -> Axes:
        """The codes, with the axes that the decoder's inputs have."""
        return {name: _axes_of(name, self._ranks[name]) for name in self._outputs}

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Encode audio; see `OnnxConfig`."""
        import torch

        model = model_of(forward)
        outputs = model.encode(**arguments, **self._kwargs, return_dict=True)
        taken = inspect.signature(model.decode).parameters
        found = {name: outputs[name] for name in taken if outputs.get(name) is not None}
        codes = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
        if not self._ranks:
            self.constants = {name: value for name, value in found.items() if name not in codes}
            _check_constants(model, self.constants)
        codes = {name: value for name, value in codes.items() if _CODES not in codes or name not in _OTHER_FORMS}
        self._ranks = {name: value.dim() for name, value in codes.items()}
        return codes


def _check_constants(model: PreTrainedModel, constants: Mapping[str, Any]) -> None:
    import torch

    for name, value in constants.items():
        if isinstance(value, list | tuple) and any(isinstance(item, torch.Tensor) for item in value):
            raise UnsupportedError(
                f"{type(model).__name__}.decode takes {name}, a list of tensors, so that the decoder can't be a graph "
                "of its own; leave out --split-encoders"
            )


def _axes_of(name: str, rank: int) -> Mapping[int, str]:
    """Return the dynamic axes of codes, latents, or their mask."""
    return _CODE_AXES.get(rank, _FRAMES) if name == _CODES else _FRAMES


class CodecDecoderOnnxConfig(OnnxConfig):
    """Describe the decoder of a codec.

    Args:
        model: the codec; both parts are run once.
        encoder: description of its encoder.
        preprocessor: makes the encoder's inputs.
    """

    def __init__(self, model: PreTrainedModel, encoder: CodecEncoderOnnxConfig, preprocessor: Preprocessor) -> None:
        import torch

        super().__init__(model.config, task="default")
        self._constants = encoder.constants
        with torch.no_grad():
            codes = encoder.run(model, move(encoder.generate_dummy_inputs(preprocessor), model))
            self._inputs = {name: (tuple(value.shape), value.dtype) for name, value in codes.items()}
            made = move(self.generate_dummy_inputs(preprocessor), model)
            self._outputs = tuple(tensor_names(self.run(model, made)))

    @property
    def inputs(self) -> Axes:
        """The codes, and their mask if the encoder returns one."""
        return {name: _axes_of(name, len(shape)) for name, (shape, _) in self._inputs.items()}

    @property
    def outputs(self) -> Axes:
        """The audio."""
        return {name: {0: "batch"} for name in self._outputs}

    def generate_dummy_inputs(  # type: ignore[override]
        self, preprocessor: Any, batch_size: int = -1, **sizes: Any
    ) -> Mapping[str, Any]:
        """Make codes that differ by position; see `OnnxConfig`."""
        batch = compute_effective_axis_dimension(batch_size, self.default_batch_size)
        return {name: self._make(name, batch) for name in self._inputs}

    def _make(self, name: str, batch: int) -> torch.Tensor:
        import torch

        shape, dtype = self._inputs[name]
        axis = next(axis for axis, label in self.inputs[name].items() if label == "batch")
        shape = (*shape[:axis], batch, *shape[axis + 1 :])
        if dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype)  # random values replace them
        if name != _CODES:
            return torch.ones(shape, dtype=dtype)
        known = getattr(self._config, "codebook_size", None)
        count = known if isinstance(known, int) else _FEW_CODES
        return torch.randint(
            0, count, shape, generator=torch.Generator().manual_seed(0)
        )  # int64, as indices are in ONNX

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Decode codes; see `OnnxConfig`."""
        return model_of(forward).decode(**arguments, **self._constants, return_dict=True)
