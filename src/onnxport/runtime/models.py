"""Exported directories as models of Transformers: called like them, generating like them.

`generate` is Transformers' own. A model here gives it what it asks of a model: a forward, and a cache that can be
reordered and cropped; the cache's tensors stay in ONNX Runtime from one step to the next.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import make_dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel, Cache, GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin
from transformers.utils import ModelOutput

from onnxport.description.encoder_outputs import MAIN_INPUTS, completed_modalities
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime import modalities
from onnxport.runtime.cross_attention import MASK
from onnxport.runtime.decoder import Decoder, States
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import completed, run_split_encoders


def torch_model(directory: Directory) -> OnnxModel:
    """Return the model that fits a directory.

    Raises:
        UnsupportedError: nothing here runs its graphs.
    """
    config = _config_of(directory)
    if directory.has("embed_tokens"):
        return OnnxMultimodal(directory, config)
    if directory.has("decoder_model_merged"):
        exported = getattr(transformers, str(directory.manifest.source["architecture"]), OnnxModel)
        speech = issubclass(exported, WhisperGenerationMixin)  # it generates from audio of any length
        return OnnxSpeechSeq2Seq(directory, config) if speech else OnnxSeq2Seq(directory, config)
    if directory.has("text_model"):
        return OnnxSplitEncoders(directory, config)
    if not directory.has("model"):
        names = ", ".join(item.name for item in directory.manifest.components)
        raise UnsupportedError(f"{directory.path} holds {names}, which make no model that can be called")
    if directory.task == "text-generation":
        return OnnxCausalLM(directory, config)
    return OnnxModel(directory, config)


def _config_of(directory: Directory) -> PreTrainedConfig:
    """Load the configuration; where its class is code of the directory, its values without that class."""
    auto_map, model_type = directory.config.get("auto_map"), str(directory.config.get("model_type"))
    if isinstance(auto_map, dict) and "AutoConfig" in auto_map and model_type not in CONFIG_MAPPING_NAMES:
        return PreTrainedConfig.from_dict(directory.config)
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        directory.path, trust_remote_code=False, local_files_only=True
    )
    return config


class OnnxModel:
    """Run one graph like a model of Transformers.

    Args:
        directory: what an export wrote.
        config: the model's configuration.

    Attributes:
        config: the model's configuration.
        device: where its outputs are.
        dtype: element type of its outputs.
        architecture: name of the class that was exported.
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
        kinds = [place.dtype for place in graph.outputs.values() if place.dtype.startswith("float")]
        self.dtype = getattr(torch, kinds[0]) if kinds else torch.float32
        self.input_modalities = tuple(kind for name, kind in _MODALITIES.items() if name in graph.inputs)
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
            **inputs: tensors or arrays by name; those that the graph lacks are left out, and masks, types and
                positions that aren't given are those of plain texts.

        Returns:
            The graph's outputs, as tensors where a tensor was given and as arrays else.

        Raises:
            OptionError: an input is missing or doesn't fit.
        """
        given = {**dict(zip((self.main_input_name,), arguments, strict=False)), **inputs}
        arrays = self._run(_arrays(given))
        tensors = any(isinstance(value, torch.Tensor) for value in given.values())
        return _output({name: torch.from_numpy(array) if tensors else array for name, array in arrays.items()})

    def _run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        graph = self._main_graph()
        return {name: to_array(value) for name, value in graph.run(completed(graph, arrays)).items()}

    def can_generate(self) -> bool:
        """Say whether the model generates."""
        return isinstance(self, GenerationMixin)

    def to(self, device: Any) -> OnnxModel:
        """Return the model; it stays where it was loaded.

        Raises:
            OptionError: another device is asked for.
        """
        if torch.device(device).type != self.device.type:
            raise OptionError(f"the model's outputs are on {self.device}: load it with device={str(device)!r} instead")
        return self

    def eval(self) -> OnnxModel:
        """Return the model; it is never trained."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name_or_path!r})"


_MODALITIES = {"input_ids": "text", "pixel_values": "image", "input_features": "audio", "input_values": "audio"}
"""Main inputs to what they are made of; the first that a graph has is its main one."""


