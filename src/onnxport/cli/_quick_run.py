"""Run an exported directory once: prepare the input, run ONNX Runtime, say what the output means for the task."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.bundles.manifest import Manifest, read_manifest
from onnxport.errors import CheckpointNotFoundError, OptionError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Answer:
    """Hold an answer twice: as lines to read and as values for JSON."""

    lines: list[str]
    values: Any


@dataclass(frozen=True)
class Exported:
    """Hold an opened directory."""

    directory: Path
    manifest: Manifest
    session: Any

    def load(self, auto_class: str) -> Any:
        """Load a preprocessor of the directory by the name of its Auto class."""
        import transformers

        try:
            return getattr(transformers, auto_class).from_pretrained(self.directory)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CheckpointNotFoundError(
                f"{self.directory} has nothing that {auto_class} loads ({error}); give --input-ids for token numbers"
            ) from error

    def labels(self) -> Mapping[str, str]:
        """Return the class names of the model's configuration."""
        config = json.loads((self.directory / "config.json").read_text(encoding="utf-8"))
        return config.get("id2label") or {}

    def run(self, feed: Mapping[str, Any]) -> Arrays:
        """Run the graph with those of its inputs that `feed` has."""
        wanted = {value.name for value in self.session.get_inputs()}
        missing = wanted - set(feed)
        if missing:
            raise OptionError(f"the graph needs {', '.join(sorted(missing))}, which these options don't give")
        names = [value.name for value in self.session.get_outputs()]
        results = self.session.run(names, {name: feed[name] for name in wanted})
        return dict(zip(names, results, strict=True))


def quick_run(arguments: argparse.Namespace) -> Answer:
    """Run an exported directory on what the command line gives.

    Raises:
        CheckpointNotFoundError: the directory isn't one that onnxport wrote, or lacks a preprocessor.
        OptionError: the options don't give what the graph needs.
        UnsupportedError: the directory holds several graphs.
    """
    from onnxport.validation.prove import open_session

    directory = Path(arguments.directory)
    manifest = read_manifest(directory)
    if manifest is None:
        raise CheckpointNotFoundError(f"{directory} holds no onnxport.json: it isn't a directory that onnxport wrote")
    if len(manifest.components) != 1:
        raise UnsupportedError(f"{directory} holds {len(manifest.components)} graphs; run tries single graphs")
    exported = Exported(directory, manifest, open_session(directory / manifest.components[0].file))
    task = manifest.task.removesuffix("-with-past")
    return _ANSWERS.get(task, _shapes)(exported, arguments)


def _text_feed(exported: Exported, arguments: argparse.Namespace, tokenizer: Any = None) -> Arrays:
    """Make token inputs from --text or --input-ids."""
    if arguments.input_ids:
        try:
            ids = np.array([[int(part) for part in arguments.input_ids.split(",")]], dtype=np.int64)
        except ValueError:
            raise OptionError(f"--input-ids {arguments.input_ids!r} isn't a list of numbers like 5,12,7") from None
        ones = np.ones_like(ids)
        return {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0}
    if not arguments.text:
        raise OptionError("give at least one --text (or --input-ids)")
    tokenizer = tokenizer or exported.load("AutoTokenizer")
    padding = len(arguments.text) > 1
    if padding and tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    pair = ([arguments.question], arguments.text) if arguments.question else (arguments.text,)
    return dict(tokenizer(*pair, padding=padding, truncation=True, return_tensors="np"))


def _image_feed(exported: Exported, arguments: argparse.Namespace) -> Arrays:
    from PIL import Image, UnidentifiedImageError

    if not arguments.image:
        raise OptionError("give a picture with --image")
    try:
        picture = Image.open(arguments.image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise OptionError(f"--image {arguments.image}: {error}") from error
    return dict(exported.load("AutoImageProcessor")(images=picture, return_tensors="np"))


def _audio_feed(exported: Exported, arguments: argparse.Namespace) -> Arrays:
    import wave

    if not arguments.audio:
        raise OptionError("give a sound with --audio")
    try:
        with wave.open(arguments.audio) as sound:
            rate, channels = sound.getframerate(), sound.getnchannels()
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype=np.int16)
    except (OSError, EOFError, wave.Error) as error:
        raise OptionError(f"--audio {arguments.audio}: {error}") from error
    mono = samples.reshape(-1, channels).mean(axis=1).astype(np.float32) / 32768
    return dict(exported.load("AutoFeatureExtractor")(mono, sampling_rate=rate, return_tensors="np"))


def _any_feed(exported: Exported, arguments: argparse.Namespace) -> Arrays:
    feed: Arrays = {}
    if arguments.text or arguments.input_ids:
        feed |= _text_feed(exported, arguments)
    if arguments.image:
        feed |= _image_feed(exported, arguments)
    if arguments.audio:
        feed |= _audio_feed(exported, arguments)
    return feed


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _embeddings(exported: Exported, arguments: argparse.Namespace) -> Answer:
    feed = _any_feed(exported, arguments)
    states = exported.run(feed).get("last_hidden_state")
    if states is None or "attention_mask" not in feed:
        return _shapes(exported, arguments)
    mask = feed["attention_mask"][..., None]
    mean = (states * mask).sum(axis=1) / mask.sum(axis=1)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    lines = [f"last_hidden_state {list(states.shape)}, mean of the first text: {np.round(mean[0][:6], 4).tolist()} …"]
    similar = (unit @ unit.T).round(4).tolist()
    lines += [f"similarity {i + 1}-{j + 1}: {similar[i][j]:.4f}" for i in range(len(unit)) for j in range(i)]
    return Answer(lines, {"embeddings": mean.tolist(), "similarities": similar})


