"""Models without torch: NumPy arrays as inputs and outputs, greedy decoding and sampling."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.description.axes import PADDING_MASKS, PATCHES, is_cached
from onnxport.description.components import CODES_DECODER, PROMPT_DECODER, SPLIT_ENCODERS
from onnxport.description.image_processing import IMAGES, PIXEL_VALUES
from onnxport.errors import OptionError, UnsupportedError
from onnxport.runtime.arguments import check_arguments
from onnxport.runtime.cross_attention import MASK
from onnxport.runtime.decoder import MROPE_RANK, Decoder
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import Graph, TensorSpec, missing_shapes, to_array
from onnxport.runtime.modalities import POSITION_MASK, TOKEN_TYPES, embed_and_merge, encode
from onnxport.runtime.raw_images import raw_images
from onnxport.runtime.sampling import GenerationSettings, TokenSampler, TokenSteps, directory_settings, unsupported
from onnxport.runtime.token_embedding import EMBEDS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

logger = logging.getLogger(__name__)

Arrays = dict[str, "NDArray[Any]"]

_ENCODER, _DECODER, _MODEL = "encoder_model", "decoder_model_merged", "model"
_TEXT_MODEL = "text_model"
_ENCODER_MASK = "encoder_attention_mask"


class LightModel:
    """Run an exported directory with NumPy and ONNX Runtime only.

    Args:
        directory: the exported directory.
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self._has_warned = False

    def __call__(self, **inputs: ArrayLike | None) -> Arrays:
        """Run the graph once or, with split encoders, each whose main input is passed.

        Args:
            **inputs: arrays by input name; missing masks, token types, position ids and caches are filled in as for
                sequences without padding.

        Returns:
            The outputs by name.

        Raises:
            UnsupportedError: the directory has several graphs that only run together.
            OptionError: an input is missing or has the wrong shape, or no graph takes it and it would change the
                outputs.
        """
        check_arguments(self.directory, inputs)
        if self.directory.has(_TEXT_MODEL):
            return run_split_encoders(self.directory, inputs)
        if self.directory.has(PROMPT_DECODER):
            return run_prompts(self.directory, inputs)
        if self.directory.has(CODES_DECODER):
            return run_codec(self.directory, inputs)
        if not self.directory.has(_MODEL):
            names = ", ".join(self.directory.component_names)
            remedy = "call generate" if self.can_generate else "run them one by one in ONNX Runtime"
            raise UnsupportedError(f"{self.directory.path} has several graphs ({names}); {remedy}")
        return run_component(self.directory, _MODEL, inputs)

    def encode(self, **inputs: ArrayLike | None) -> Arrays:
        """Run the encoder of a codec or an encoder-decoder alone; see `__call__`."""
        check_arguments(self.directory, inputs)
        return run_component(self.directory, _ENCODER, inputs)

    def decode(self, **inputs: ArrayLike | None) -> Arrays:
        """Decode the codes of a codec, the outputs of `encode`; see `__call__`."""
        check_arguments(self.directory, inputs)
        return run_component(self.directory, CODES_DECODER, inputs)

    @property
    def can_generate(self) -> bool:
        """Whether the directory was exported with a task that generates tokens: a decoder returns logits."""
        if self.directory.task == "text-to-audio":  # logits of codes, which Transformers delays
            return False
        for component in self.directory.manifest.components:
            if component.name == _DECODER:
                return any(output.name == "logits" for output in component.outputs)
        return self.directory.task == "text-generation" and self.directory.has(_MODEL)

    def generate(self, inputs: Mapping[str, ArrayLike] | None = None, **settings: Any) -> NDArray[Any]:
        """Generate tokens.

        Args:
            inputs: outputs of the tokenizer or processor, such as `input_ids` and `attention_mask`, padded on the left.
            **settings: see `GenerationSettings`; defaults to the directory's `generation_config.json`.

        Returns:
            Token ids, [batch, length]: prompt and new tokens for a decoder, start token and new tokens for an
            encoder-decoder.

        Raises:
            OptionError: a setting isn't supported or out of range, or an input is missing.
            UnsupportedError: the directory wasn't exported with a generation task, or needs Transformers to generate.
        """
        start, steps = self.stream(inputs or {}, **settings)
        return np.concatenate([start, *(tokens[:, None] for tokens in steps)], axis=1)

    def stream(self, inputs: Mapping[str, ArrayLike], **settings: Any) -> tuple[NDArray[Any], TokenSteps]:
        """Generate tokens step by step; see `generate`.

        Returns:
            The token ids before the first step, [batch, length], and an iterator over those of each step, [batch].
        """
        if not self.can_generate:
            raise UnsupportedError(
                f"{self.directory.path} was exported for {self.directory.task}, which doesn't generate"
            )
        if self.directory.manifest.adds_tokens:
            raise UnsupportedError(
                f"{self.directory.path}: Transformers adds tokens to those of each step; install torch and "
                "transformers to generate: pip install 'onnxport[export]'"
            )
        check_arguments(self.directory, inputs, ("attention_mask", "decoder_input_ids"))
        generation = self._settings(settings)
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        graph = self.directory.graph(_DECODER if self.directory.has(_DECODER) else _MODEL)
        decoder = Decoder(graph, self.directory.manifest.reread_length)
        encoder_outputs: Arrays = {}
        if self.directory.has(_ENCODER):
            start, encoder_outputs = self._encode(arrays)
        else:
            start = self._start_of(arrays, decoder)
        prompt = arrays.get(EMBEDS, start)
        if start.ndim != 2 or not prompt.size:
            raise OptionError(f"input_ids have the shape {list(start.shape)}; pass [batch, length], at least one token")
        default = np.ones(prompt.shape[:2], dtype=np.int64)
        mask = arrays.get("attention_mask", default) if not encoder_outputs else None
        of_prompt = {} if encoder_outputs else arrays
        embed = self._embedder(decoder, of_prompt) if EMBEDS in graph.inputs else _token_ids
        return start, _steps(decoder, start, mask, encoder_outputs, embed, generation)

    def _start_of(self, arrays: Arrays, decoder: Decoder) -> NDArray[Any]:
        """Return the token ids of a decoder's prompt, [batch, length]; of length 0 if it gets their embeddings.

        Raises:
            OptionError: there is neither, or both.
            UnsupportedError: the decoder has no cache to keep what it computes of embeddings.
        """
        if ("input_ids" in arrays) == (EMBEDS in arrays):
            embeds = f" or {EMBEDS}, their embeddings" if EMBEDS in decoder.graph.inputs else ""
            raise OptionError(f"generate requires input_ids, the token ids of the prompt{embeds}")
        if "input_ids" in arrays:
            return arrays["input_ids"]
        if not decoder.has_cache:
            raise UnsupportedError(NO_CACHE_FOR_EMBEDS)
        return np.zeros((len(arrays[EMBEDS]), 0), dtype=np.int64)

    def _settings(self, overrides: Mapping[str, Any]) -> GenerationSettings:
        """Return the directory's settings with overrides; warn once of those that aren't supported."""
        defaults = directory_settings(self.directory.generation_config, self.directory.config)
        ends = {"eos_token_id": self.directory.manifest.end_token, "pad_token_id": "pad_token_id"}
        defaults |= {name: self.directory.setting(setting) for name, setting in ends.items()}
        ignored = unsupported({**defaults, **overrides})
        if ignored and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: generation without torch ignores the checkpoint's settings %s; install onnxport[export] for them",
                self.directory.path,
                ", ".join(ignored),
            )
        return GenerationSettings.from_defaults(defaults, overrides)

    def _embedder(self, decoder: Decoder, arrays: Arrays) -> EmbedTokens:
        """Return the function from token ids to the decoder's inputs; its first call merges images and audio."""
        features = encode(self.directory, self.directory.modalities, arrays)
        if features and is_mrope(decoder.graph.inputs.get("position_ids")):
            raise UnsupportedError(
                f"{self.directory.path}: Transformers computes the multimodal rotary position ids (M-RoPE) of images; "
                "install torch and transformers to generate from them: pip install 'onnxport[export]'"
            )
        token_types = next((arrays[name] for name in TOKEN_TYPES if name in arrays), None)
        marks, prompt = arrays.get(POSITION_MASK), arrays.get(EMBEDS)

        def padded(values: NDArray[Any] | None, tokens: NDArray[Any]) -> NDArray[Any] | None:
            """Return values of the prompt's tokens, and 0 for generated ones."""
            return None if values is None else np.pad(values, ((0, 0), (0, tokens.shape[1] - values.shape[1])))

        def embed(tokens: NDArray[Any]) -> Arrays:
            nonlocal features, token_types, marks
            tokens = tokens if prompt is None or tokens.size else prompt
            feed = embed_and_merge(self.directory, tokens, features, padded(token_types, tokens), padded(marks, tokens))
            if decoder.has_cache:
                features, token_types, marks = (), None, None
            return {**feed, MASK: arrays[MASK]} if MASK in arrays else feed

        return embed

    def _encode(self, arrays: Arrays) -> tuple[NDArray[Any], Arrays]:
        """Run the encoder; return the decoder's start tokens, [batch, length], and its inputs from the encoder."""
        encoder = self.directory.graph(_ENCODER)
        if self.directory.modalities and EMBEDS in encoder.inputs and "input_ids" in arrays:
            features = encode(self.directory, self.directory.modalities, arrays)
            embeds = embed_and_merge(self.directory, arrays["input_ids"], features)[EMBEDS]
            arrays = {EMBEDS: embeds, **{name: value for name, value in arrays.items() if name != "input_ids"}}
        outputs = encode_for_decoder(encoder, arrays, self.directory.graph(_DECODER))
        start = arrays.get("decoder_input_ids")
        if start is None:
            batch_size = len(outputs["encoder_hidden_states"])
            start = np.full((batch_size, 1), self.directory.decoder_start_token_id, dtype=np.int64)
        return start, outputs


