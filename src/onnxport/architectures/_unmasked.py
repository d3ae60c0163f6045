"""Describe models whose mask the graph doesn't take, and make no mask where none is passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxport.description.derived import DerivedOnnxConfig


class UnmaskedOnnxConfig(DerivedOnnxConfig):
    """Describe a model without its attention mask; the record of its type says why under `left_out`."""

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Remove the mask."""
        inputs.pop("attention_mask", None)


def no_mask_without_padding(original: Callable[..., Any]) -> Callable[..., Any]:
    """Make no mask if nothing is masked, as Transformers does unless it is exported."""

    def mask(*arguments: Any, attention_mask: Any = None, **named: Any) -> Any:
        return None if attention_mask is None else original(*arguments, attention_mask=attention_mask, **named)

    return mask
