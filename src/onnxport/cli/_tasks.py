"""Run a task that doesn't generate: with a Transformers pipeline if there is one, otherwise the graph's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.cli import _preprocess
from onnxport.cli._heads import multiple_choice, question_answering, softmax
from onnxport.cli._preprocess import Arrays
from onnxport.cli._request import RunRequest, RunResult
from onnxport.errors import MissingDependencyError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.load import pipeline
from onnxport.runtime.tokenizer import DirectoryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOP_K = 5
_PAIR_TASKS = ("text-classification", "multiple-choice", "text-ranking")
_FILE_INPUTS = {"pixel_values": "--image", "input_features": "--audio", "input_values": "--audio"}
"""Graph inputs that are made from a file, to the option that names the file."""


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
    if not _preprocess.has_transformers():
        return _run_without_torch(directory, request)
    return _TASKS.get(directory.task, _run_with_preprocessors)(directory, request)


def _check_request(directory: Directory, request: RunRequest) -> None:
    names = {name for item in directory.manifest.components for name in (spec.name for spec in item.inputs)}
    shown = ", ".join(sorted(name for name in names if not name.startswith("past_")))
    options = {option for name, option in _FILE_INPUTS.items() if name in names}
    if request.text_pairs and directory.task not in _PAIR_TASKS:
        raise OptionError(f"--text-pair doesn't apply to {directory.task}, only to {' and '.join(_PAIR_TASKS)}")
    if request.texts and options and "input_ids" not in names and not (request.image or request.audio):
        raise OptionError(f"the graph has no text input, its inputs are {shown}: pass {options.pop()}")
    if not (request.texts or request.input_ids or request.image or request.audio):
        raise OptionError(f"pass --text, --input-ids, --image or --audio: the graph's inputs are {shown}")


def _fill_mask(directory: Directory, request: RunRequest) -> RunResult:
    """Return the most probable tokens at each mask token."""
    pipe = pipeline("fill-mask", directory.path, adapter=directory.settings.adapter)
    for text in request.texts:
        if pipe.tokenizer.mask_token not in text:
            raise OptionError(f"{text!r} has no mask: put {pipe.tokenizer.mask_token} in place of a token to predict")
    predictions = [pipe(text, top_k=TOP_K, tokenizer_kwargs={"truncation": True}) for text in request.texts]
    values = [masks if isinstance(masks[0], list) else [masks] for masks in predictions]
    lines = [
        f"text {row + 1}, mask {column + 1}: {_scores(best, 'token_str')}"
        for row, masks in enumerate(values)
        for column, best in enumerate(masks)
    ]
    return RunResult(lines, values)


def _text_classification(directory: Directory, request: RunRequest) -> RunResult:
    """Return the most probable classes of each text; the logit of a model with a single class."""
    pipe = pipeline("text-classification", directory.path, adapter=directory.settings.adapter)
    options: dict[str, object] = {"top_k": TOP_K, "truncation": True}
    if pipe.model.config.num_labels == 1:
        options["function_to_apply"] = "none"
    inputs: Iterable[Any] = request.texts
    if request.text_pairs:
        pairs = zip(request.texts, request.text_pairs, strict=True)
        inputs = [{"text": text, "text_pair": pair} for text, pair in pairs]
    values = [pipe(item, **options) for item in inputs]
    return RunResult([_scores(row, "label") for row in values], values)


def _token_classification(directory: Directory, request: RunRequest) -> RunResult:
    """Return the class of every token."""
    pipe = pipeline("token-classification", directory.path, adapter=directory.settings.adapter, ignore_labels=[])
    values = [[{**token, "score": float(token["score"])} for token in pipe(text)] for text in request.texts]
    return RunResult([" ".join(f"{token['word']}/{token['entity']}" for token in row) for row in values], values)


def _image_classification(directory: Directory, request: RunRequest) -> RunResult:
    """Return the most probable classes of the image."""
    image = request.load_image()
    values = [pipeline("image-classification", directory.path, adapter=directory.settings.adapter)(image, top_k=TOP_K)]
    return RunResult([_scores(row, "label") for row in values], values)


def _audio_classification(directory: Directory, request: RunRequest) -> RunResult:
    """Return the most probable classes of the audio clip."""
    pipe = pipeline("audio-classification", directory.path, adapter=directory.settings.adapter)
    values = [pipe(request.load_audio(pipe.feature_extractor.sampling_rate), top_k=TOP_K)]
    return RunResult([_scores(row, "label") for row in values], values)


def _feature_extraction(directory: Directory, request: RunRequest) -> RunResult:
    """Return each text's hidden states averaged over its tokens, and the cosine similarity of each pair."""
    graph = directory.graph("model") if directory.has("model") else None
    if graph is None or not request.texts or "pixel_values" in graph.inputs:
        return _run_with_preprocessors(directory, request)
    pipe = pipeline("feature-extraction", directory.path, adapter=directory.settings.adapter)
    states = [np.asarray(pipe(text, truncation=True)[0]) for text in request.texts]
    if states[0].ndim != 2:  # the first output has no hidden state for each token
        return _run_with_preprocessors(directory, request)
    return _embeddings("mean of last_hidden_state", np.stack([hidden.mean(axis=0) for hidden in states]))


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
    if longest:
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
    if str(directory.manifest.source["architecture"]).endswith("ForCausalLM"):
        tokenizer.padding_side = "left"  # the score is that of the last position
    scores = _run_graph(directory, _preprocess.token_inputs(tokenizer, request))["scores"]
    lines = [f"pair {i + 1}: {', '.join(f'{score:.4f}' for score in row)}" for i, row in enumerate(scores)]
    return RunResult(lines, {"scores": scores.astype(float).tolist()})


