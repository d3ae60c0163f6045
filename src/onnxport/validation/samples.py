"""Compare a loaded export with the original on real samples, as the checkpoint's preprocessor makes inputs of them.

Unlike the other cases, which run each graph with inputs of its own, these call `onnxport.load` as users do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport import samples
from onnxport._foreign_errors import translating
from onnxport._transformers_api import call_forward
from onnxport.description.arguments import attention_restored
from onnxport.description.axes import is_cached
from onnxport.description.dummy_inputs import leading_placeholders, placeholder_token_id
from onnxport.description.forward import NO_TOKEN_TYPES, NO_TYPE_EMBEDDINGS
from onnxport.description.image_processing import IMAGES, PIXEL_MASK, PIXEL_VALUES
from onnxport.description.sentence_modules import HEAD
from onnxport.description.tolerances import Tolerance
from onnxport.errors import MissingInputError, NoKernelError, SizeLimitError, UnsupportedError
from onnxport.patching.scope import patching
from onnxport.runtime.bark import OnnxBark
from onnxport.runtime.models import OnnxSplitEncoders
from onnxport.runtime.music import OnnxMusicgen
from onnxport.runtime.speech import OnnxTextToSpeech
from onnxport.runtime.token_embedding import EMBEDDING
from onnxport.runtime.torch_model import torch_model
from onnxport.tracing.originals import to_array
from onnxport.validation.compare import compare_all, like
from onnxport.validation.own_rounding import allowed_in_any_case
from onnxport.validation.report import Case, OutputDifference
from onnxport.validation.tokens import TOKENS, start_token, tokens_output

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from onnxport.runtime.directory import Directory
    from onnxport.runtime.models import OnnxModel

_LONG_SECONDS = 30.0
"""Length of the long recording, in seconds: as long as Whisper's frames."""
_IMAGE_INPUTS = (IMAGES, "pixel_values", "flattened_patches", "pixel_values_images", "image_pixel_values")
_AUDIO_INPUTS = ("input_values", "input_features", "audio_input_features")
_ROUNDED_RTOL = 2e-2
"""Relative tolerance of outputs of images that are resized in the graph: some pixels are rounded to another value."""
_COMPONENT = "load"
_OTHER_OUTPUTS = (OnnxSplitEncoders, OnnxTextToSpeech, OnnxMusicgen, OnnxBark)
"""Classes whose call doesn't return what the original's forward does; see `compare_samples`."""
_NO_TYPES = (NO_TOKEN_TYPES, NO_TYPE_EMBEDDINGS)
"""Reasons for the token types of tokenizers that make some for any model."""
_PADDING = ("padding", "max_length", "truncation")
"""Arguments of a tokenizer."""


def compare_samples(
    model: PreTrainedModel, directory: Directory, preprocessor: Any, tolerance: Tolerance
) -> list[Case]:
    """Compare an export with the original on token ids without images, and on each sample of its preprocessor.

    Args:
        model: the original.
        directory: the export.
        preprocessor: tokenizer, processor, image processor or feature extractor of the checkpoint; None if it has none.
        tolerance: bounds of the comparison.

    Returns:
        One case for each sample, and one for token ids if images or audio are merged into their embeddings. Empty if
        `onnxport.load` has no class for the graphs, or returns other outputs than the original: separate encoders
        return embeddings that aren't normalized, SpeechT5's dropout is random in the original, MusicGen's forward takes
        codes beside the text, and Bark has none.
    """
    embeds = directory.has(EMBEDDING) and directory.modalities and not model.config.is_encoder_decoder
    if preprocessor is None and not embeds:
        return []
    try:
        loaded = torch_model(directory)
    except (NoKernelError, UnsupportedError):
        return []
    request = _request_for(model, directory, loaded, preprocessor, tolerance)
    if request is None:
        return []
    texts = [_compare_text(request)] if embeds else []
    return texts + ([_compare(request, sample) for sample in _samples(request)] if preprocessor else [])


