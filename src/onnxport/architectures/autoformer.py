"""Autoformer and its relatives: what a tiny configuration needs that its fields' names don't tell."""

from __future__ import annotations

from onnxport.architectures._architecture import Architecture, Tiny

_SERIES = {"prediction_length": 4, "num_time_features": 1, "context_length": 12, "lags_sequence": [1, 2, 3]}
ARCHITECTURES = (
    Architecture(("autoformer", "informer", "time_series_transformer"), tiny=Tiny(fields=_SERIES, base=_SERIES)),
)