EmbedTokens = Callable[["NDArray[Any]"], Arrays]
"""Maps token ids, [batch, tokens], to the decoder's inputs."""


def is_mrope(position_ids: TensorSpec | None) -> bool:
    """Return whether a decoder's `position_ids` are for multimodal rotary embeddings, [3, batch, tokens]."""
    return position_ids is not None and len(position_ids.axes) == MROPE_RANK


def encode_for_decoder(encoder: Graph, inputs: Mapping[str, ArrayLike | None], decoder: Graph) -> Arrays:
    """Run the encoder of an encoder-decoder.

    Args:
        encoder: the encoder's graph.
        inputs: arrays by name.
        decoder: the decoder's graph.

    Returns:
        The decoder's inputs at every step: `encoder_hidden_states` and, if it is a decoder input,
        `encoder_attention_mask`, which is an output of the encoder or the mask of its input.
    """
    feed = complete_inputs(encoder, inputs)
    outputs = {name: to_array(value) for name, value in encoder.run(feed).items()}
    hidden_states = outputs.get("last_hidden_state", next(iter(outputs.values())))  # PP-FormulaNet's are projected
    decoder_inputs = {"encoder_hidden_states": hidden_states}
    if _ENCODER_MASK in decoder.inputs:
        decoder_inputs[_ENCODER_MASK] = outputs[_ENCODER_MASK] if _ENCODER_MASK in outputs else feed["attention_mask"]
    return decoder_inputs


