"""Describe PaliGemma's decoder: the tokens of the image and of the prompt attend to each other, also behind a past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport.architectures._architecture import Architecture
from onnxport.description.arguments import PAST
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig


class PaliGemmaDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder that reads `token_type_ids` where its cache is new."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder as in its first step: Transformers reads `token_type_ids` only where the cache is empty."""
        if (cache := arguments.get(PAST)) is not None:
            cache_class = type(cache)
            properties = {"is_initialized": property(lambda _: False)}
            cache.__class__ = type(cache_class.__name__, (cache_class,), properties)
        return super().run(forward, arguments)


ARCHITECTURES = (Architecture(("paligemma",), decoder=PaliGemmaDecoderOnnxConfig),)