class OnnxSplitEncoders(OnnxModel):
    """Run the graphs of a model that compares texts with pictures or sounds: each whose main input is given.

    It returns `text_embeds`, `image_embeds` and `audio_embeds`, [batch, size] each, whatever the graphs call them.
    """

    def _main_graph(self) -> Graph:
        return self.directory.graph("text_model")

    def _run(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        return run_split_encoders(self.directory, arrays)


class OnnxCache(Cache):  # type: ignore[misc]
    """Hold what a decoder remembers, as `generate` asks for it.

    Args:
        decoder: whose states they are.
    """

    is_compileable = False

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(layers=[])
        self._decoder = decoder
        self.states: States | None = None

    def at_least_empty(self, batch: int) -> States:
        """Return the states, those before the first token where there are none."""
        if self.states is None:
            self.states = self._decoder.begin(batch)
        return self.states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many tokens are remembered."""
        return self.states.length if self.states is not None else 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these texts, in this order."""
        if self.states is not None:
            self.states.select(beam_idx.cpu().numpy())

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens.

        Args:
            tokens_to_remove: how many; its sign doesn't matter, as in Transformers.

        Raises:
            UnsupportedError: the model remembers in a way that can't be undone.
        """
        if not self._decoder.can_crop:
            raise UnsupportedError("the model's states can't forget tokens, which assisted generation needs")
        if self.states is not None and tokens_to_remove:
            self.states.forget(abs(tokens_to_remove), self._decoder.growing)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Have each text several times."""
        if self.states is not None:
            self.states.select(np.repeat(np.arange(self.states.batch), repeats))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these texts."""
        self.reorder_cache(indices)

    def activate_past_recording(self) -> None:
        """Do nothing: whatever is remembered can be forgotten again."""

    def __len__(self) -> int:
        return 1


class _Generating(OnnxModel):
    """What `generate` asks of a model besides its forward."""

    decoder_name = "model"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._decoder = Decoder(directory.graph(self.decoder_name))
        own = (directory.path / "generation_config.json").is_file()
        self.generation_config = (
            GenerationConfig.from_pretrained(directory.path, local_files_only=True)
            if own
            else GenerationConfig.from_model_config(config)
        )
        if not self._decoder.states:
            self.generation_config.use_cache = False

    def get_experts_implementation(self) -> dict[str, str]:
        """Return nothing: experts are part of the graph."""
        return {}

    def is_remote_code(self) -> bool:
        """Say that no code of a checkpoint takes part."""
        return False

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return True

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *_: Any) -> None:
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"]._is_user_defined = True
        elif generation_config.use_cache is not False and self._decoder.states:
            model_kwargs["past_key_values"] = OnnxCache(self._decoder)

    def _step(
        self, feed: Mapping[str, Any], remembered: OnnxCache | None, use_cache: bool | None, prefix: int = 0
    ) -> dict[str, Any]:
        """Run the decoder once; return its logits and its cache, None where nothing is to be cached."""
        if remembered is None and use_cache and self._decoder.states:
            remembered = OnnxCache(self._decoder)
        arrays = _arrays(feed)
        batch = len(next(iter(arrays.values())))
        states = remembered.at_least_empty(batch) if remembered is not None else self._decoder.begin(batch)
        logits = torch.from_numpy(self._decoder.step(arrays, states, prefix))
        return {"logits": logits, "past_key_values": remembered}


class OnnxCausalLM(_Generating, GenerationMixin):  # type: ignore[misc]
    """Run a decoder: called like Transformers' own, and `generate` is Transformers' own."""

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: OnnxCache | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: tokens, [batch, tokens].
            attention_mask: [batch, earlier tokens and these].
            position_ids: [batch, tokens]; counted from the mask without.
            past_key_values: what was remembered; it is brought up to date.
            use_cache: return what is remembered, also where nothing was given.

        Returns:
            `logits` [batch, tokens, vocabulary], and `past_key_values`.
        """
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return _output(self._step(feed, past_key_values, use_cache))


class OnnxEncoder:
    """Run an encoder as the first half of a model of Transformers.

    Args:
        graph: its graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.main_input_name = next(name for name in _MODALITIES if name in graph.inputs)

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        input_features: Any = None,
        input_values: Any = None,
        pixel_values: Any = None,
        global_attention_mask: Any = None,
        **_: Any,
    ) -> ModelOutput:
        """Return what the encoder says, `last_hidden_state` [batch, states, size] first."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "global_attention_mask": global_attention_mask,
            "input_features": input_features,
            "input_values": input_values,
            "pixel_values": pixel_values,
        }
        results = self.graph.run(completed(self.graph, _arrays(given)))
        return _output({name: torch.from_numpy(to_array(value)) for name, value in results.items()})

    __call__ = forward


