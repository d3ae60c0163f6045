"""Exported directories as Transformers models, with the same call signatures, and with Transformers' `generate`.

The models provide the methods that `generate` requires: a `forward`, and a cache (`cache.py`) that can be reordered and
cropped.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.utils import ModelOutput

from onnxport._transformers_api import cache_name
from onnxport.description import positions
from onnxport.description.text_configs import text_config_of
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.cache import OnnxCache
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import complete_inputs, run_split_encoders
from onnxport.runtime.outputs import model_output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Tensor = torch.Tensor | NDArray[Any]


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
        outputs = self._run(as_arrays(named))
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


_MODALITIES = {
    **{"input_ids": "text", "pixel_values": "image", "flattened_patches": "image"},
    **{"input_features": "audio", "input_values": "audio"},
}
"""Main inputs, in order of precedence, to their modality."""


class OnnxSplitEncoders(OnnxModel):
    """Run the encoders of a dual-encoder model (CLIP, SigLIP, CLAP): each whose main input is passed.

    The outputs are `text_embeds`, `image_embeds` and `audio_embeds`, [batch, size] each; the graphs' names may differ.
    """

    def _main_graph(self) -> Graph:
        return self.directory.graph("text_model")

    def _run(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return run_split_encoders(self.directory, arrays)


class GenerativeModel(OnnxModel):
    """Provide the methods and attributes that `generate` requires of a model in addition to `forward`."""

    decoder_name = "model"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._decoder = Decoder(directory.graph(self.decoder_name))
        if (directory.path / "generation_config.json").is_file():
            self.generation_config = GenerationConfig.from_pretrained(directory.path, local_files_only=True)
        else:  # a configuration's class drops the settings of `generate` that the file has
            self.generation_config = GenerationConfig.from_model_config({**config.to_dict(), **directory.config})
        if not self._decoder.has_cache:
            self.generation_config.use_cache = False

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Check the arguments of `generate`: those of the original's forward, which a processor returns, are valid."""
        original = getattr(transformers, self.architecture, None)
        known = {} if original is None else dict(inspect.signature(original.forward).parameters)
        graphs = [self.directory.graph(name) for name in self.directory.component_names]
        taken = {*known, *(name for graph in graphs for name in graph.inputs)}
        others = {name: value for name, value in model_kwargs.items() if name not in taken}
        super()._validate_model_kwargs(others)  # type: ignore[misc]  # of `GenerationMixin`

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

    def _positions(self, input_ids: Tensor | None, cache: OnnxCache | None) -> NDArray[Any] | None:
        """Return the position ids that the model's forward counts, [batch, tokens]; None if it counts the mask."""
        spec = self._decoder.graph.inputs.get("position_ids")
        counted = self.directory.manifest.positions
        if spec is None or input_ids is None or counted == positions.MASK:
            return None
        cached = cache.tensors.length - cache.tensors.prefix if cache is not None and cache.tensors is not None else 0
        ids = np.asarray(input_ids)
        if counted == positions.INPUT_IDS:
            padding = text_config_of(self.config).pad_token_id
            is_token = ids != padding
            counts: NDArray[Any] = np.where(is_token, np.cumsum(is_token, axis=-1) + cached, 0)
            return counts + int(padding)
        return np.broadcast_to(np.arange(cached, cached + ids.shape[1]), ids.shape)

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
        arrays = as_arrays(feed)
        batch_size = len(next(iter(arrays.values())))
        tensors = cache.get_or_create(batch_size) if cache is not None else self._decoder.empty_cache(batch_size)
        result = torch.from_numpy(self._decoder.step(arrays, tensors, prefix))
        return {self._decoder.result: result, cache_name(): cache}


