"""Run a task that doesn't generate: with a Transformers pipeline if there is one, otherwise the graph's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.cli import _preprocess
from onnxport.cli._heads import multiple_choice, question_answering
from onnxport.cli._pipelines import PIPELINES, TOP_K, run_pipeline, scores, seeded
from onnxport.cli._preprocess import Arrays
from onnxport.cli._request import RunRequest, RunResult
from onnxport.cli._text_to_audio import TEXT_TO_AUDIO, generate_audio
from onnxport.description.image_processing import IMAGES, PIXEL_VALUES
from onnxport.errors import MissingDependencyError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.generators import Prompt, has_transformers
from onnxport.runtime.light import LightModel
from onnxport.runtime.load import pipeline
from onnxport.runtime.logits import softmax
from onnxport.runtime.tokenizer import DirectoryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PAIR_TASKS = ("text-classification", "multiple-choice", "text-ranking")


def run_task(directory: Directory, request: RunRequest) -> RunResult:
    """Run an exported directory once.

    Args:
        directory: the exported directory.
        request: texts, image, audio or token ids.

    Raises:
        OptionError: an input that the graph requires is missing, or an option doesn't apply to the task.
        CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        MissingDependencyError: the input can't be preprocessed without torch and Transformers.
        UnsupportedError: the directory has several graphs that only run together.
    """
    _check_request(directory, request)
    if request.input_ids:
        ids = np.array([request.input_ids], dtype=np.int64)
        return _describe_outputs(directory, _run_graph(directory, {"input_ids": ids}))
    if not has_transformers():
        return _run_without_torch(directory, request)
    if directory.task in PIPELINES and directory.has("model"):
        fits = request.modalities <= PIPELINES[directory.task].takes
        return run_pipeline(directory, request) if fits else _run_with_preprocessors(directory, request)
    is_single = directory.has("model") or directory.has("text_model")
    return RESULTS.get(directory.task, _run_with_preprocessors if is_single else _run_loaded)(directory, request)


def recognize_speech(directory: Directory, request: RunRequest, settings: Mapping[str, Any]) -> RunResult:
    """Transcribe or translate each audio clip, of any length, with Transformers' pipeline.

    Args:
        directory: an export for automatic speech recognition.
        request: audio, and the language and task of Whisper.
        settings: settings of Transformers' `generate`, and `seed`.

    Raises:
        OptionError: there is no audio, an option doesn't apply to the model, or the pipeline refuses a clip.
        MissingDependencyError: torch or Transformers isn't installed.
        CheckpointNotFoundError: the directory lacks a tokenizer or feature extractor.
    """
    if request.modalities != {"audio"} or request.text_pairs or request.question:
        raise OptionError("speech recognition takes audio alone: pass it with --audio")
    if not has_transformers():
        raise MissingDependencyError("--audio needs torch and transformers: pip install 'onnxport[export]'")
    named = {"language": request.language, "task": request.audio_task}
    options = {**settings, **{name: value for name, value in named.items() if value is not None}}
    is_whisper = "lang_to_id" in directory.generation_config
    if len(options) > len(settings) and not is_whisper:
        raise OptionError(
            f"{directory.path}: its generation config has no languages (lang_to_id): leave out --language and --task, "
            "which are for multilingual Whisper models"
        )
    options = seeded(options)
    return run_pipeline(directory, request, {"generate_kwargs": options} if options else {})


def _check_request(directory: Directory, request: RunRequest) -> None:
    names = {name for item in directory.manifest.components for name in (spec.name for spec in item.inputs)}
    shown = ", ".join(sorted(name for name in names if not name.startswith("past_")))
    request.check_files(directory.task, names)
    if request.text_pairs and directory.task not in _PAIR_TASKS:
        raise OptionError(f"--text-pair doesn't apply to {directory.task}, only to {' and '.join(_PAIR_TASKS)}")
    option = request.options_for(names)
    is_labelled = directory.task.startswith("zero-shot")
    if (request.texts or request.input_ids) and option and "input_ids" not in names and not is_labelled:
        remedy = "leave the text out" if request.images or request.audio else f"pass {option}"
        raise OptionError(f"the graph has no text input, its inputs are {shown}: {remedy}")
    if request.question and directory.task != "question-answering":
        raise OptionError(f"--question doesn't apply to {directory.task}, only to question-answering")
    if not (request.texts or request.input_ids or request.images or request.audio):
        raise OptionError(f"pass --text, --input-ids, --image or --audio: the graph's inputs are {shown}")


def _feature_extraction(directory: Directory, request: RunRequest) -> RunResult:
    """Return each text's hidden states averaged over its tokens, and the cosine similarity of each pair."""
    if not directory.has("model"):
        return (
            _run_with_preprocessors(directory, request)
            if directory.has("text_model")
            else _run_loaded(directory, request)
        )
    if not request.texts or not {PIXEL_VALUES, IMAGES}.isdisjoint(directory.graph("model").inputs):
        return _run_with_preprocessors(directory, request)
    pipe = pipeline("feature-extraction", directory.path, adapter=directory.settings.adapter)
    states = [np.asarray(pipe(text, truncation=True)[0]) for text in request.texts]
    if states[0].ndim != 2:  # the first output has no hidden state for each token
        return _run_with_preprocessors(directory, request)
    texts = zip(states, request.texts, strict=True)
    vectors = [_without_padding(hidden, pipe.tokenizer(text, truncation=True)).mean(axis=0) for hidden, text in texts]
    return _embeddings("mean of last_hidden_state", np.stack(vectors))


