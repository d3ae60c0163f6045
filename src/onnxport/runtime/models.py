"""Exported directories as Transformers models, with the same call signatures, and with Transformers' `generate`.

The models provide the methods that `generate` requires: a `forward`, and a cache (`cache.py`) that can be reordered and
cropped.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cached_property
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.utils import ModelOutput

from onnxport._transformers_api import cache_name
from onnxport.description.encoder_outputs import MAIN_INPUTS, completed_modalities
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime import modalities
from onnxport.runtime.cache import OnnxCache
from onnxport.runtime.cross_attention import MASK
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import complete_inputs, is_mrope, run_split_encoders
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    Tensor = torch.Tensor | NDArray[Any]


def torch_model(directory: Directory) -> OnnxModel:
    """Return the model class for a directory's components.

    Raises:
        UnsupportedError: no class runs them.
    """
    config = _load_config(directory)
    if directory.has("embed_tokens"):
        return OnnxMultimodal(directory, config)
    if directory.has("decoder_model_merged"):
        exported = getattr(transformers, str(directory.manifest.source["architecture"]), OnnxModel)
        if issubclass(exported, WhisperGenerationMixin):
            return OnnxSpeechSeq2Seq(directory, config)
        return OnnxSeq2Seq(directory, config)
    if directory.has("text_model"):
        return OnnxSplitEncoders(directory, config)
    if not directory.has("model"):
        names = ", ".join(directory.component_names)
        raise UnsupportedError(f"{directory.path} has the graphs {names}, which onnxport.load can't run together")
    if directory.task == "text-generation":
        return OnnxCausalLM(directory, config)
    return OnnxModel(directory, config)


def _load_config(directory: Directory) -> PreTrainedConfig:
    """Load the configuration; if its class is code of the directory, load its values without that class."""
    auto_map, model_type = directory.config.get("auto_map"), str(directory.config.get("model_type"))
    if isinstance(auto_map, dict) and "AutoConfig" in auto_map and model_type not in CONFIG_MAPPING_NAMES:
        return PreTrainedConfig.from_dict(directory.config)
    return AutoConfig.from_pretrained(directory.path, trust_remote_code=False, local_files_only=True)


class OnnxModel:
    """Run one graph like a Transformers model.

    Args:
        directory: the exported directory.
        config: the model's configuration.

    Attributes:
        config: the model's configuration.
        device: device of the outputs.
        dtype: element type of the floating-point outputs.
        architecture: class name of the exported model.
    """

    main_input_name = "input_ids"
    base_model_prefix = ""
    output_modalities = ("text",)
    _is_stateful = False

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        self.directory = directory
        self.config = config
        self.device = torch.device("cpu")
        self.architecture = str(directory.manifest.source["architecture"])
        self.name_or_path = str(directory.path)
        graph = self._main_graph()
        dtypes = [spec.dtype for spec in graph.outputs.values() if spec.dtype.startswith("float")]
        self.dtype: torch.dtype = getattr(torch, dtypes[0]) if dtypes else torch.float32
        self.input_modalities = tuple(modality for name, modality in _MODALITIES.items() if name in graph.inputs)
        self.main_input_name = next((n for n in _MODALITIES if n in graph.inputs), next(iter(graph.inputs)))

    def _main_graph(self) -> Graph:
        return self.directory.graph("model")

    def __call__(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Run the model; see `forward`."""
        return self.forward(*arguments, **inputs)

    def forward(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Run the graph.

        Args:
            *arguments: at most one, the main input.
            **inputs: tensors or arrays by input name; names that the graph lacks are ignored, and missing masks, token
                types and position ids are filled in as for sequences without padding.

        Returns:
            The graph's outputs: tensors if any input is a tensor, arrays otherwise.

        Raises:
            OptionError: an input is missing or has the wrong shape.
        """
        named = {**dict(zip((self.main_input_name,), arguments, strict=False)), **inputs}
        outputs = self._run(_arrays(named))
        tensors = any(isinstance(value, torch.Tensor) for value in named.values())
        return model_output({name: torch.from_numpy(array) if tensors else array for name, array in outputs.items()})

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        graph = self._main_graph()
        return {name: to_array(value) for name, value in graph.run(complete_inputs(graph, arrays)).items()}

    def can_generate(self) -> bool:
        """Return whether the model has `generate`."""
        return isinstance(self, GenerationMixin)

    def to(self, device: torch.device | str | int) -> OnnxModel:
        """Return the model; it can't be moved from the device on which it was loaded.

        Raises:
            OptionError: `device` is another one.
        """
        if torch.device(device).type != self.device.type:
            raise OptionError(f"the model's outputs are on {self.device}: load it with device={str(device)!r} instead")
        return self

    def eval(self) -> OnnxModel:
        """Return the model, which has no training mode."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r})"


_MODALITIES = {"input_ids": "text", "pixel_values": "image", "input_features": "audio", "input_values": "audio"}
"""Main inputs, in order of precedence, to their modality."""


class OnnxSplitEncoders(OnnxModel):
    """Run the encoders of a dual-encoder model (CLIP, SigLIP, CLAP): each whose main input is passed.

    The outputs are `text_embeds`, `image_embeds` and `audio_embeds`, [batch, size] each; the graphs' names may differ.
    """

    def _main_graph(self) -> Graph:
        return self.directory.graph("text_model")

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_split_encoders(self.directory, arrays)


class _GenerativeModel(OnnxModel):
    """Provide the methods and attributes that `generate` requires of a model in addition to `forward`."""

    decoder_name = "model"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._decoder = Decoder(directory.graph(self.decoder_name))
        has_file = (directory.path / "generation_config.json").is_file()
        self.generation_config = (
            GenerationConfig.from_pretrained(directory.path, local_files_only=True)
            if has_file
            else GenerationConfig.from_model_config(config)
        )
        if not self._decoder.has_cache:
            self.generation_config.use_cache = False

    def get_experts_implementation(self) -> dict[str, str]:
        """Return an empty dictionary: experts are part of the graph."""
        return {}

    def is_remote_code(self) -> bool:
        """Return False: no code of the checkpoint runs."""
        return False

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return True

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any
    ) -> None:
        if model_kwargs.get(cache_name()) is not None:
            model_kwargs[cache_name()]._is_user_defined = True
        elif generation_config.use_cache is not False and self._decoder.has_cache:
            model_kwargs[cache_name()] = OnnxCache(self._decoder)

    def _step(
        self,
        feed: Mapping[str, Tensor | None],
        cache: OnnxCache | None,
        use_cache: bool | None,
        prefix: int = 0,
    ) -> dict[str, Any]:
        """Run the decoder once; return its logits or hidden states, and the cache, None if no cache is used."""
        if cache is None and use_cache and self._decoder.has_cache:
            cache = OnnxCache(self._decoder)
        arrays = _arrays(feed)
        batch_size = len(next(iter(arrays.values())))
        tensors = cache.get_or_create(batch_size) if cache is not None else self._decoder.empty_cache(batch_size)
        result = torch.from_numpy(self._decoder.step(arrays, tensors, prefix))
        return {self._decoder.result: result, cache_name(): cache}


