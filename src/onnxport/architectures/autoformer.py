"""Autoformer and Informer: no attention mask if the caller passes none."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny
from onnxport.architectures._unmasked import no_mask_without_padding
from onnxport.patching.patch import EAGER, Patch

_SERIES = {"prediction_length": 4, "num_time_features": 1, "context_length": 12, "lags_sequence": [1, 2, 3]}
_TINY = Tiny(fields=_SERIES, base=_SERIES)
_WITHOUT_MASK = tuple(
    Patch(
        f"transformers.models.{package}.modeling_{package}:create_bidirectional_mask",
        no_mask_without_padding,
        "for an export, Transformers creates a mask that masks nothing, whose shape differs from that of the "
        "autocorrelations that it is added to, or of the encoder's layers that halve the length",
        EAGER,
        "Transformers creates no mask for an export if it creates none in eager mode",
    )
    for package in ("autoformer", "informer")
)
ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("autoformer", "informer"), tiny=_TINY, patches=_WITHOUT_MASK),
    Architecture(("time_series_transformer",), tiny=_TINY),
)
