"""Describe Zaya, whose recurrent states only hold the last token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture, when_generating
from onnxport.description.derived import DerivedOnnxConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ZayaOnnxConfig(DerivedOnnxConfig):
    """Describe Zaya for generation."""

    def can_export_recurrence(self, model: PreTrainedModel) -> bool:
        """Return whether the initial states are zeros, which they aren't if the projections have a bias."""
        return not getattr(model.config, "attention_bias", False)


ARCHITECTURES = (Architecture(("zaya",), model=when_generating(ZayaOnnxConfig)),)