def _without_padding(hidden: NDArray[Any], encoded: Mapping[str, Any]) -> NDArray[Any]:
    """Return the hidden states of tokens, [tokens, size]: a graph with a fixed number of tokens takes padding, too."""
    mask = np.asarray(encoded.get("attention_mask", ()), dtype=bool)
    return hidden[mask] if len(mask) == len(hidden) else hidden  # CANINE, Funnel: other numbers of hidden states


def _sentence_similarity(directory: Directory, request: RunRequest) -> RunResult:
    """Return each text's sentence embedding, and the cosine similarity of each pair, or scores of late interaction."""
    outputs = _run_graph(directory, _preprocess.token_inputs(_sentence_tokenizer(directory), request))
    if "document_mask" in outputs:
        return _late_interaction(outputs)
    if "sentence_embedding" not in outputs:
        return _describe_outputs(directory, outputs)
    return _embeddings("sentence_embedding", outputs["sentence_embedding"])


def _sentence_tokenizer(directory: Directory) -> Any:
    """Load the tokenizer, with the maximum length in the settings of sentence-transformers."""
    tokenizer = _preprocess.load(directory, "AutoTokenizer")
    longest = directory.read("sentence_bert_config.json").get("max_seq_length")
    if isinstance(longest, int) and longest > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
    return tokenizer


def _late_interaction(outputs: Arrays) -> RunResult:
    """Return the sum over each text's tokens of their largest product with a token of each text as a document."""
    tokens, queries, documents = (outputs[name] for name in ("token_embeddings", "query_mask", "document_mask"))
    products = np.einsum("iqd,jkd->ijqk", tokens, tokens)
    best = np.where(documents[None, :, None, :] > 0, products, -np.inf).max(axis=-1)
    scores = np.where(queries[:, None, :] > 0, best, 0).sum(axis=-1)
    rows = range(len(scores))
    lines = [f"query {i + 1}, document {j + 1}: {scores[i][j]:.4f}" for i in rows for j in rows]
    return RunResult(lines, {"token_embeddings": list(tokens.shape), "scores": scores.astype(float).tolist()})


def _text_ranking(directory: Directory, request: RunRequest) -> RunResult:
    """Return the scores of each pair of texts."""
    if not request.text_pairs:
        raise OptionError("text-ranking takes pairs of texts: pass --text-pair with each --text")
    tokenizer = _sentence_tokenizer(directory)
    if getattr(tokenizer, "chat_template", None):
        raise OptionError(
            "the model's prompt is made of a pair of texts by its chat template, which onnxport run doesn't apply: "
            "tokenize it yourself, and pass --input-ids"
        )
    if directory.manifest.architecture.endswith("ForCausalLM"):
        tokenizer.padding_side = "left"  # the score is that of the last position
    scores = _run_graph(directory, _preprocess.token_inputs(tokenizer, request))["scores"]
    lines = [f"pair {i + 1}: {', '.join(f'{score:.4f}' for score in row)}" for i, row in enumerate(scores)]
    return RunResult(lines, {"scores": scores.astype(float).tolist()})


def _run_with_preprocessors(directory: Directory, request: RunRequest) -> RunResult:
    """Run the graph on the request's preprocessed text, images and audio, and show its outputs."""
    names = directory.graph("model").inputs if directory.has("model") else {}
    if missing := request.missing_options(names):
        raise OptionError(f"the graph takes {', '.join(names)}: pass {' and '.join(sorted(missing))}, too")
    feed: Arrays
    if len(request.modalities) > 1:
        feed = _joint_inputs(directory, request)
    elif request.texts:
        feed = _preprocess.token_inputs(_preprocess.load(directory, "AutoTokenizer"), request)
    elif request.images:
        feed = _preprocess.image_inputs(directory, request)
    else:
        feed = _preprocess.audio_inputs(directory, request)
    batch_size = max(len(array) for array in feed.values())  # the graph has one batch axis for all inputs
    feed = {name: np.repeat(array, batch_size, axis=0) if len(array) == 1 else array for name, array in feed.items()}
    return _describe_outputs(directory, _run_graph(directory, feed))


def _joint_inputs(directory: Directory, request: RunRequest) -> Arrays:
    """Preprocess text together with images or audio, as the directory's processor does."""
    from onnxport.runtime.prompts import PromptEncoder

    prompts = PromptEncoder(directory)
    images = request.load_images() if request.images else ()
    audio = request.load_audio(prompts.sampling_rate) if request.audio else ()
    inputs = prompts.encode_batch(request.texts, Prompt(images=images, audio=audio))
    return {name: np.asarray(value) for name, value in inputs.items()}