class OnnxSeq2Seq(_Generating, GenerationMixin):  # type: ignore[misc]
    """Run an encoder and a decoder: called like Transformers' own, and `generate` is Transformers' own."""

    decoder_name = "decoder_model_merged"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        self.encoder = OnnxEncoder(directory.graph("encoder_model"))
        config = copy.copy(config)  # the caller's stays as it is
        config.is_encoder_decoder = True  # false in BLIP's, whose decoder is a model of its own
        super().__init__(directory, config)

    def _main_graph(self) -> Graph:
        return self.encoder.graph

    def get_encoder(self, modality: str | None = None) -> OnnxEncoder:
        """Return the encoder."""
        return self.encoder

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: OnnxCache | None = None,
        use_cache: bool | None = None,
        input_features: Any = None,
        input_values: Any = None,
        pixel_values: Any = None,
        global_attention_mask: Any = None,
        labels: Any = None,
        **_: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: the encoder's tokens, where it reads texts.
            attention_mask: [batch, length] of the encoder's input.
            decoder_input_ids: tokens, [batch, tokens].
            decoder_attention_mask: not used: decoders start from their first token.
            encoder_outputs: what the encoder said; it is asked where this isn't given.
            past_key_values: what was remembered; it is brought up to date.
            use_cache: return what is remembered, also where nothing was given.
            input_features: the encoder's input, where it hears.
            input_values: the encoder's input, where it hears samples.
            pixel_values: the encoder's input, where it sees.
            global_attention_mask: [batch, length], 1 for tokens that see everything, for encoders with windows (LED).
            labels: not used: Donut's processor makes them of every prompt, and no loss is computed.

        Returns:
            `logits` [batch, tokens, vocabulary], `past_key_values` and `encoder_last_hidden_state`.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids, attention_mask, input_features, input_values, pixel_values, global_attention_mask
            )
        states = encoder_outputs[0]
        feed = {"input_ids": decoder_input_ids, "encoder_hidden_states": states}
        if "encoder_attention_mask" in self._decoder.graph.inputs:
            mask = getattr(encoder_outputs, "encoder_attention_mask", attention_mask)
            feed["encoder_attention_mask"] = torch.ones(states.shape[:2], dtype=torch.int64) if mask is None else mask
        return _output({**self._step(feed, past_key_values, use_cache), "encoder_last_hidden_state": states})