def _fill_mask(exported: Exported, arguments: argparse.Namespace) -> Answer:
    tokenizer = exported.load("AutoTokenizer")
    feed = _text_feed(exported, arguments, tokenizer)
    rows, columns = np.nonzero(feed["input_ids"] == tokenizer.mask_token_id)
    if not len(rows):
        raise OptionError(f"the text holds no {tokenizer.mask_token}")
    logits = exported.run(feed)["logits"]
    lines, values = [], []
    for row, column in zip(rows, columns, strict=True):
        shares = _softmax(logits[row, column])
        best = [(tokenizer.convert_ids_to_tokens(int(i)), float(shares[i])) for i in np.argsort(-shares)[:5]]
        lines.append(f"text {row + 1}, token {column}: " + ", ".join(f"{token} {share:.3f}" for token, share in best))
        values.append(dict(best))
    return Answer(lines, values)


def _classes(exported: Exported, arguments: argparse.Namespace) -> Answer:
    logits = exported.run(_any_feed(exported, arguments))["logits"]
    names = exported.labels()
    values = []
    for shares in _softmax(logits):
        values.append({names.get(str(i), str(i)): float(shares[i]) for i in np.argsort(-shares)[:5]})
    return Answer([", ".join(f"{name} {share:.3f}" for name, share in row.items()) for row in values], values)


def _tokens(exported: Exported, arguments: argparse.Namespace) -> Answer:
    tokenizer = exported.load("AutoTokenizer")
    feed = _text_feed(exported, arguments, tokenizer)
    best = exported.run(feed)["logits"].argmax(axis=-1)
    names = exported.labels()
    values = [
        [(tokenizer.convert_ids_to_tokens(int(i)), names.get(str(k), str(k))) for i, k in zip(ids, row, strict=True)]
        for ids, row in zip(feed["input_ids"], best, strict=True)
    ]
    return Answer([" ".join(f"{token}/{name}" for token, name in row) for row in values], values)


def _span(exported: Exported, arguments: argparse.Namespace) -> Answer:
    if not arguments.question or not arguments.text:
        raise OptionError("give a --question and the --text that answers it")
    tokenizer = exported.load("AutoTokenizer")
    feed = _text_feed(exported, arguments, tokenizer)
    out = exported.run(feed)
    scores = out["start_logits"][0][:, None] + out["end_logits"][0][None, :]
    start, end = np.unravel_index(np.triu(scores - scores.min()).argmax(), scores.shape)
    text = tokenizer.decode(feed["input_ids"][0][start : end + 1])
    return Answer([text], {"answer": text, "start": int(start), "end": int(end)})


def _generate(exported: Exported, arguments: argparse.Namespace) -> Answer:
    """Generate greedily: with a cache where the graph has one, else from the whole text at every step."""
    tokenizer = None if arguments.input_ids else exported.load("AutoTokenizer")
    if len(arguments.text) > 1:
        raise OptionError("give one --text to continue")
    ids = _text_feed(exported, arguments, tokenizer)["input_ids"]
    config = json.loads((exported.directory / "config.json").read_text(encoding="utf-8"))
    ends = config.get("eos_token_id")
    ends = set(ends if isinstance(ends, list) else [ends]) | {getattr(tokenizer, "eos_token_id", None)}
    past = {v.name: v for v in exported.session.get_inputs() if v.name.startswith("past_key_values.")}
    cache: Arrays = {name: np.zeros(_empty(v.shape), dtype=_dtype(v.type)) for name, v in past.items()}
    step, made, length = ids, [], 0
    for _ in range(arguments.max_new_tokens):
        positions = np.arange(length, length + step.shape[1])[None]
        mask = np.ones((1, length + step.shape[1]), dtype=np.int64)
        out = exported.run({"input_ids": step, "attention_mask": mask, "position_ids": positions, **cache})
        token = int(out["logits"][0, -1].argmax())
        if token in ends:
            break
        made.append(token)
        new = np.array([[token]], dtype=np.int64)
        length = length + step.shape[1] if past else 0
        step = new if past else np.concatenate([step, new], axis=1)
        cache = {name: out[name.replace("past_key_values", "present")] for name in past}
    text = tokenizer.decode(made) if tokenizer else " ".join(map(str, made))
    return Answer([text], {"text": text, "tokens": made})


def _empty(shape: list[Any]) -> list[int]:
    """Return a cache's shape for one text and no past: its symbolic axes are batch, then past."""
    symbolic = [index for index, dim in enumerate(shape) if isinstance(dim, str)]
    return [dim if isinstance(dim, int) else (1 if index == symbolic[0] else 0) for index, dim in enumerate(shape)]


def _dtype(name: str) -> str:
    return "float16" if name == "tensor(float16)" else "float32"


def _shapes(exported: Exported, arguments: argparse.Namespace) -> Answer:
    out = exported.run(_any_feed(exported, arguments))
    shapes = {name: list(array.shape) for name, array in out.items()}
    return Answer([f"{name} {shape}" for name, shape in shapes.items()], shapes)


_ANSWERS: dict[str, Callable[[Exported, argparse.Namespace], Answer]] = {
    "feature-extraction": _embeddings,
    "fill-mask": _fill_mask,
    "text-classification": _classes,
    "image-classification": _classes,
    "audio-classification": _classes,
    "token-classification": _tokens,
    "question-answering": _span,
    "text-generation": _generate,
}
