"""Exported directories as Transformers models, with the same call signatures, and with Transformers' `generate`.

The models provide the methods that `generate` requires: a `forward`, and a cache (`cache.py`) that can be reordered and
cropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, PreTrainedConfig
from transformers.utils import ModelOutput

from onnxport._transformers_api import CACHE_NAMES, cache_name, model_class_named
from onnxport.description import positions
from onnxport.description.image_processing import IMAGES
from onnxport.description.text_configs import text_config_of
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.cache import OnnxCache
from onnxport.runtime.decoder import Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.forbidden_tokens import by_token_ids
from onnxport.runtime.graph import Graph, to_array
from onnxport.runtime.light import complete_inputs, run_split_encoders
from onnxport.runtime.outputs import model_output
from onnxport.runtime.raw_images import raw_images

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

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
        self.architecture = directory.manifest.architecture
        self.name_or_path = str(directory.path)
        graph = self._main_graph()
        dtypes = [spec.dtype for spec in graph.outputs.values() if spec.dtype.startswith("float")]
        self.dtype: torch.dtype = getattr(torch, dtypes[0]) if dtypes else torch.float32
        taken = taken_by(graph)
        self.input_modalities = tuple(modality for name, modality in MODALITIES.items() if name in taken)
        self.main_input_name = next((name for name in MODALITIES if name in taken), next(iter(taken)))

    def _main_graph(self) -> Graph:
        return self.directory.graph("model")

    def __call__(self, *arguments: Any, **inputs: Any) -> Any:
        """Run the model; see `forward`. With `return_dict=False`, its outputs are a tuple."""
        outputs = self.forward(*arguments, **inputs)
        return outputs.to_tuple() if inputs.get("return_dict") is False else outputs

    def forward(self, *arguments: Any, **inputs: Any) -> ModelOutput:
        """Run the graph.

        Args:
            *arguments: at most one, the main input.
            **inputs: tensors or arrays by input name; missing masks, token types and position ids are filled in as for
                sequences without padding. `images` of an export with `--image-processing` may be images of Pillow.

        Returns:
            The graph's outputs: tensors if any input is a tensor, arrays otherwise.

        Raises:
            OptionError: an input is missing or has the wrong shape, or no graph takes it and it would change the
                outputs.
        """
        named = {**dict(zip((self.main_input_name,), arguments, strict=False)), **inputs}
        check_arguments(self.directory, named)
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


def taken_by(graph: Graph) -> tuple[str, ...]:
    """Return the names of a graph's inputs, and `input_ids` if they can be embedded for it."""
    return (*graph.inputs, *(("input_ids",) if graph.embedding is not None else ()))