class OnnxMultimodal(_Generating, GenerationMixin):  # type: ignore[misc]
    """Run a model that reads pictures or sounds beside a text: their states go where the text leaves room for them."""

    decoder_name = "decoder_model_merged"

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        place = self._decoder.graph.inputs.get("position_ids")
        self._has_grids = place is not None and len(place.axes) == 3
        self._modalities = completed_modalities(directory.modalities, config)
        self.input_modalities += tuple(modality.name for modality in self._modalities)
        self._deltas: Any = 0

    def _main_graph(self) -> Graph:
        return self.directory.graph("embed_tokens")

    def _prepare_position_ids_for_generation(self, inputs_tensor: Any, model_kwargs: dict[str, Any]) -> Any:
        """Return positions, [batch, tokens], or [3, batch, tokens] where a token has three: Transformers counts."""
        counted = super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        if not self._has_grids:
            return counted
        remembered = model_kwargs.get("past_key_values")
        if remembered is not None and remembered.get_seq_length():
            return (counted + self._deltas).expand(3, -1, -1)
        tokens = model_kwargs.get("input_ids", inputs_tensor)
        grids, kinds = (model_kwargs.get(name) for name in ("image_grid_thw", "mm_token_type_ids"))
        if grids is None:
            self._deltas = 0
            return counted.expand(3, len(tokens), -1)
        if kinds is None:
            kinds = (tokens == self.config.image_token_id).int()
        found, self._deltas = self._original.get_rope_index(
            tokens, kinds, image_grid_thw=grids, attention_mask=model_kwargs.get("attention_mask")
        )
        return found

    @cached_property
    def _original(self) -> Any:
        """Return Transformers' model without weights: it knows how positions are counted."""
        with torch.device("meta"):
            return AutoModel.from_config(self.config, trust_remote_code=False)

    def prepare_inputs_for_generation(self, *arguments: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        """Choose what a step takes: what the first one took of pictures and sounds, the others don't take again.

        Args:
            *arguments: the tokens; see Transformers.
            is_first_iteration: whether it is the first step.
            **kwargs: see Transformers.

        Returns:
            Arguments of `forward`.
        """
        prepared = super().prepare_inputs_for_generation(*arguments, is_first_iteration=is_first_iteration, **kwargs)
        again = is_first_iteration or not kwargs.get("use_cache", True)
        return {
            name: value for name, value in prepared.items() if again or name not in (*MAIN_INPUTS, modalities.ENCODED)
        }

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        known = modalities.encoder_inputs([*self._encoders(), self._decoder.graph])
        super()._validate_model_kwargs({name: value for name, value in model_kwargs.items() if name not in known})

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **inputs: Any
    ) -> Any:
        """Repeat each text, and for each what its own pictures and sounds are: these are encoded once."""
        if expand_size > 1 and (encoded := self._encoded(inputs)):
            known = modalities.encoder_inputs(self._encoders())
            inputs = {name: value for name, value in inputs.items() if name not in known}
            repeated = modalities.expand(encoded, _arrays({"ids": input_ids})["ids"], expand_size)
        else:
            repeated = None
        if isinstance(self._deltas, torch.Tensor):
            self._deltas = self._deltas.repeat_interleave(expand_size, dim=0)
        tokens, expanded = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids=input_ids, **inputs
        )
        return tokens, expanded | ({modalities.ENCODED: repeated} if repeated else {})

    def _encoders(self) -> list[Graph]:
        return [self.directory.graph(modality.component) for modality in self._modalities]

    def _encoded(self, inputs: Mapping[str, Any]) -> tuple[modalities.Encoded, ...]:
        """Run the encoders whose inputs are given."""
        return modalities.encode(self.directory, self._modalities, _arrays(inputs))

    def forward(  # type: ignore[override]
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: OnnxCache | None = None,
        pixel_values: Any = None,
        input_features: Any = None,
        token_type_ids: Any = None,
        image_grid_thw: Any = None,
        mm_token_type_ids: Any = None,
        pixel_values_videos: Any = None,
        use_cache: bool | None = None,
        **more: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, sequence], with the configuration's placeholder tokens where the model
                replaces their embeddings by those of images or audio.
            attention_mask: [batch, earlier tokens and these].
            position_ids: [batch, tokens]; counted from the mask without.
            past_key_values: what was remembered; it is brought up to date.
            pixel_values: pictures.
            input_features: sounds.
            token_type_ids: [batch, tokens], 1 for those of a picture, for models whose pictures see themselves whole.
            image_grid_thw: [pictures, 3], frames, rows and columns of patches, for models whose pictures are patches.
            mm_token_type_ids: [batch, tokens], 1 for those of a picture, for such models.
            pixel_values_videos: must not be given: no graph here takes videos.
            use_cache: return what is remembered, also where nothing was given.
            **more: what else the encoders take, such as `pixel_attention_mask` and `image_sizes`.

        Returns:
            `logits` [batch, tokens, vocabulary], and `past_key_values`.

        Raises:
            OptionError: there are more or fewer places than states.
            UnsupportedError: a video is given.
        """
        if pixel_values_videos is not None:
            raise UnsupportedError("the exported graphs take pictures, not videos")
        if self._has_grids and (position_ids is None or position_ids.ndim == 2):
            known = {"attention_mask": attention_mask, "past_key_values": past_key_values}
            known |= {"image_grid_thw": image_grid_thw, "mm_token_type_ids": mm_token_type_ids}
            position_ids = self._prepare_position_ids_for_generation(input_ids, known)
            position_ids = position_ids[..., -input_ids.shape[1] :]
        given = {"pixel_values": pixel_values, "input_features": input_features}
        given |= {"image_grid_thw": image_grid_thw, **more}
        encoded = more[modalities.ENCODED] if modalities.ENCODED in more else self._encoded(given)
        tokens = _arrays({"ids": input_ids, "types": token_type_ids})
        feed = modalities.embed(self.directory, tokens["ids"], encoded, tokens.get("types"))
        prefix = feed["inputs_embeds"].shape[1] - tokens["ids"].shape[1]
        feed |= {"attention_mask": attention_mask, "position_ids": position_ids, MASK: more.get(MASK)}
        return _output(self._step(feed, past_key_values, use_cache, prefix))


class OnnxSpeechSeq2Seq(OnnxSeq2Seq, WhisperGenerationMixin):  # type: ignore[misc]
    """Run Whisper: with its own `generate`, for sounds of any length and with timestamps."""

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        strides = SimpleNamespace(conv1=SimpleNamespace(stride=(1,)), conv2=SimpleNamespace(stride=(2,)))
        self.model = SimpleNamespace(encoder=strides)  # from which its `generate` reads how long a state is

    def generate(self, *arguments: Any, return_token_timestamps: bool | None = None, **settings: Any) -> Any:
        """Write down a sound; see Transformers' Whisper.

        Args:
            *arguments: the sound's features, and what else Whisper's `generate` takes.
            return_token_timestamps: must not be set: times of words are read from attentions, which no graph gives.
            **settings: see Whisper's `generate`.

        Raises:
            UnsupportedError: times of words are asked for.
        """
        if return_token_timestamps:
            raise UnsupportedError(
                "times of words are read from attentions, which the exported graphs don't give; return_timestamps=True "
                "gives those of segments"
            )
        return super().generate(*arguments, **settings)


def _arrays(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors as arrays, sharing memory where they are on the host; what isn't given is left out."""
    return {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor | np.ndarray | list | tuple)
    }


def _output(values: Mapping[str, Any]) -> ModelOutput:
    return _output_class(tuple(values))(**values)  # type: ignore[no-any-return]


@cache
def _output_class(names: tuple[str, ...]) -> Any:
    """Return a class of outputs with these fields."""
    fields = [(name, Any, None) for name in names]
    return make_dataclass("OnnxModelOutput", fields, bases=(ModelOutput,), namespace={"__module__": __name__})
