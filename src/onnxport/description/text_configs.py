"""Find the text configuration of a model, including models with two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PARTS = {"encoder": ("text_encoder",), "decoder": ("decoder", "generator", "text_config")}
"""Field names that `PreTrainedConfig.get_text_config` looks for."""


def text_config_of(config: PreTrainedConfig, part: Literal["encoder", "decoder"] = "decoder") -> PreTrainedConfig:
    """Return the configuration of the submodel that takes or generates token ids.

    Transformers' `get_text_config()` raises ValueError for a model with two (MusicGen has a text encoder and a decoder
    of audio codes), and with `decoder=True` it returns a copy with renamed fields for a flat configuration.

    Args:
        config: configuration of the model; returned itself if it has no text configuration.
        part: which one to return if there are two.
    """
    present = {name for names in _PARTS.values() for name in names if getattr(config, name, None) is not None}
    if len(present) > 1:
        ordered = (*_PARTS[part], *(name for names in _PARTS.values() for name in names))
        return getattr(config, next(name for name in ordered if name in present))  # type: ignore[no-any-return]
    return config.get_text_config() if hasattr(config, "get_text_config") else config
