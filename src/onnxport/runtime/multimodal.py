"""A decoder with encoders of images or audio, as a Transformers model."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin, PreTrainedConfig

from onnxport._transformers_api import cache_name
from onnxport.description.encoder_outputs import MAIN_INPUTS, completed_modalities
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime import modalities, videos
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.cross_attention import MASK
from onnxport.runtime.light import NO_CACHE_FOR_EMBEDS, is_mrope
from onnxport.runtime.models import GenerativeModel, as_arrays, kept_logits, prepares_inputs
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel
    from transformers.utils import ModelOutput

    from onnxport.runtime.cache import OnnxCache
    from onnxport.runtime.directory import Directory
    from onnxport.runtime.graph import Graph

    Tensor = torch.Tensor | NDArray[Any]

logger = logging.getLogger(__name__)


class OnnxMultimodal(GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run a decoder with image or audio encoders, whose outputs replace the embeddings of placeholder tokens."""

    decoder_name = "decoder_model_merged"
    _handled = (
        *(modalities.ENCODED, modalities.POSITION_MASK),
        *("logits_to_keep", "mm_token_type_ids", *videos.INPUTS),
    )

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._uses_mrope = is_mrope(self._decoder.graph.inputs.get("position_ids"))
        self._modalities = completed_modalities(directory.modalities, config)
        self.input_modalities += tuple(modality.name for modality in self._modalities)
        self._rope_deltas: torch.Tensor | int = 0

    def _main_graph(self) -> Graph:
        return self.directory.graph("embed_tokens")

    def _prepare_position_ids_for_generation(
        self, inputs_tensor: torch.Tensor, model_kwargs: dict[str, Any]
    ) -> torch.Tensor:
        """Return position ids, [batch, tokens], or [3, batch, tokens] for multimodal rotary embeddings (M-RoPE)."""
        text_positions: torch.Tensor = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        if not self._uses_mrope:
            return text_positions
        cache = model_kwargs.get(cache_name())
        if cache is not None and cache.get_seq_length():
            return (text_positions + self._rope_deltas).expand(3, -1, -1)
        input_ids = model_kwargs.get("input_ids", inputs_tensor)
        has_images = any(model_kwargs.get(name) is not None for name in _IMAGE_SIZES)
        if not has_images or (get_rope_index := self._get_rope_index) is None:
            self._rope_deltas = 0
            return text_positions.expand(3, len(input_ids), -1)
        inputs = {"input_ids": input_ids, **model_kwargs}
        videos.check_types(inputs)
        known = inspect.signature(get_rope_index).parameters  # they differ by model
        if inputs.get(_TYPES) is None and _TYPES in known and known[_TYPES].default is inspect.Parameter.empty:
            logger.warning("%s is missing: images are counted like text, as in Transformers", _TYPES)
            self._rope_deltas = 0
            return text_positions.expand(3, len(input_ids), -1)
        if inputs.get("video_second_per_grid") is not None:  # Qwen2.5-Omni
            inputs["second_per_grids"] = inputs["video_second_per_grid"]
        if inputs.get("feature_attention_mask") is not None:
            inputs["audio_seqlens"] = inputs["feature_attention_mask"].sum(-1)
        found: torch.Tensor
        found, self._rope_deltas = get_rope_index(**{k: value for k, value in inputs.items() if k in known})
        return found

    def _mrope_positions(self, position_ids: torch.Tensor) -> torch.Tensor:
        """Return position ids for M-RoPE, [3, batch, tokens], in all shapes that Transformers takes."""
        count = int(self._decoder.graph.inputs["position_ids"].axes[0])
        if position_ids.ndim == 2:
            return position_ids.expand(count, -1, -1)
        return position_ids[1:] if len(position_ids) == count + 1 else position_ids  # the first are for the mask

    @property
    def _get_rope_index(self) -> Callable[..., Any] | None:
        """The method of the original, or of its base model, that counts position ids with images; None without."""
        return self._original_method(_ROPE_INDEX)

    def _original_method(self, name: str) -> Callable[..., Any] | None:
        if self._original_class is None:
            return None
        owners = (self._original, self._original.base_model)
        return next((getattr(owner, name) for owner in owners if hasattr(owner, name)), None)

    def _default_types(self, tokens: torch.Tensor) -> torch.Tensor | None:
        """Return the types of token ids, [batch, tokens], where the original's forward requires them; None elsewhere.

        Without types, Qwen2.5-VL's forward counts images like text, and those of other models are an error.
        """
        compute = self._original_method("compute_3d_position_ids")
        requires = compute is not None and f"{_TYPES} is None" in inspect.getsource(compute)
        is_needed = requires and tokens.ndim == _IDS_RANK
        return (tokens == self._original.config.image_token_id).int() if is_needed else None

    def prepare_inputs_for_generation(
        self,
        *arguments: Any,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Select the inputs of a step: embeddings, images and audio are inputs of the first one only.

        Args:
            *arguments: the token ids; see Transformers.
            inputs_embeds: embeddings of the prompt, instead of its token ids.
            is_first_iteration: whether this is the first step.
            **kwargs: see Transformers.

        Returns:
            Arguments of `forward`.

        Raises:
            UnsupportedError: embeddings are passed, and the decoder has no cache to keep what it computes of them.
        """
        if inputs_embeds is not None and not self._decoder.has_cache:
            raise UnsupportedError(NO_CACHE_FOR_EMBEDS)
        kwargs |= {} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        inputs = super().prepare_inputs_for_generation(*arguments, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            return dict(inputs)
        first_only = (*MAIN_INPUTS, videos.PIXELS, modalities.ENCODED)
        return {name: value for name, value in inputs.items() if name not in first_only}

    def _preparing(self) -> PreTrainedModel | None:
        """Return the model that selects the inputs: the decoder if the model's own `generate` is that (Kosmos-2)."""
        generate = inspect.unwrap(getattr(self._original_class, "generate", GenerationMixin.generate))
        if generate is not inspect.unwrap(GenerationMixin.generate):
            parts = (getattr(self._original, name, None) for name in generate.__code__.co_names)
            decoder = next((part for part in parts if isinstance(part, GenerationMixin)), None)
            if prepares_inputs(type(decoder)):
                return decoder
        return super()._preparing()

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **inputs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeat each sequence and the encoders' outputs for it; the encoders run once."""
        if expand_size > 1 and (features := self._encode({"input_ids": input_ids, **inputs})):
            encoder_inputs = {*modalities.encoder_inputs(self._encoders()), *videos.INPUTS}
            inputs = {name: value for name, value in inputs.items() if name not in encoder_inputs}
            arrays = as_arrays({"ids": input_ids, "mask": inputs.get(modalities.POSITION_MASK)})
            repeated = modalities.repeat_features(features, arrays["ids"], expand_size, arrays.get("mask"))
        else:
            repeated = None
        if isinstance(self._rope_deltas, torch.Tensor):
            self._rope_deltas = self._rope_deltas.repeat_interleave(expand_size, dim=0)
        tokens, expanded = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids=input_ids, **inputs
        )
        return tokens, expanded | ({modalities.ENCODED: repeated} if repeated else {})

    def _encoders(self) -> list[Graph]:
        return [self.directory.graph(modality.component) for modality in self._modalities]

    def _encode(self, inputs: Mapping[str, Any]) -> tuple[modalities.EncoderFeatures, ...]:
        """Run the encoders whose main input isn't missing.

        Raises:
            UnsupportedError: a video is passed, and no graph encodes videos.
        """
        arrays = as_arrays(inputs)
        features = modalities.encode(self.directory, self._modalities, arrays)
        if arrays.get(videos.PIXELS) is None:
            return features
        original = None if self._original_class is None else self._original
        return (*features, *videos.encode_videos(self.directory, self._modalities, original, arrays))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        pixel_values: Tensor | None = None,
        input_features: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **encoder_inputs: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, tokens], with a placeholder token for each embedding of an image or audio
                clip, if the model replaces token embeddings.
            attention_mask: [batch, cached tokens + tokens].
            position_ids: [batch, tokens]; for M-RoPE, also [3, batch, tokens], or [4, batch, tokens] whose first row
                is ignored; counted as the model's forward counts them by default. If the graph counts them itself,
                they must be those of tokens without padding.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            pixel_values: images.
            input_features: audio.
            token_type_ids: [batch, tokens], 1 for image tokens, for models whose image tokens attend to each other in
                both directions.
            image_grid_thw: [images, 3], frames, rows and columns of patches, for models with M-RoPE.
            mm_token_type_ids: [batch, tokens], 1 for image tokens, for models with M-RoPE. Without them, Qwen2.5-VL and
                `generate` count images like text, as in Transformers; other calls find image tokens by their id.
            inputs_embeds: embeddings of the tokens, [batch, tokens, hidden size], instead of `input_ids`.
            pixel_values_videos: videos, for models that encode them as images of several frames; they need
                `video_grid_thw` [videos, 3] and `mm_token_type_ids`, 2 for a video's tokens.
            use_cache: return a cache, even if none was passed.
            logits_to_keep: number of last tokens to return, 0 for all, or the indices of tokens.
            **encoder_inputs: further inputs of the encoders, such as `pixel_attention_mask` and `image_sizes`.

        Returns:
            `logits` [batch, tokens, vocabulary], and the cache.

        Raises:
            OptionError: neither or both of `input_ids` and `inputs_embeds` are passed; there are more or fewer
                placeholder tokens than embeddings of images or audio; or an argument would change the logits, and no
                graph takes it.
            UnsupportedError: a video is passed, and no graph encodes videos.
        """
        tokens = inputs_embeds if input_ids is None else input_ids
        if tokens is None or (input_ids is not None and inputs_embeds is not None):
            raise OptionError(
                "pass either input_ids, with a placeholder token for each embedding of an image or audio clip, or "
                "inputs_embeds"
            )
        main = {"pixel_values": pixel_values, "input_features": input_features, "image_grid_thw": image_grid_thw}
        check_arguments(self.directory, {"attention_mask": attention_mask, **main, **encoder_inputs}, self._handled)
        cache = past_key_values if cache is None else cache
        self._check_positions("position_ids", position_ids, cache)
        if self._uses_mrope and position_ids is not None:
            position_ids = self._mrope_positions(torch.as_tensor(position_ids))
        elif self._uses_mrope:
            types = mm_token_type_ids
            if types is None and encoder_inputs.get(videos.GRIDS) is None:
                types = self._default_types(torch.as_tensor(tokens))
            inputs = {"attention_mask": attention_mask, cache_name(): cache}
            inputs |= {"image_grid_thw": image_grid_thw, _TYPES: types, **encoder_inputs}
            counted = self._prepare_position_ids_for_generation(torch.as_tensor(tokens), inputs)
            position_ids = counted[..., -tokens.shape[1] :]
        elif position_ids is None:
            position_ids = self._positions(tokens, cache)
        features = encoder_inputs.get(modalities.ENCODED)
        if features is None:
            features = self._encode(
                {"input_ids": input_ids, **main, videos.PIXELS: pixel_values_videos, **encoder_inputs}
            )
        all_types = (token_type_ids, mm_token_type_ids, encoder_inputs.get("moe_mm_token_type_ids"))
        token_types = next((value for value in all_types if value is not None), None)
        mask = encoder_inputs.get(modalities.POSITION_MASK) if features else None
        arrays = as_arrays({"tokens": tokens, "types": token_types, "mask": mask})
        feed: dict[str, Any] = modalities.embed_and_merge(
            self.directory, arrays["tokens"], features, arrays.get("types"), arrays.get("mask")
        )
        prefix = feed["inputs_embeds"].shape[1] - arrays["tokens"].shape[1]
        feed |= {"attention_mask": attention_mask, "position_ids": position_ids, MASK: encoder_inputs.get(MASK)}
        return model_output(kept_logits(self._step(feed, cache, use_cache, prefix), logits_to_keep))


_ROPE_INDEX, _TYPES = "get_rope_index", "mm_token_type_ids"
_IDS_RANK = 2
"""Number of axes of token ids."""
_IMAGE_SIZES = ("image_grid_thw", "target_sizes", videos.GRIDS)
"""Inputs with the rows and columns of the patches of an image or a video's frame."""