class OnnxCausalLM(GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run a decoder like a Transformers model, with Transformers' `generate`."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, tokens].
            attention_mask: [batch, cached tokens + tokens].
            position_ids: [batch, tokens]; counted as the model's forward counts them by default.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            **others: further inputs of each token, such as `input_shape_ids` (RoCBert), zeros by default; names that
                the graph lacks are ignored.

        Returns:
            `logits` [batch, tokens, vocabulary], and the cache.
        """
        cache = past_key_values if cache is None else cache
        if position_ids is None:
            position_ids = self._positions(input_ids, cache)
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        if input_ids is not None:  # `generate` passes those of the prompt in each step
            names = (name for name in self._decoder.token_inputs if others.get(name) is not None)
            feed |= {name: others[name][:, -input_ids.shape[1] :] for name in names}
        return model_output(self._step(feed, cache, use_cache))


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
        **others: Any,
    ) -> ModelOutput:
        """Return the encoder's outputs, `last_hidden_state` [batch, sequence, hidden size] first."""
        inputs = {
            **others,
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "input_features": input_features,
            "input_values": input_values,
            "pixel_values": pixel_values,
        }
        outputs = self.graph.run(complete_inputs(self.graph, as_arrays(inputs)))
        return model_output({name: torch.from_numpy(to_array(value)) for name, value in outputs.items()})

    __call__ = forward


class OnnxSeq2Seq(GenerativeModel, GenerationMixin):  # type: ignore[misc]
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
        labels: Tensor | None = None,
        **encoder_inputs: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: the encoder's token ids, [batch, length], for text encoders; the decoder's for an encoder that
                takes none (BLIP).
            attention_mask: mask of these, or of the encoder's other input, [batch, length].
            decoder_input_ids: token ids, [batch, tokens].
            decoder_attention_mask: [batch, cached tokens + tokens], 0 for padding, which may only follow the tokens
                unless it is an input of the decoder's graph.
            encoder_outputs: the encoder's outputs; computed if None.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            input_features: the encoder's spectrogram, for audio encoders.
            input_values: the encoder's waveform, for audio encoders.
            pixel_values: the encoder's images, for vision encoders.
            labels: ignored; Donut's processor returns them for every prompt.
            **encoder_inputs: further inputs of the encoder, such as `global_attention_mask` (LED),
                `flattened_patches` (Pix2Struct) and `bbox` (UDOP).

        Returns:
            `logits` [batch, tokens, vocabulary], the cache and `encoder_last_hidden_state`.

        Raises:
            OptionError: `decoder_attention_mask` masks a token before others.
        """
        is_masked = "attention_mask" in self._decoder.graph.inputs
        takes_tokens = "input_ids" in self.encoder.graph.inputs
        if input_ids is not None and decoder_input_ids is None and not takes_tokens:
            decoder_input_ids, decoder_attention_mask, attention_mask = input_ids, attention_mask, None
        if not is_masked:
            _check_decoder_mask(decoder_attention_mask)
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask, input_features, input_values, pixel_values, **encoder_inputs
            )
        hidden_states = encoder_outputs[0]
        feed = {"input_ids": decoder_input_ids, "encoder_hidden_states": hidden_states}
        if is_masked:
            feed["attention_mask"] = decoder_attention_mask
        if "encoder_attention_mask" in self._decoder.graph.inputs:
            mask = getattr(encoder_outputs, "encoder_attention_mask", attention_mask)
            mask = torch.ones(hidden_states.shape[:2], dtype=torch.int64) if mask is None else mask
            feed["encoder_attention_mask"] = mask
        step = self._step(feed, past_key_values if cache is None else cache, use_cache)
        return model_output({**step, "encoder_last_hidden_state": hidden_states})


def _check_decoder_mask(mask: Tensor | None) -> None:
    values = np.ones((1, 1)) if mask is None else np.asarray(mask)
    if (values[:, 1:] > values[:, :-1]).any():
        raise OptionError(
            "decoder_attention_mask masks a token before others, but the exported decoder attends to all earlier "
            "tokens: put padding after the tokens"
        )


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


def as_arrays(inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return tensors as arrays that share memory if on the host; values that aren't tensor-like are left out."""
    return {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor | np.ndarray | list | tuple)
    }
