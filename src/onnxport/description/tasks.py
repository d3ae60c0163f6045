"""The tasks, their names, and the Auto classes that load a model for each.

A task has a canonical name (that of Transformers' pipeline, if there is one), the feature name of 4.37.2, and aliases.
The suffix `-with-past` on any of these names adds the KV cache to the graph.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from onnxport.errors import UnsupportedError

PAST_SUFFIX = "-with-past"
SENTENCE_SIMILARITY, TEXT_RANKING = "sentence-similarity", "text-ranking"
MODULE_TASKS = (SENTENCE_SIMILARITY, TEXT_RANKING)
"""The tasks of sentence-transformers directories, whose modules are part of the graph: embeddings; scores of pairs."""
TEXT_ENCODING = "text-encoding"
"""The task of encoders of text, also of that of an encoder-decoder."""
ARCHITECTURE = "architecture"
"""The task of a class that no Auto class lists: `config.json` names it, and the graph has all of its outputs."""


@dataclass(frozen=True)
class Task:
    """Describe one task.

    Attributes:
        name: canonical name: that of Transformers' pipeline, if there is one.
        feature: feature name in `transformers.onnx` 4.37.2, or the closest equivalent.
        auto_classes: Auto classes of Transformers 5 that load a model for it; the first that supports it is used.
        aliases: other names that users may pass.
        with_past: whether the graph has the KV cache as inputs and outputs.
    """

    name: str
    feature: str
    auto_classes: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    with_past: bool = False

    @property
    def full_name(self) -> str:
        """Canonical name, with the suffix of `with_past`."""
        return self.name + PAST_SUFFIX * self.with_past

    @property
    def full_feature(self) -> str:
        """Feature name of 4.37.2, with the suffix of `with_past`."""
        return self.feature + PAST_SUFFIX * self.with_past

    def past(self, with_past: bool = True) -> Task:
        """Return the same task with or without the KV cache."""
        return Task(self.name, self.feature, self.auto_classes, self.aliases, with_past)


TASKS: tuple[Task, ...] = (
    Task("fill-mask", "masked-lm", ("AutoModelForMaskedLM",)),
    Task("text-generation", "causal-lm", ("AutoModelForCausalLM",)),
    Task("text2text-generation", "seq2seq-lm", ("AutoModelForSeq2SeqLM",), ("summarization", "translation")),
    Task(
        "text-classification",
        "sequence-classification",
        ("AutoModelForSequenceClassification",),
        ("sentiment-analysis", "zero-shot-classification"),
    ),
    Task("token-classification", "token-classification", ("AutoModelForTokenClassification",), ("ner",)),
    Task("question-answering", "question-answering", ("AutoModelForQuestionAnswering",)),
    Task("multiple-choice", "multiple-choice", ("AutoModelForMultipleChoice",)),
    Task("next-sentence-prediction", "next-sentence-prediction", ("AutoModelForNextSentencePrediction",)),
    Task("image-classification", "image-classification", ("AutoModelForImageClassification",)),
    Task("object-detection", "object-detection", ("AutoModelForObjectDetection",)),
    Task(
        "image-segmentation",
        "image-segmentation",
        ("AutoModelForImageSegmentation", "AutoModelForUniversalSegmentation", "AutoModelForInstanceSegmentation"),
        ("universal-segmentation", "instance-segmentation"),
    ),
    Task("semantic-segmentation", "semantic-segmentation", ("AutoModelForSemanticSegmentation",)),
    Task("depth-estimation", "depth-estimation", ("AutoModelForDepthEstimation",)),
    Task("masked-im", "masked-im", ("AutoModelForMaskedImageModeling",), ("masked-image-modeling",)),
    Task("image-to-text", "vision2seq-lm", ("AutoModelForImageTextToText",), ("image-text-to-text",)),
    Task(
        "automatic-speech-recognition",
        "speech2seq-lm",
        ("AutoModelForSpeechSeq2Seq", "AutoModelForCTC", "AutoModelForRNNT", "AutoModelForTDT"),
        ("ctc",),
    ),
    Task("audio-text-to-text", "audio-text-to-text", ("AutoModelForMultimodalLM",)),
    Task("audio-classification", "audio-classification", ("AutoModelForAudioClassification",)),
    Task("audio-frame-classification", "audio-frame-classification", ("AutoModelForAudioFrameClassification",)),
    Task("audio-xvector", "audio-xvector", ("AutoModelForAudioXVector",)),
    Task(
        "zero-shot-image-classification",
        "zero-shot-image-classification",
        ("AutoModelForZeroShotImageClassification",),
    ),
    Task("zero-shot-object-detection", "zero-shot-object-detection", ("AutoModelForZeroShotObjectDetection",)),
    Task(
        "text-to-audio",
        "text-to-audio",
        ("AutoModelForTextToWaveform", "AutoModelForTextToSpectrogram"),
        ("text-to-speech",),
    ),
    Task("mask-generation", "mask-generation", ("AutoModelForMaskGeneration",)),
    Task("keypoint-detection", "keypoint-detection", ("AutoModelForKeypointDetection",)),
    Task("keypoint-matching", "keypoint-matching", ("AutoModelForKeypointMatching",)),
    Task("pose-estimation", "pose-estimation", ("AutoModelForPoseEstimation",)),
    Task("normal-estimation", "normal-estimation", ("AutoModelForNormalEstimation",)),
    Task("pointmap-estimation", "pointmap-estimation", ("AutoModelForPointmapEstimation",)),
    Task("image-matting", "image-matting", ("AutoModelForImageMatting",)),
    Task("image-to-image", "image-to-image", ("AutoModelForImageToImage",)),
    Task("video-classification", "video-classification", ("AutoModelForVideoClassification",)),
    Task("text-recognition", "text-recognition", ("AutoModelForTextRecognition",)),
    Task("table-recognition", "table-recognition", ("AutoModelForTableRecognition",)),
    Task("visual-question-answering", "visual-question-answering", ("AutoModelForVisualQuestionAnswering",), ("vqa",)),
    Task("document-question-answering", "document-question-answering", ("AutoModelForDocumentQuestionAnswering",)),
    Task("table-question-answering", "table-question-answering", ("AutoModelForTableQuestionAnswering",)),
    Task("audio-tokenization", "audio-tokenization", ("AutoModelForAudioTokenization",)),
    Task(
        "time-series-prediction",
        "time-series-prediction",
        ("AutoModelForTimeSeriesPrediction",),
        ("time-series-forecasting",),
    ),
    Task("feature-extraction", "default", ("AutoModel",), ("image-feature-extraction",)),
    Task(TEXT_ENCODING, TEXT_ENCODING, ("AutoModelForTextEncoding",)),
    Task("backbone", "backbone", ("AutoBackbone",)),
    Task(ARCHITECTURE, ARCHITECTURE, ()),
    Task(SENTENCE_SIMILARITY, SENTENCE_SIMILARITY, ("AutoModel", "AutoModelForTextEncoding")),
    Task(TEXT_RANKING, TEXT_RANKING, ()),
)
"""All tasks, heads before the base model: inference from `architectures` takes the first match.