class OnnxCausalLM(_GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run a decoder like a Transformers model, with Transformers' `generate`."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, tokens].
            attention_mask: [batch, cached tokens + tokens].
            position_ids: [batch, tokens]; computed from the mask by default.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.

        Returns:
            `logits` [batch, tokens, vocabulary], and the cache.
        """
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return model_output(self._step(feed, past_key_values if cache is None else cache, use_cache))


class OnnxEncoder:
    """Run the encoder of an encoder-decoder like that of a Transformers model.

    Args:
        graph: the encoder's graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.main_input_name = next(name for name in _MODALITIES if name in graph.inputs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        **_: Any,
    ) -> ModelOutput:
        """Return the encoder's outputs, `last_hidden_state` [batch, sequence, hidden size] first."""
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "global_attention_mask": global_attention_mask,
            "input_features": input_features,
            "input_values": input_values,
            "pixel_values": pixel_values,
        }
        outputs = self.graph.run(complete_inputs(self.graph, _arrays(inputs)))
        return model_output({name: torch.from_numpy(to_array(value)) for name, value in outputs.items()})

    __call__ = forward


class OnnxSeq2Seq(_GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run an encoder-decoder like a Transformers model, with Transformers' `generate`."""

    decoder_name = "decoder_model_merged"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        self.encoder = OnnxEncoder(directory.graph("encoder_model"))
        config = copy.copy(config)  # the caller's config isn't modified
        config.is_encoder_decoder = True  # BLIP's configuration class leaves it False
        super().__init__(directory, config)

    def _main_graph(self) -> Graph:
        return self.encoder.graph

    def get_encoder(self, modality: str | None = None) -> OnnxEncoder:
        """Return the encoder."""
        return self.encoder

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: ModelOutput | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        pixel_values: Tensor | None = None,
        global_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: the encoder's token ids, [batch, length], for text encoders.
            attention_mask: mask of the encoder's input, [batch, length].
            decoder_input_ids: token ids, [batch, tokens].
            decoder_attention_mask: ignored: decoder sequences have no padding before their first token.
            encoder_outputs: the encoder's outputs; computed if None.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            input_features: the encoder's spectrogram, for audio encoders.
            input_values: the encoder's waveform, for audio encoders.
            pixel_values: the encoder's images, for vision encoders.
            global_attention_mask: [batch, length], 1 for tokens with global attention, for encoders with windowed
                attention (LED).
            labels: ignored; Donut's processor returns them for every prompt.

        Returns:
            `logits` [batch, tokens, vocabulary], the cache and `encoder_last_hidden_state`.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask, input_features, input_values, pixel_values, global_attention_mask
            )
        hidden_states = encoder_outputs[0]
        feed = {"input_ids": decoder_input_ids, "encoder_hidden_states": hidden_states}
        if "encoder_attention_mask" in self._decoder.graph.inputs:
            mask = getattr(encoder_outputs, "encoder_attention_mask", attention_mask)
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.int64) if mask is None else mask
            feed["encoder_attention_mask"] = mask
        step = self._step(feed, past_key_values if cache is None else cache, use_cache)
        return model_output({**step, "encoder_last_hidden_state": hidden_states})