def _run_with_preprocessors(directory: Directory, request: RunRequest) -> RunResult:
    """Run the graph on the request's preprocessed text, image and audio, and show its outputs."""
    feed: Arrays = {}
    if request.texts:
        feed |= _preprocess.token_inputs(_preprocess.load(directory, "AutoTokenizer"), request)
    if request.image:
        feed |= _preprocess.image_inputs(directory, request)
    if request.audio:
        feed |= _preprocess.audio_inputs(directory, request)
    pixels, batch_size = feed.get("pixel_values"), max(len(array) for array in feed.values())
    if pixels is not None and len(pixels) == 1 < batch_size:
        feed["pixel_values"] = np.repeat(pixels, batch_size, axis=0)  # the graph has one batch axis for both
    return _describe_outputs(directory, _run_graph(directory, feed))


def _run_without_torch(directory: Directory, request: RunRequest) -> RunResult:
    """Run the graph on each text with the torch-free tokenizer, and show its outputs."""
    if request.image or request.audio or request.text_pairs or request.question:
        raise MissingDependencyError(
            "--image, --audio, --text-pair and --question need torch and transformers: pip install 'onnxport[export]'"
        )
    tokenizer = DirectoryTokenizer(directory)
    results = [
        _describe_outputs(directory, _run_graph(directory, dict(tokenizer.encode([text])))) for text in request.texts
    ]
    return RunResult([line for result in results for line in result.lines], [result.values for result in results])


def _run_graph(directory: Directory, feed: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run the graph; an encoder-decoder's decoder gets its start token."""
    inputs = dict(feed)
    if directory.has("model") and "decoder_input_ids" in directory.graph("model").inputs:
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
        values["top"] = [_top(row, labels) for row in softmax(logits)]
        lines += [_scores(row, "label") for row in values["top"]]
    return RunResult(lines, values)


def _top(probabilities: NDArray[Any], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    order = np.argsort(-probabilities, kind="stable")[:TOP_K]
    return [{"label": str(labels.get(str(i), i)), "index": int(i), "score": float(probabilities[i])} for i in order]


def _embeddings(name: str, vectors: NDArray[Any]) -> RunResult:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    similarities = (unit @ unit.T).astype(float).round(4).tolist()
    lines = [f"{name} {list(vectors.shape)}"]
    lines += [f"text {i + 1}: {_first(row[:6].tolist())}" for i, row in enumerate(vectors)]
    lines += [f"similarity {j + 1}-{i + 1}: {similarities[i][j]:.4f}" for i in range(len(vectors)) for j in range(i)]
    embeddings = vectors.tolist()
    return RunResult(lines, {"shape": list(vectors.shape), "embeddings": embeddings, "similarities": similarities})


def _scores(entries: Iterable[Mapping[str, Any]], name: str) -> str:
    return ", ".join(f"{entry[name]} {entry['score']:.3f}" for entry in entries)


def _first(values: list[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + ", …]"


_LOGITS_TASKS = (
    *("fill-mask", "text-classification", "token-classification"),
    *("image-classification", "audio-classification"),
)
_TASKS: dict[str, Callable[[Directory, RunRequest], RunResult]] = {
    "feature-extraction": _feature_extraction,
    "sentence-similarity": _sentence_similarity,
    "text-ranking": _text_ranking,
    "fill-mask": _fill_mask,
    "text-classification": _text_classification,
    "image-classification": _image_classification,
    "audio-classification": _audio_classification,
    "token-classification": _token_classification,
    "question-answering": question_answering,
    "multiple-choice": multiple_choice,
}
"""Tasks with a custom result; all others show the graph's outputs."""