The last two are never inferred from a class: they require the modules of a sentence-transformers directory."""

LABELLED = frozenset(
    (
        *("text-classification", "token-classification", "image-classification", "video-classification"),
        *("audio-classification", "audio-frame-classification", "object-detection", "image-segmentation"),
        *("semantic-segmentation", "visual-question-answering"),
    )
)
"""Tasks whose outputs are scores of the labels in the configuration's `id2label`."""

TEXT_TASKS = frozenset(
    (
        *("fill-mask", "text-generation", "text2text-generation", "text-classification", "token-classification"),
        *("question-answering", "multiple-choice", "next-sentence-prediction", TEXT_ENCODING),
    )
)
"""Tasks whose inputs are text alone, also for a model that takes images or audio."""

_BY_NAME = {name: task for task in TASKS for name in (task.name, task.feature, *task.aliases)}


def canonical_task(name: str) -> Task:
    """Find a task by any of its names.

    Args:
        name: canonical name, feature name of 4.37.2 or alias, each optionally with `-with-past`.

    Raises:
        UnsupportedError: no task has this name.
    """
    base = name.removesuffix(PAST_SUFFIX)
    task = _BY_NAME.get(base)
    if task is None:
        near = difflib.get_close_matches(base, _BY_NAME, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        known = ", ".join(sorted(task.name for task in TASKS))
        raise UnsupportedError(f"task {name!r} is unknown: {hint}Tasks: {known}")
    return task.past(base != name)
