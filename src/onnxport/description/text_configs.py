"""Find the part of a configuration that is about text, also where a model has two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_PARTS = {"encoder": ("text_encoder",), "decoder": ("decoder", "generator", "text_config")}
"""Names that `PreTrainedConfig.get_text_config` looks for."""


def text_config_of(config: PreTrainedConfig, part: Literal["encoder", "decoder"] = "decoder") -> PreTrainedConfig:
    """Return the configuration of the part of a model that takes or generates token ids.

    Transformers' own `get_text_config()` raises ValueError for a model with two (MusicGen has a text encoder and a
    decoder of audio codes), and with `decoder=True` it returns a copy with renamed fields for a flat configuration.

    Args:
        config: of the whole model; one without such a part is returned itself.
        part: which one is wanted where there are two.
    """
    found = {name for names in _PARTS.values() for name in names if getattr(config, name, None) is not None}
    if len(found) > 1:
        ordered = (*_PARTS[part], *(name for names in _PARTS.values() for name in names))
        return getattr(config, next(name for name in ordered if name in found))  # type: ignore[no-any-return]
    return config.get_text_config() if hasattr(config, "get_text_config") else config