def _run_loaded(directory: Directory, request: RunRequest) -> RunResult:
    """Call the loaded model of several graphs with each prompt, and show its outputs."""
    import torch

    from onnxport.runtime.prompts import PromptEncoder
    from onnxport.runtime.torch_model import torch_model

    model = torch_model(directory)
    prompts = PromptEncoder(directory, model.config)
    images = request.load_images() if request.images else ()
    audio = request.load_audio(prompts.sampling_rate) if request.audio else ()
    results = []
    for text in request.texts or ("",):
        inputs = prompts.encode(Prompt(text, images, audio))
        if directory.has("encoder_model") and "decoder_input_ids" not in inputs:
            inputs["decoder_input_ids"] = torch.tensor([[directory.decoder_start_token_id]])
        outputs = {name: value.numpy() for name, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
        results.append(_describe_outputs(directory, outputs))
    return RunResult([line for result in results for line in result.lines], [result.values for result in results])


def _run_without_torch(directory: Directory, request: RunRequest) -> RunResult:
    """Run the graph on each text with the torch-free tokenizer, or on images that it preprocesses; show its outputs."""
    if request.modalities == {"image"} and IMAGES in directory.input_names:
        return _describe_outputs(directory, _run_graph(directory, _preprocess.image_inputs(directory, request)))
    if request.images or request.audio or request.text_pairs or request.question:
        raise MissingDependencyError(
            "--image, --audio, --text-pair and --question need torch and transformers: pip install 'onnxport[export]'"
        )
    tokenizer = DirectoryTokenizer(directory)
    results = [
        _describe_outputs(directory, _run_graph(directory, dict(tokenizer.encode([text])))) for text in request.texts
    ]
    return RunResult([line for result in results for line in result.lines], [result.values for result in results])


def _run_graph(directory: Directory, feed: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run the graph on those of its inputs that a preprocessor made; a decoder gets its start token."""
    names = {value.name for item in directory.manifest.components for value in item.inputs}
    inputs = {name: value for name, value in feed.items() if name in names}
    if inputs and directory.has("model") and "decoder_input_ids" in directory.graph("model").inputs:
        batch_size = len(next(iter(inputs.values())))
        inputs["decoder_input_ids"] = np.full((batch_size, 1), directory.decoder_start_token_id, dtype=np.int64)
    outputs = LightModel(directory)(**inputs)
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in outputs.items()}


def _describe_outputs(directory: Directory, outputs: Arrays) -> RunResult:
    """Show each output's shape and first values, and the most probable classes or tokens of `logits`."""
    values: dict[str, Any] = {
        name: {"shape": list(array.shape), "first": array.reshape(-1)[:6].tolist()} for name, array in outputs.items()
    }
    lines = [f"{name} {entry['shape']}: {_first(entry['first'])}" for name, entry in values.items()]
    if directory.task in _LOGITS_TASKS and "logits" in outputs:
        logits = outputs["logits"].reshape(-1, outputs["logits"].shape[-1])
        labels = (directory.config.get("id2label") or {}) if "classification" in directory.task else {}
        values["top"] = [_top(row, labels) for row in softmax(logits.astype(np.float32))]
        lines += [scores(row) for row in values["top"]]
    return RunResult(lines, values)


def _top(probabilities: NDArray[Any], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:TOP_K]
    return [{"label": str(labels.get(str(i), i)), "index": int(i), "score": float(probabilities[i])} for i in order]


def _embeddings(name: str, vectors: NDArray[Any]) -> RunResult:
    vectors = vectors.astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / np.where(norms == 0, 1, norms)[:, None]
    cosines = (unit @ unit.T).round(4).tolist()
    similarities = [
        [cosines[i][j] if norms[i] and norms[j] else None for j in range(len(vectors))] for i in range(len(vectors))
    ]
    lines = [f"{name} {list(vectors.shape)}"]
    lines += [f"text {i + 1}: {_first(row[:6].tolist())}" for i, row in enumerate(vectors)]
    lines += [
        f"similarity {j + 1}-{i + 1}: {_cosine(similarities[i][j])}" for i in range(len(vectors)) for j in range(i)
    ]
    embeddings = vectors.tolist()
    return RunResult(lines, {"shape": list(vectors.shape), "embeddings": embeddings, "similarities": similarities})


def _cosine(value: float | None) -> str:
    """Format a cosine similarity; None for a zero vector, which has no direction."""
    return "undefined, an embedding is zero" if value is None else f"{value:.4f}"


def _first(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + ", …]"


_LOGITS_TASKS = (
    *("fill-mask", "text-classification", "token-classification"),
    *("image-classification", "audio-classification"),
)
RESULTS: dict[str, Callable[[Directory, RunRequest], RunResult]] = {
    "feature-extraction": _feature_extraction,
    "sentence-similarity": _sentence_similarity,
    "text-ranking": _text_ranking,
    "question-answering": question_answering,
    "multiple-choice": multiple_choice,
    TEXT_TO_AUDIO: generate_audio,
}
"""Tasks without a pipeline that have a result of their own; all others show the graph's outputs."""