MODALITIES = {
    **{"input_ids": "text", "images": "image", "pixel_values": "image", "flattened_patches": "image"},
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
    _handled: Collection[str] = ()
    """Arguments of `generate` that no graph takes, and that `forward` computes with."""
    _optional_outputs: tuple[str, ...] = ("hidden_states", "attentions")
    """Outputs that `generate` reads if it is to return any of them; None if the decoder lacks them."""

    def __init__(self, directory: Directory, config: PreTrainedConfig) -> None:
        super().__init__(directory, config)
        self._decoder = Decoder(directory.graph(self.decoder_name), directory.manifest.reread_length)
        if (directory.path / "generation_config.json").is_file():
            self.generation_config = GenerationConfig.from_pretrained(directory.path, local_files_only=True)
        else:  # a configuration's class drops the settings of `generate` that the file has
            self.generation_config = GenerationConfig.from_model_config({**config.to_dict(), **directory.config})
        # Training leaves these in configurations: without the cache, each token would cost as all before it.
        self.generation_config.use_cache = self._decoder.has_cache
        self.generation_config.output_attentions = self.generation_config.output_hidden_states = False

    def generate(self, *arguments: Any, **settings: Any) -> Any:
        """Generate tokens as Transformers does; see `GenerationMixin.generate`.

        On the CPU, torch's operators between two steps run on one thread: OpenMP's threads would spin after each, for
        longer than a step takes, on the cores that ONNX Runtime computes the next step with.
        """
        threads = 1 if self.directory.settings.on_cpu else None
        with threadpool_limits(threads, user_api="openmp"):
            return super().generate(*arguments, **settings)  # type: ignore[misc]  # of `GenerationMixin`

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """Check the arguments of `generate`: those of the original's forward, which a processor returns, are valid.

        Raises:
            OptionError: one of them would change the tokens, and no graph takes it.
            ValueError: the original has no such argument.
        """
        check_arguments(self.directory, model_kwargs, (*self._handled, *CACHE_NAMES))  # assisted decoding passes one
        known = {} if self._original_class is None else inspect.signature(self._original_class.forward).parameters
        taken = {*known, *self.directory.input_names}
        others = {name: value for name, value in model_kwargs.items() if name not in taken}
        super()._validate_model_kwargs(others)  # type: ignore[misc]  # of `GenerationMixin`

    def _get_logits_processor(self, *arguments: Any, **kwargs: Any) -> LogitsProcessorList:
        """Return the processors of a call of `generate`, as Transformers does, in a form that takes less time."""
        return by_token_ids(super()._get_logits_processor(*arguments, **kwargs))  # type: ignore[misc]

    @property
    def _original_class(self) -> type[PreTrainedModel] | None:
        """Transformers' class of the exported model; None for code of a checkpoint."""
        return model_class_named(self.architecture)

    @cached_property
    def _original(self) -> PreTrainedModel:
        """The exported model without weights, for methods that compute with its configuration only.

        It has a part of the configuration if the checkpoint has further models: Qwen2.5-Omni's thinker.
        """
        assert self._original_class is not None
        parts = (getattr(self.config, name, None) for name in type(self.config).sub_configs)
        fitting = (part for part in (self.config, *parts) if isinstance(part, self._original_class.config_class))
        with torch.device("meta"):
            return self._original_class(next(fitting, self.config))

    def prepare_inputs_for_generation(self, *arguments: Any, **kwargs: Any) -> dict[str, Any]:
        """Select the inputs of a step as the exported model's class does.

        Phi-3, for example, reads all tokens again where its rotary embeddings change (`longrope`).

        Args:
            *arguments: the token ids; see Transformers.
            **kwargs: see Transformers.

        Returns:
            Arguments of `forward`.

        Raises:
            UnsupportedError: the class adds inputs that no graph takes (XLNet's `perm_mask`).
        """
        owner = self._preparing()
        if owner is None:
            inputs = super().prepare_inputs_for_generation(*arguments, **kwargs)  # type: ignore[misc]
        else:
            inputs = owner.prepare_inputs_for_generation(*arguments, **kwargs)
            self._check_added({name: value for name, value in inputs.items() if name not in kwargs})
        # Some classes (GPT, 5.23) return the arguments of the loop. A graph without position ids counts its own.
        counted = () if "position_ids" in self._decoder.graph.inputs else ("position_ids",)
        return {name: value for name, value in inputs.items() if name not in (*_LOOP_ARGUMENTS, *counted)}

    def _preparing(self) -> PreTrainedModel | None:
        """Return the model whose own `prepare_inputs_for_generation` selects the inputs; None for Transformers'."""
        return self._original if prepares_inputs(self._original_class) else None

    def _check_added(self, inputs: Mapping[str, Any]) -> None:
        """Check the inputs that the exported model's class adds to those of `generate`."""
        own = ("input_ids", "inputs_embeds", "position_ids", *CACHE_NAMES)
        try:
            check_arguments(self.directory, inputs, (*self._handled, *own))
        except OptionError as error:
            raise UnsupportedError(
                f"{self.architecture} generates with inputs that no graph of {self.directory.path} takes: run the "
                f"original in PyTorch ({error})"
            ) from error

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
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        if model_kwargs.get(cache_name()) is not None:
            model_kwargs[cache_name()]._is_user_defined = True
        elif generation_config.use_cache is not False and self._decoder.has_cache:
            model_kwargs[cache_name()] = OnnxCache(self._decoder)

    def _positions(self, tokens: Tensor | None, cache: OnnxCache | None) -> NDArray[Any] | None:
        """Return the position ids that the model's forward counts, [batch, tokens]; None if it counts the mask.

        Args:
            tokens: token ids, [batch, tokens], or their embeddings, among which forward knows no padding.
            cache: the cache of earlier steps.
        """
        spec = self._decoder.graph.inputs.get("position_ids")
        counted = self.directory.manifest.positions
        if spec is None or tokens is None or counted == positions.MASK:
            return None
        cached = cache.tensors.length - cache.tensors.prefix if cache is not None and cache.tensors is not None else 0
        ids = np.asarray(tokens)
        if counted == positions.INPUT_IDS:
            padding = text_config_of(self.config).pad_token_id
            is_token = ids != padding if ids.ndim == _IDS_RANK else np.ones(ids.shape[:2], dtype=bool)
            counts: NDArray[Any] = np.where(is_token, np.cumsum(is_token, axis=-1) + cached, 0)
            return counts + int(padding)
        return np.broadcast_to(np.arange(cached, cached + ids.shape[1]), ids.shape[:2])

    def _check_positions(self, name: str, position_ids: Tensor | None, cache: OnnxCache | None) -> None:
        """Check the position ids that a user passes to a graph that counts them itself.

        Raises:
            OptionError: they aren't those of tokens without padding.
        """
        if position_ids is None or name in self._decoder.graph.inputs:
            return
        cached = 0 if cache is None else cache.get_seq_length()
        counted = np.arange(cached, cached + position_ids.shape[-1])
        if (np.asarray(position_ids) != counted).any():
            raise OptionError(
                f"{name} are {np.asarray(position_ids).tolist()}, but the exported decoder counts {counted.tolist()}: "
                "leave them out"
            )

    def _step(
        self,
        feed: Mapping[str, Tensor | None],
        cache: OnnxCache | None,
        use_cache: bool | None,
        prefix: int = 0,
    ) -> dict[str, Any]:
        """Run the decoder once; return its logits or hidden states, the cache, None if no cache is used, and others."""
        if cache is None and use_cache and self._decoder.has_cache:
            cache = OnnxCache(self._decoder)
        arrays = as_arrays(feed)
        batch_size = len(arrays.get("encoder_hidden_states", next(iter(arrays.values()))))  # MusicGen has more tokens
        tensors = cache.get_or_create(batch_size) if cache is not None else self._decoder.empty_cache(batch_size)
        outputs = self._decoder.run(arrays, tensors, prefix, self._decoder.others)
        result, *others = ((name, torch.from_numpy(array)) for name, array in outputs.items())
        returned = {name.partition(".")[0] for name, _ in others}
        absent = [(name, None) for name in self._optional_outputs if name not in returned]
        return dict([result, (cache_name(), cache), *others, *absent])


_IDS_RANK = 2
"""Number of axes of token ids."""


def prepares_inputs(model_class: type | None) -> bool:
    """Return whether a model class has a `prepare_inputs_for_generation` of its own."""
    name = "prepare_inputs_for_generation"
    return getattr(model_class, name, None) not in (None, getattr(GenerationMixin, name))


_LOOP_ARGUMENTS = ("is_first_iteration", "next_sequence_length")
"""Arguments of `prepare_inputs_for_generation` about the loop of `generate`."""


class OnnxCausalLM(GenerativeModel, GenerationMixin):  # type: ignore[misc]
    """Run a decoder like a Transformers model, with Transformers' `generate`."""

    _handled = ("logits_to_keep",)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: OnnxCache | None = None,
        cache: OnnxCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> ModelOutput:
        """Run one step.

        Args:
            input_ids: token ids, [batch, tokens].
            attention_mask: [batch, cached tokens + tokens].
            position_ids: [batch, tokens]; counted as the model's forward counts them by default. If the graph counts
                them itself, they must be those of tokens without padding.
            past_key_values: the cache of earlier steps; it is updated in place.
            cache: the same, as Transformers 5.24 calls it.
            use_cache: return a cache, even if none was passed.
            logits_to_keep: number of last tokens to return, 0 for all, or the indices of tokens.
            **others: further inputs of each token, such as `input_shape_ids` (RoCBert), zeros by default.

        Returns:
            `logits` [batch, tokens, vocabulary], and the cache.

        Raises:
            OptionError: an argument would change the logits, and the graph doesn't take it.
        """
        cache = past_key_values if cache is None else cache
        self._check_positions("position_ids", position_ids, cache)
        if position_ids is None:
            position_ids = self._positions(input_ids, cache)
        check_arguments(self.directory, {"attention_mask": attention_mask, **others})
        feed = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        if input_ids is not None:  # `generate` passes those of the prompt in each step
            names = (name for name in self._decoder.token_inputs if others.get(name) is not None)
            feed |= {name: others[name][:, -input_ids.shape[1] :] for name in names}
        return model_output(kept_logits(self._step(feed, cache, use_cache), logits_to_keep))


def kept_logits(outputs: dict[str, Any], logits_to_keep: int | Tensor) -> dict[str, Any]:
    """Return the outputs of a step with the logits that `logits_to_keep` selects; see `OnnxCausalLM.forward`."""
    if isinstance(logits_to_keep, int) and logits_to_keep == 0:
        return outputs
    kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else torch.as_tensor(logits_to_keep)
    return {name: value[:, kept] if name == "logits" else value for name, value in outputs.items()}


def as_arrays(inputs: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return tensors as arrays that share memory if on the host; values that aren't tensor-like are left out."""
    images = {name: raw_images(value) for name, value in inputs.items() if name == IMAGES and value is not None}
    return images | {
        name: value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor | np.ndarray | list | tuple) and name not in images
    }