class OnnxMultimodal(_GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run a decoder with image or audio encoders, whose outputs replace the embeddings of placeholder tokens."""

    decoder_name = "decoder_model_merged"

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
        grids, token_types = (model_kwargs.get(name) for name in ("image_grid_thw", "mm_token_type_ids"))
        if grids is None:
            self._rope_deltas = 0
            return text_positions.expand(3, len(input_ids), -1)
        if token_types is None:
            token_types = (input_ids == self.config.image_token_id).int()
        positions: torch.Tensor
        positions, self._rope_deltas = self._original.get_rope_index(
            input_ids, token_types, image_grid_thw=grids, attention_mask=model_kwargs.get("attention_mask")
        )
        return positions

    @cached_property
    def _original(self) -> PreTrainedModel:
        """Transformers' model without weights, for its `get_rope_index`."""
        with torch.device("meta"):
            return AutoModel.from_config(self.config, trust_remote_code=False)

    def prepare_inputs_for_generation(
        self, *arguments: Any, is_first_iteration: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """Select the inputs of a step: images and audio are inputs of the first one only.

        Args:
            *arguments: the token ids; see Transformers.
            is_first_iteration: whether this is the first step.
            **kwargs: see Transformers.

        Returns:
            Arguments of `forward`.
        """
        inputs = super().prepare_inputs_for_generation(*arguments, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration or not kwargs.get("use_cache", True):
            return dict(inputs)
        first_only = (*MAIN_INPUTS, modalities.ENCODED)
        return {name: value for name, value in inputs.items() if name not in first_only}

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        graph_inputs = modalities.encoder_inputs([*self._encoders(), self._decoder.graph])
        others = {name: value for name, value in model_kwargs.items() if name not in graph_inputs}
        super()._validate_model_kwargs(others)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **inputs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeat each sequence and the encoders' outputs for it; the encoders run once."""
        if expand_size > 1 and (features := self._encode(inputs)):
            encoder_inputs = modalities.encoder_inputs(self._encoders())
            inputs = {name: value for name, value in inputs.items() if name not in encoder_inputs}
            repeated = modalities.repeat_features(features, _arrays({"ids": input_ids})["ids"], expand_size)
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
        """Run the encoders whose main input isn't missing."""
        return modalities.encode(self.directory, self._modalities, _arrays(inputs))

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
        pixel_values_videos: Tensor | None = None,
        use_cache: bool | None = None,
        **encoder_inputs: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, tokens], with a placeholder token for each embedding of an image or audio
                clip, if the model replaces token embeddings.
            attention_mask: [batch, cached tokens + tokens].
            position_ids: [batch, tokens], or [3, batch, tokens] for M-RoPE; computed from the mask by default.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            pixel_values: images.
            input_features: audio.
            token_type_ids: [batch, tokens], 1 for image tokens, for models whose image tokens attend to each other in
                both directions.
            image_grid_thw: [images, 3], frames, rows and columns of patches, for models with M-RoPE.
            mm_token_type_ids: [batch, tokens], 1 for image tokens, for models with M-RoPE.
            pixel_values_videos: must be None: the graphs don't support videos.
            use_cache: return a cache, even if none was passed.
            **encoder_inputs: further inputs of the encoders, such as `pixel_attention_mask` and `image_sizes`.

        Returns:
            `logits` [batch, tokens, vocabulary], and the cache.

        Raises:
            OptionError: `input_ids` is missing, or has more or fewer placeholder tokens than there are embeddings.
            UnsupportedError: a video is passed.
        """
        if pixel_values_videos is not None:
            raise UnsupportedError("the exported graphs support images, not videos: pass the frames as images")
        if input_ids is None:
            raise OptionError("the model requires input_ids, with a placeholder token for each embedding")
        if self._uses_mrope and (position_ids is None or position_ids.ndim == 2):
            inputs = {"attention_mask": attention_mask, cache_name(): past_key_values if cache is None else cache}
            inputs |= {"image_grid_thw": image_grid_thw, "mm_token_type_ids": mm_token_type_ids}
            tokens = torch.as_tensor(input_ids)
            position_ids = self._prepare_position_ids_for_generation(tokens, inputs)[..., -tokens.shape[1] :]
        features = encoder_inputs.get(modalities.ENCODED)
        if features is None:
            main = {"pixel_values": pixel_values, "input_features": input_features, "image_grid_thw": image_grid_thw}
            features = self._encode({**main, **encoder_inputs})
        arrays = _arrays({"ids": input_ids, "types": token_type_ids})
        feed: dict[str, Any] = modalities.embed_and_merge(self.directory, arrays["ids"], features, arrays.get("types"))
        prefix = feed["inputs_embeds"].shape[1] - arrays["ids"].shape[1]
        feed |= {"attention_mask": attention_mask, "position_ids": position_ids, MASK: encoder_inputs.get(MASK)}
        return model_output(self._step(feed, past_key_values if cache is None else cache, use_cache, prefix))


class OnnxSpeechSeq2Seq(OnnxSeq2Seq, WhisperGenerationMixin):  # type: ignore[misc]
    """Run Whisper with Transformers' Whisper `generate`, for audio of any length and with timestamps."""

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        # Whisper's generate reads the strides of the encoder's convolutions to convert frames to seconds.
        convolutions = SimpleNamespace(conv1=SimpleNamespace(stride=(1,)), conv2=SimpleNamespace(stride=(2,)))
        self.model = SimpleNamespace(encoder=convolutions)

    def generate(self, *arguments: Any, return_token_timestamps: bool | None = None, **settings: Any) -> Any:
        """Transcribe or translate audio; see `WhisperGenerationMixin.generate`.

        Args:
            *arguments: the input features, and further arguments of Whisper's `generate`.
            return_token_timestamps: must not be set: they are computed from attention weights, which no graph returns.
            **settings: see Whisper's `generate`.

        Raises:
            UnsupportedError: token timestamps are requested.
        """
        if return_token_timestamps:
            raise UnsupportedError(
                "token and word timestamps are computed from attention weights, which the exported graphs don't "
                "return; use return_timestamps=True, the timestamps of segments"
            )
        return super().generate(*arguments, **settings)


def _arrays(inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return tensors as arrays that share memory if on the host; values that aren't tensor-like are left out."""
    return {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor | np.ndarray | list | tuple)
    }
