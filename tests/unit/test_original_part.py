"""A checkpoint of several models, of which one is exported: its class gets its part of the configuration."""

from __future__ import annotations

from types import SimpleNamespace

import transformers

from conformance.matrix.shrink import tiny_config
from onnxport.runtime.models import GenerativeModel


def test_a_model_of_a_checkpoint_of_several_has_its_own_configuration() -> None:
    config = tiny_config("qwen2_5_omni")
    thinker = transformers.Qwen2_5OmniThinkerForConditionalGeneration
    loaded = SimpleNamespace(config=config, _original_class=thinker)
    found = GenerativeModel._original.func(loaded)  # type: ignore[attr-defined]  # a cached property
    assert isinstance(found.config, transformers.Qwen2_5OmniThinkerConfig)
    loaded = SimpleNamespace(config=config.thinker_config, _original_class=thinker)
    assert GenerativeModel._original.func(loaded).config is config.thinker_config  # type: ignore[attr-defined]
