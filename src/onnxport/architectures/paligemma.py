"""Describe PaliGemma's decoder, where image and prompt tokens attend bidirectionally, also with a past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxport._transformers_api import PAST
from onnxport.architectures._architecture import Architecture
from onnxport.description.multimodal import EmbedsDecoderOnnxConfig
from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching


class PaliGemmaDecoderOnnxConfig(EmbedsDecoderOnnxConfig):
    """Describe a decoder that uses `token_type_ids` if its cache is empty."""

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the decoder as in its first step: Transformers uses `token_type_ids` only if the cache is empty."""
        cache = arguments.get(PAST)
        if cache is None:
            return super().run(forward, arguments)
        with patching(Replacement(type(cache), "is_initialized", property(lambda _: False))):
            return super().run(forward, arguments)


ARCHITECTURES = (Architecture(("paligemma",), decoder=PaliGemmaDecoderOnnxConfig),)