def run_component(directory: Directory, component: str, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Run one graph.

    Args:
        directory: the exported directory.
        component: the name of the graph.
        inputs: arrays by name, those of other graphs too.

    Returns:
        The outputs by name.

    Raises:
        CorruptCheckpointError: the directory has no such graph.
        OptionError: an input is missing or has the wrong shape.
    """
    graph = directory.graph(component)
    return {name: to_array(value) for name, value in graph.run(complete_inputs(graph, inputs)).items()}


def run_codec(directory: Directory, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Encode audio, and decode its codes.

    Args:
        directory: exported with an encoder and a decoder of codes.
        inputs: arrays by name: `input_values`, [batch, channels, samples], and other inputs of the encoder.

    Returns:
        The outputs of both graphs. As the forward of codecs does, audio of discrete codes is cut to the length of the
        input, at the sampling rate of the output.

    Raises:
        OptionError: an input is missing or has the wrong shape.
    """
    codes = run_component(directory, _ENCODER, inputs)
    audio = run_component(directory, CODES_DECODER, codes)
    if "audio_codes" not in codes:
        return {**codes, **audio}
    before, after = (int(directory.config.get(f"{name}_sampling_rate", 1)) for name in ("input", "output"))
    length = np.asarray(inputs["input_values"]).shape[-1] * after // before
    return {**codes, **{name: value[..., :length] for name, value in audio.items()}}


def run_split_encoders(directory: Directory, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Run each encoder of a dual-encoder model whose main input is passed.

    Args:
        directory: exported with split encoders: a text model, and a vision or audio model.
        inputs: arrays by name.

    Returns:
        `text_embeds`, `image_embeds`, `audio_embeds`, [batch, size] each, of the encoders that ran.

    Raises:
        OptionError: no main input is passed, or an input has the wrong shape.
    """
    encoders = {name: encoder for name, encoder in SPLIT_ENCODERS.items() if directory.has(name)}
    raw = {PIXEL_VALUES: IMAGES} if IMAGES in directory.input_names else {}
    mains = {name: raw.get(encoder.input, encoder.input) for name, encoder in encoders.items()}
    outputs: Arrays = {}
    for name, encoder in encoders.items():
        if inputs.get(mains[name]) is not None:
            graph = directory.graph(name)
            (embeds,) = graph.run(complete_inputs(graph, inputs)).values()
            outputs[encoder.output] = to_array(embeds)
    if not outputs:
        raise OptionError(f"pass at least one of {', '.join(mains.values())}")
    return outputs


def encode_images(directory: Directory, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Run the encoder of images of a model with prompts (SAM).

    Args:
        directory: exported with an encoder of images, and a decoder of prompts.
        inputs: arrays by name: `pixel_values`.

    Returns:
        The embeddings that the decoder takes.

    Raises:
        MissingInputError: `pixel_values` is missing.
        OptionError: it has the wrong shape.
    """
    encoder, decoder = directory.graph("vision_encoder"), directory.graph(PROMPT_DECODER)
    outputs = encoder.run(complete_inputs(encoder, inputs))
    return {name: to_array(value) for name, value in outputs.items() if name in decoder.inputs}


def run_prompts(directory: Directory, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Decode the prompts of images, which are encoded first unless their embeddings are passed (SAM).

    Args:
        directory: exported with an encoder of images, and a decoder of prompts.
        inputs: arrays by name: `pixel_values`, or the embeddings that an earlier call returned; and prompts, each of
            which may be left out.

    Returns:
        The decoder's outputs, such as `iou_scores` and `pred_masks`, and the embeddings.

    Raises:
        MissingInputError: there are neither images nor embeddings.
        OptionError: an input has the wrong shape.
    """
    decoder = directory.graph(PROMPT_DECODER)
    names = [name for name in decoder.inputs if name.partition(".")[0].endswith("_embeddings")]
    given = {name: np.asarray(inputs[name]) for name in names if inputs.get(name) is not None}
    embeddings = given if len(given) == len(names) else encode_images(directory, inputs)
    outputs = decoder.run(complete_inputs(decoder, {**embeddings, **inputs}))
    return {**{name: to_array(value) for name, value in outputs.items()}, **embeddings}


def complete_inputs(graph: Graph, inputs: Mapping[str, ArrayLike | None]) -> Arrays:
    """Select a graph's inputs, and fill in those that are missing and have a default.

    Args:
        graph: the graph.
        inputs: arrays by name, those of other graphs too.

    Returns:
        The inputs. Prompts of SAM are empty, missing masks are those without padding, token types zeros,
        position ids consecutive, and caches empty, unless `graph.defaults` has another default. `input_ids` are
        embedded for a graph that takes `inputs_embeds`.

    Raises:
        OptionError: both of them are passed.
    """
    taken = {name: value for name, value in inputs.items() if name in graph.inputs and value is not None}
    feed: Arrays = {name: raw_images(v) if name == IMAGES else np.asarray(v) for name, v in taken.items()}
    if graph.embedding is not None and (input_ids := inputs.get("input_ids")) is not None:
        if EMBEDS in feed:
            raise OptionError(f"input_ids and {EMBEDS} are both passed: pass one of them")
        feed[EMBEDS] = graph.embedding.embed(input_ids)
    if not feed:
        return {}
    first = feed[EMBEDS][..., 0] if EMBEDS in feed else next(iter(feed.values()))
    for name, shape in missing_shapes(graph.inputs, feed).items():
        spec = graph.inputs[name]
        ids = feed.get("decoder_input_ids" if name.startswith("decoder_") else "input_ids", first)
        if name in graph.defaults:
            feed |= _declared_default(name, graph, shape, feed)
        elif is_cached(name):
            feed[name] = spec.empty(len(first))
        elif optional := [axis for axis, label in enumerate(spec.axes) if label in _OPTIONAL_AXES]:
            sizes = [1 if size == -1 else size for size in shape]  # one prompt
            feed[name] = np.zeros([0 if axis in optional else size for axis, size in enumerate(sizes)], spec.dtype)
        elif name.endswith("attention_mask"):
            value = int(name != "global_attention_mask")
            feed[name] = np.full(ids.shape[: len(spec.axes)] if -1 in shape else shape, value, dtype=spec.dtype)
        elif name == "position_ids":
            feed[name] = np.broadcast_to(np.arange(ids.shape[-1]), ids.shape)
        elif name.endswith(_MASKS_AND_TYPES) and -1 not in shape:
            is_one = name.endswith("mask") and name not in PADDING_MASKS
            feed[name] = np.full(shape, int(is_one), dtype=spec.dtype)
    return feed


def _declared_default(name: str, graph: Graph, shape: tuple[int, ...], feed: Arrays) -> Arrays:
    """Return the value of a missing input with a default in the manifest; empty if it is required."""
    default = graph.defaults[name]
    if default.startswith(PATCHES) and "pixel_values" in feed:
        batch, _, height, width = feed["pixel_values"].shape
        side = int(default.removeprefix(PATCHES))
        return {name: np.ones((batch, height // side, width // side), dtype=graph.inputs[name].dtype)}
    if default == "required" or -1 in shape:
        return {}
    value = np.zeros(shape, dtype=graph.inputs[name].dtype)
    if default == "first":
        value[..., 0] = 1
    return {name: value}


NO_CACHE_FOR_EMBEDS = (
    "generating from inputs_embeds needs a cache, and the decoder was exported without: leave out --no-past"
)
"""Message for a decoder that would read the whole prompt again with each token."""
_OPTIONAL_AXES = ("points", "box_coordinates", "num_masks")
"""Labels of axes that have size 0 if an input is left out (SAM's prompts)."""
_MASKS_AND_TYPES = ("mask", "token_type_ids", "task_type_ids", "prompt_length")


def _token_ids(tokens: NDArray[Any]) -> Arrays:
    return {"input_ids": tokens}


def _steps(
    decoder: Decoder,
    start: NDArray[Any],
    mask: NDArray[Any] | None,
    encoder_outputs: Arrays,
    embed: EmbedTokens,
    settings: GenerationSettings,
) -> TokenSteps:
    """Yield the token ids of one step after another, [batch].

    Args:
        decoder: the decoder.
        start: token ids before the first step, [batch, length].
        mask: attention mask of `start`; None for an encoder-decoder, whose decoder has no padding.
        encoder_outputs: inputs of every step that come from an encoder.
        embed: maps token ids to the decoder's inputs.
        settings: greedy decoding or sampling, and when to stop.
    """
    sampler, tokens = TokenSampler(settings, start, mask), start
    cache = decoder.empty_cache(len(start))
    while True:
        if decoder.is_stale(cache, cache.length - cache.prefix + tokens.shape[1]):
            cache, tokens = decoder.empty_cache(len(start)), sampler.token_ids
        feed = {**embed(tokens), **(encoder_outputs if mask is None else {"attention_mask": mask})}
        if not decoder.has_cache:  # the whole sequence is recomputed in every step
            cache = decoder.empty_cache(len(start))
        prefix = feed[EMBEDS].shape[1] - tokens.shape[1] if EMBEDS in feed and tokens.size else 0
        logits = decoder.step(feed, cache, prefix)
        next_tokens = sampler.next_tokens(logits[:, -1])
        yield next_tokens
        if sampler.finished:
            return
        tokens = next_tokens[:, None] if decoder.has_cache else np.concatenate([tokens, next_tokens[:, None]], axis=1)
        if mask is not None:
            mask = np.concatenate([mask, np.ones_like(mask[:, :1])], axis=1)
