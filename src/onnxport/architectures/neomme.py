"""NeoMME: an encoder of tokens and image patches, with the row and column of each; fields of its tiny configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, Tiny, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch

_ROWS, _COLUMNS = 2, 3
"""Rows and columns of patches of a dummy image."""


def _patches(context: InputContext) -> torch.Tensor:
    import torch

    return torch.zeros(context.batch * _ROWS * _COLUMNS, context.config.patch_dim)


def _positions(context: InputContext) -> torch.Tensor:
    """Make the (row, column) of each patch, and after them the index of each token twice, [2, batch, sequence]."""
    import torch

    count = _ROWS * _COLUMNS
    patch, token = torch.arange(count), torch.arange(count, count + context.length)
    rows, columns = (torch.cat([axis, token]) for axis in (patch // _COLUMNS, patch % _COLUMNS))
    return torch.stack([rows, columns])[:, None].expand(-1, context.batch, -1).clone()


class NeoMMEOnnxConfig(DerivedOnnxConfig):
    """Describe a model of token ids, some of which are placeholders of image patches."""

    dummy_inputs: ClassVar[Mapping[str, DummyInput]] = {
        "position_ids": DummyInput({1: "batch", 2: "sequence"}, _positions),
        "pixel_values": DummyInput({0: "patches"}, _patches),
    }

    def fit_inputs(self, inputs: dict[str, torch.Tensor]) -> None:
        """Begin each prompt with the placeholders of an image."""
        import torch

        first = torch.ones(len(inputs["input_ids"]), _ROWS * _COLUMNS, dtype=torch.int64)
        for name, value in (("input_ids", self._config.image_token_id), ("attention_mask", 1)):
            inputs[name] = torch.cat([first * value, inputs[name]], dim=1)

    def _axes_of(self, inputs: Mapping[str, Any]) -> dict[str, Mapping[int, str]]:
        return {**super()._axes_of(inputs), **{name: dummy.axes for name, dummy in self.dummy_inputs.items()}}

    def _component(self, preprocessor: Any) -> Any:
        return getattr(preprocessor, "tokenizer", None) or preprocessor


ARCHITECTURES = (Architecture(("neomme",), model=always(NeoMMEOnnxConfig), tiny=Tiny(fields={"head_dim": 16})),)