def _compare_text(request: _Request) -> Case:
    """Compare what token ids give: a decoder of embeddings was compared on those alone."""
    import torch

    special = {
        value for name, value in _settings_of(request.model.config) if name.endswith(("token_id", "token_index"))
    }
    ids = [token for token in range(_FIRST_ID, _FIRST_ID + 2 * _TEXT_LENGTH) if token not in special][:_TEXT_LENGTH]
    tokens = torch.tensor([ids, ids[::-1]])
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    sizes = {"batch_size": len(tokens), "sequence_length": tokens.shape[1]}
    return _compare_inputs(request, _Sample("text", sizes, {}), inputs)


_FIRST_ID, _TEXT_LENGTH = 3, 8


def _settings_of(config: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a configuration and of its parts."""
    from transformers import PreTrainedConfig

    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _settings_of(value)
        elif isinstance(value, int):
            yield name, value


def sample_inputs(
    model: PreTrainedModel, directory: Directory, loaded: OnnxModel, preprocessor: Any
) -> Iterator[tuple[str, dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Yield the name of each sample that the model runs on, the inputs that the preprocessor makes, and the export's.

    Args:
        model: the original.
        directory: the export.
        loaded: the export, loaded.
        preprocessor: of the checkpoint; None if it has none.
    """
    request = _request_for(model, directory, loaded, preprocessor, Tolerance(0, 0)) if preprocessor else None
    if request is None:
        return
    for sample in _samples(request):
        try:
            with translating(_refusal):
                inputs = _inputs(request, sample)
                _run(request.model, inputs)
        except _RefusedSampleError:
            continue
        if not request.misfit(inputs):
            yield sample.name, inputs, _of_export(request, sample, inputs)


def _request_for(
    model: PreTrainedModel, directory: Directory, loaded: OnnxModel, preprocessor: Any, tolerance: Tolerance
) -> _Request | None:
    """Return the request for an export; None if `onnxport.load` returns other outputs than the original."""
    components = [one for one in directory.manifest.components if not one.name.startswith("decoder")]
    taken = {tensor.name: tensor.axes for component in components for tensor in component.inputs}
    needs_cache = not loaded.can_generate() and any(map(is_cached, taken))
    if isinstance(loaded, _OTHER_OUTPUTS) or needs_cache:
        return None
    ignored = {name for name, reason in directory.manifest.left_out.items() if reason in _NO_TYPES}
    has_decoder = directory.has("decoder_model_merged")
    casts = directory.manifest.options.get("io_dtype") is not None
    if IMAGES in taken:
        tolerance = replace(tolerance, rtol=max(tolerance.rtol, _ROUNDED_RTOL))
    return _Request(model, loaded, preprocessor, taken, frozenset(ignored), has_decoder, tolerance, casts)


@dataclass(frozen=True)
class _Request:
    """Hold both models and the preprocessor.

    Attributes:
        model: the original.
        loaded: the export.
        preprocessor: of the checkpoint.
        taken: inputs of all graphs but decoders, with their axes.
        ignored: names of token types that the export does without, though tokenizers make them.
        has_decoder: whether a graph of its own decodes.
        tolerance: bounds of the comparison.
        casts: whether graphs cast their outputs.
    """

    model: PreTrainedModel
    loaded: OnnxModel
    preprocessor: Any
    taken: Mapping[str, tuple[int | str, ...]]
    ignored: frozenset[str]
    has_decoder: bool
    tolerance: Tolerance
    casts: bool = False

    def takes(self, names: Collection[str]) -> bool:
        """Return whether a graph has one of these inputs."""
        return not self.taken.keys().isdisjoint(names)

    def misfit(self, inputs: Mapping[str, torch.Tensor]) -> str:
        """Return which input doesn't have the size that a graph fixes; empty if all have it."""
        for name, tensor in inputs.items():
            axes = self.taken.get(name, ())
            if len(axes) == tensor.dim() and any(
                isinstance(axis, int) and axis != size for axis, size in zip(axes, tensor.shape, strict=True)
            ):
                return (
                    f"the graph takes {name} of the size {list(axes)}, and the preprocessor makes {list(tensor.shape)}"
                )
        return ""


@dataclass(frozen=True)
class _Sample:
    """Hold a sample as arguments of a preprocessor.

    Attributes:
        name: name of its case.
        sizes: what the report shows of its size.
        arguments: `text`, `images` and `audio`, as a processor of Transformers names them.
    """

    name: str
    sizes: dict[str, int]
    arguments: dict[str, Any]


def _samples(request: _Request) -> Iterator[_Sample]:
    """Yield the samples of the modalities that graphs and preprocessor have in common."""
    text = [samples.SENTENCES[0]] if "input_ids" in request.taken and _part(request, "tokenizer") else None
    texts = {} if text is None else {"text": text}
    if request.takes(_IMAGE_INPUTS) and (processor := _part(request, "image_processor")):
        image = samples.image()
        sizes = {"height": image.height, "width": image.width}
        takes_pairs = hasattr(processor, "post_process_keypoint_matching")
        images = [(image, image)] if takes_pairs else [image]
        yield _Sample("image", sizes, {"images": images, **_with_placeholder(request, texts, "image")})
    elif request.takes(_AUDIO_INPUTS) and (extractor := _part(request, "feature_extractor")):
        rate = int(getattr(extractor, "sampling_rate", 16_000))
        for seconds in (0.0, _LONG_SECONDS):
            audio = samples.recording(rate, seconds)
            name = f"{round(seconds)} s of audio" if seconds else "recording"
            arguments = {"audio": [audio], "sampling_rate": rate, **_with_placeholder(request, texts, "audio")}
            yield _Sample(name, {"samples": len(audio)}, arguments)
    elif text:
        yield _sentences(request)


def _sentences(request: _Request) -> _Sample:
    """Return the sentences in a padded batch, of the size that the graph fixes, if it does."""
    has_padding = _part(request, "tokenizer").pad_token is not None
    batch, length = (*request.taken["input_ids"], "")[:2]
    count = batch if isinstance(batch, int) else len(samples.SENTENCES) if has_padding else 1
    texts = (samples.SENTENCES * count)[:count]
    arguments: dict[str, Any] = {"text": list(texts), "padding": count > 1}
    if isinstance(length, int) and has_padding:
        arguments |= {"padding": "max_length", "max_length": length, "truncation": True}
    return _Sample("sentences", {"batch_size": count}, arguments)


def tokenizer_of(preprocessor: Any) -> Any:
    """Return the tokenizer of a preprocessor; None if it has none."""
    from transformers import PreTrainedTokenizerBase

    is_tokenizer = isinstance(preprocessor, PreTrainedTokenizerBase)
    return preprocessor if is_tokenizer else getattr(preprocessor, "tokenizer", None)


def _part(request: _Request, name: str) -> Any:
    """Return a sub-processor, or the preprocessor if it is one itself; None if there is none."""
    from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase
    from transformers.image_processing_base import ImageProcessingMixin

    classes = {
        "tokenizer": PreTrainedTokenizerBase,
        "image_processor": ImageProcessingMixin,
        "feature_extractor": FeatureExtractionMixin,
    }
    preprocessor = request.preprocessor
    return preprocessor if isinstance(preprocessor, classes[name]) else getattr(preprocessor, name, None)


def _with_placeholder(request: _Request, texts: Mapping[str, list[str]], modality: str) -> dict[str, list[str]]:
    """Return the text with the placeholder token of an image or of audio before it, if the model has one."""
    token_id = placeholder_token_id(request.model.config, modality)
    token = getattr(request.preprocessor, f"{modality}_token", None)
    if token is None and token_id is not None and texts:
        token = _part(request, "tokenizer").convert_ids_to_tokens(token_id)
    return {name: [f"{token or ''}{text}" for text in values] for name, values in texts.items()}


class _RefusedSampleError(Exception):
    """A preprocessor or a model raised an exception, of any type."""


def _refusal(error: Exception) -> Exception:
    return _RefusedSampleError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _compare(request: _Request, sample: _Sample) -> Case:
    try:
        with translating(_refusal):
            inputs = _inputs(request, sample)
    except _RefusedSampleError as error:
        return Case(_COMPONENT, sample.name, sample.sizes, (), f"the preprocessor refuses the sample: {error}")
    return _compare_inputs(request, sample, inputs)


def _compare_inputs(request: _Request, sample: _Sample, inputs: dict[str, torch.Tensor]) -> Case:
    """Compare the outputs for inputs of the original."""
    misfit = request.misfit(inputs)
    if misfit:
        return Case(_COMPONENT, sample.name, sample.sizes, (), misfit)
    try:
        with translating(_refusal):
            expected = _run(request.model, inputs)
    except _RefusedSampleError as error:
        return Case(_COMPONENT, sample.name, sample.sizes, (), f"the original refuses the sample: {error}")
    try:
        with translating(_refusal):
            outputs = _differences(request, inputs, _of_export(request, sample, inputs), expected)
    except _RefusedSampleError as error:
        if isinstance(error.__cause__, MissingInputError | SizeLimitError):
            return Case(_COMPONENT, sample.name, sample.sizes, (), f"the export refuses the sample: {error}")
        outputs = (_failed("outputs", str(error)),)
    return Case(_COMPONENT, sample.name, sample.sizes, outputs)


def _of_export(request: _Request, sample: _Sample, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the inputs of the export: the images themselves, if it makes their pixel values."""
    import torch

    if IMAGES not in request.taken:
        return inputs
    images = torch.from_numpy(np.stack([np.asarray(one) for one in sample.arguments["images"]]))
    others = {name: value for name, value in inputs.items() if name not in (PIXEL_VALUES, PIXEL_MASK)}
    return {**others, IMAGES: images}


def _inputs(request: _Request, sample: _Sample) -> dict[str, torch.Tensor]:
    """Return the inputs of the model's forward that the preprocessor makes of a sample."""
    import torch

    encoded = _with_leading_placeholders(request.model.config, dict(_encode(request, sample.arguments)))
    known = inspect.signature(type(request.model).forward).parameters.keys() - request.ignored
    inputs = {name: value for name, value in encoded.items() if name in known and isinstance(value, torch.Tensor)}
    if not inputs:
        raise ValueError(f"forward takes none of {', '.join(encoded)}")
    dtype = request.model.dtype
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    tokens = torch.full((len(next(iter(inputs.values()))), 1), start_token(request.model))
    takes_start = request.has_decoder or request.takes(("decoder_input_ids",))
    if takes_start and request.model.config.is_encoder_decoder and "decoder_input_ids" in known:
        inputs["decoder_input_ids"] = tokens
    elif request.has_decoder and "input_ids" not in request.taken:  # BLIP's decoder of captions
        inputs["input_ids"] = tokens
    return inputs


def _encode(request: _Request, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    from transformers import ProcessorMixin

    only_text = arguments.keys() <= {"text", *_PADDING}
    if isinstance(request.preprocessor, ProcessorMixin) and not only_text:
        encoded: Mapping[str, Any] = request.preprocessor(**arguments, return_tensors="pt")
        return encoded
    found: dict[str, Any] = {}
    options = {name: value for name, value in arguments.items() if name in _PADDING}
    if "text" in arguments:
        found |= _part(request, "tokenizer")(arguments["text"], return_tensors="pt", **options)
    if "images" in arguments:
        found |= _part(request, "image_processor")(arguments["images"], return_tensors="pt")
    if "audio" in arguments:
        extractor = _part(request, "feature_extractor")
        found |= extractor(arguments["audio"], sampling_rate=arguments["sampling_rate"], return_tensors="pt")
    return found


def _with_leading_placeholders(config: PreTrainedConfig, encoded: dict[str, Any]) -> dict[str, Any]:
    """Return inputs with BLIP-2's placeholder tokens before the prompt, whose number old processors don't know."""
    import torch

    count, token = leading_placeholders(config) if hasattr(config, "num_query_tokens") else (0, None)
    if token is None or not {"input_ids", "pixel_values"} <= encoded.keys() or (encoded["input_ids"] == token).any():
        return encoded
    leading = {
        name: torch.full((len(encoded[name]), count), value)
        for name, value in (("input_ids", token), ("attention_mask", 1))
    }
    return encoded | {name: torch.cat([value, encoded[name]], dim=1) for name, value in leading.items()}


def _run(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    import torch

    from onnxport.tracing.comparable import ComparableFunctions

    noise = {"sample": False} if "sample" in inspect.signature(type(model).forward).parameters else {}
    with torch.no_grad(), ComparableFunctions(), patching(*attention_restored(model)):
        result = call_forward(model, {**inputs, **noise})
        if hasattr(model, HEAD):
            result = getattr(model, HEAD).results(result, inputs)
    return {name: value for name, value in result.items() if isinstance(value, torch.Tensor)}


def _differences(
    request: _Request,
    inputs: dict[str, torch.Tensor],
    given: dict[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
) -> tuple[OutputDifference, ...]:
    """Compare the outputs that the export has, and the tokens that it generates for an image or for audio."""
    found, arrays = request.loaded(**given), {}
    generates = request.loaded.can_generate()
    mask = inputs.get("attention_mask")
    for name in (name for name in expected if name in found):
        wanted, actual = to_array(expected[name]), to_array(found[name])
        if request.casts:
            wanted = like(wanted, actual)
        if wanted.dtype.kind == actual.dtype.kind == "i":  # a mask that is also an output: int32 of many preprocessors
            wanted = wanted.astype(actual.dtype)
        ignores_padding = generates or request.loaded.directory.has(EMBEDDING)  # RoBERTa counts it in embeddings
        if ignores_padding and mask is not None and wanted.shape[:2] == mask.shape:
            count = min(mask.shape[1], actual.shape[1])  # the last logits alone, or those of image embeddings, too
            real = mask.numpy()[:, -count:] == 1  # what padding computes depends on the mask's form
            wanted, actual = wanted[:, -count:][real], actual[:, -count:][real]
        arrays[name] = (wanted, actual)
    run = partial(_run, request.model)
    least = partial(allowed_in_any_case, request.model, inputs, run, expected, request.tolerance)
    outputs = compare_all(arrays, request.tolerance, least)
    has_samples = not inputs.keys().isdisjoint((*_IMAGE_INPUTS, *_AUDIO_INPUTS))
    if generates and has_samples and request.model.can_generate():
        return (*outputs, _tokens(request, inputs, given))
    return outputs


def _tokens(
    request: _Request, inputs: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> OutputDifference:
    """Compare greedily generated tokens; where they first differ, those whose logits are equal count as equal."""
    import torch

    start = ("decoder_input_ids",) if "input_ids" in request.taken else ("decoder_input_ids", "input_ids")
    inputs, given = ({name: value for name, value in each.items() if name not in start} for each in (inputs, given))
    settings: dict[str, Any] = {"max_new_tokens": TOKENS, "do_sample": False, "num_beams": 1}
    generate: Callable[..., Any] = request.model.generate  # type: ignore[assignment]
    with torch.no_grad():
        wanted = generate(**inputs, **settings).numpy()
    loaded: Callable[..., Any] = request.loaded.generate  # type: ignore[attr-defined]  # of those that can generate
    found = loaded(**given, **settings).numpy()
    count = min(wanted.shape[1], found.shape[1])
    different = np.flatnonzero((wanted[:, :count] != found[:, :count]).any(axis=0))
    problem = "" if wanted.shape == found.shape else f"{found.shape[1]} tokens instead of {wanted.shape[1]}"
    if len(different):
        first = int(different[0])
        with torch.no_grad():
            scores = generate(**inputs, **settings, return_dict_in_generate=True, output_scores=True).scores
        step = to_array(scores[first - wanted.shape[1]])[0]
        bound = request.tolerance.atol + request.tolerance.rtol * float(np.abs(step[np.isfinite(step)]).max())
        is_tie = bool(step.max() - step[found[0, first]] <= bound)
        problem = "" if is_tie else f"token {first} is {found[0, first]}, the original's is {wanted[0, first]}"
    return tokens_output(found.shape, problem)


def _failed(name: str, problem: str) -> OutputDifference:
    return OutputDifference(name, "", (), None, None, False, problem)
