"""`Predictor` predicts what a model does for each row alone, in one process and on a Ray cluster of several."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxport
from conformance.checkpoints import make_checkpoint
from conformance.matrix.tiny import checkpoint_of
from onnxport import ExportOptions
from onnxport.errors import OptionError, UnsupportedError
from onnxport.ray import Predictor, run_tasks
from onnxport.ray._columns import TextColumn
from onnxport.runtime.directory import Directory
from onnxport.runtime.light import LightModel
from onnxport.runtime.tokenizer import DirectoryTokenizer
from tests.integration.dying_workers import DyingPredictor, killed_once
from tests.integration.tiny_models import audio, exported, image, wav2vec2, whisper

TEXTS = ["a", "one two three", "the quick brown fox jumps over", "", "two words", "x y z"]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def embedder(parent: Path) -> Path:
    return exported(make_checkpoint("bert", "default", parent), "feature-extraction")


@pytest.fixture(scope="module")
def classifier(parent: Path) -> Path:
    return exported(make_checkpoint("bert", "sequence-classification", parent), "text-classification")


def column(*values: Any) -> np.ndarray:
    """Return a column of any values."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def test_an_embedding_is_that_of_the_text_alone(embedder: Path) -> None:
    predict = Predictor(embedder, "title", batch_size=4)
    found = predict({"title": column(*TEXTS), "id": np.arange(len(TEXTS))})
    assert list(found) == ["title", "id", "embedding"]
    assert found["embedding"].dtype == np.float32
    model, tokenizer = LightModel(Directory(embedder)), DirectoryTokenizer(Directory(embedder))
    for text, embedding in zip(TEXTS, found["embedding"], strict=True):
        states = model(input_ids=tokenizer.encode([text])["input_ids"])["last_hidden_state"]
        np.testing.assert_allclose(embedding, states[0].mean(axis=0), atol=1e-5)
    longer = "a text of more tokens than the model has positions" * 3
    both = predict({"title": column(longer, longer + " and its end")})["embedding"]
    np.testing.assert_allclose(both[0, :8], both[1, :8], atol=1e-5)


def test_a_long_text_is_no_padding_of_short_ones(embedder: Path) -> None:
    texts = ["one two", "one " * 12, *["one two"] * 60, "three"]
    sizes = [feed["input_ids"].shape for _, feed in TextColumn(Directory(embedder)).runs(texts, 32)]
    longest = max(length for _, length in sizes)
    assert (1, longest) in sizes, "the long text is computed alone"
    assert sum(rows for rows, _ in sizes) == len(texts)
    assert max(rows for rows, _ in sizes) <= 32
    assert len(sizes) == 3, "texts of one length aren't cut in more runs than needed"


def test_labels_are_those_of_the_pipeline(classifier: Path) -> None:
    found = Predictor(classifier, "text", batch_size=4)({"text": column(*TEXTS)})
    for expected, label, score in zip(
        onnxport.pipeline("text-classification", classifier)(TEXTS, truncation=True),
        found["label"], found["score"], strict=True,
    ):  # fmt: skip
        assert label == expected["label"]
        assert score == pytest.approx(expected["score"], abs=1e-4)


def test_images_are_classified_from_arrays_and_files(parent: Path) -> None:
    checkpoint, _ = checkpoint_of("vit", "image-classification", parent)
    directory = exported(checkpoint, "image-classification")
    picture = image()
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    rows = column(np.asarray(picture), buffer.getvalue(), np.asarray(picture.convert("L")))
    found = Predictor(directory, "image", batch_size=2)({"image": rows})
    pipe = onnxport.pipeline("image-classification", directory)
    expected = [pipe(shown)[0] for shown in (picture, picture, picture.convert("L").convert("RGB"))]
    assert found["label"].tolist() == [value["label"] for value in expected]
    np.testing.assert_allclose(found["score"], [value["score"] for value in expected], atol=1e-4)
    with pytest.raises(OptionError, match=r"row 1 of column .image. is no image .*leave the row out"):
        Predictor(directory, "image")({"image": column(np.asarray(picture), b"no image")})
    with pytest.raises(OptionError, match="8-bit values are required"):
        Predictor(directory, "image")({"image": column(np.zeros((4, 4, 3), np.float32))})


def test_images_and_texts_of_a_dual_encoder(parent: Path) -> None:
    checkpoint, _ = checkpoint_of("clip", "feature-extraction", parent)
    directory = parent / "clip-onnx"
    onnxport.export(checkpoint, directory, ExportOptions(split_encoders=True, validate="none"))
    images = Predictor(directory, "image", kind="image")({"image": column(np.asarray(image()))})["embedding"]
    texts = Predictor(directory, "text", kind="text")({"text": column("a", "b c")})["embedding"]
    assert (images.shape[0], texts.shape[0]) == (1, 2)
    assert images.shape[1] == texts.shape[1]
    with pytest.raises(OptionError, match="takes text and image: name one with kind="):
        Predictor(directory, "text")


def test_audio_is_classified_and_resampled(parent: Path) -> None:
    directory = exported(wav2vec2(parent, "SequenceClassification"), "audio-classification")
    clip = audio(1.0)
    found = Predictor(directory, "clip")({"clip": column(clip, np.stack([clip, clip]))})
    expected = onnxport.pipeline("audio-classification", directory)(clip)[0]
    assert found["label"].tolist() == [expected["label"]] * 2
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-4)
    fast = Predictor(directory, "clip", sampling_rate=32_000)({"clip": column(audio(1.0, 32_000))})
    assert fast["score"][0] == pytest.approx(expected["score"], abs=0.05)
    with pytest.raises(OptionError, match="row 0 of column 'clip' is no audio"):
        Predictor(directory, "clip")({"clip": column(np.zeros(0))})


def test_speech_is_transcribed(parent: Path) -> None:
    directory = exported(whisper(parent), "automatic-speech-recognition-with-past")
    settings = directory / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "max_length": 16}))
    clips = [audio(1.0), audio(0.5)]
    found = Predictor(directory, "clip")({"clip": column(*clips)})
    pipe = onnxport.pipeline("automatic-speech-recognition", directory)
    assert found["transcription"].tolist() == [pipe(clip)["text"] for clip in clips]


def test_what_a_predictor_refuses(embedder: Path) -> None:
    with pytest.raises(OptionError, match="batch_size 0"):
        Predictor(embedder, "text", batch_size=0)
    with pytest.raises(OptionError, match=r"kind 'image': .* takes text$"):
        Predictor(embedder, "image", kind="image")


def test_batches_that_a_predictor_refuses(embedder: Path, parent: Path) -> None:
    predict = Predictor(embedder, "text")
    with pytest.raises(OptionError, match="no column 'text', only 'body'"):
        predict({"body": column("a")})
    with pytest.raises(OptionError, match="row 1 of column 'text' is no text"):
        predict({"text": column("a", None)})
    with pytest.raises(OptionError, match="has a column 'embedding' already"):
        predict({"text": column("a"), "embedding": column(1)})
    masked = exported(make_checkpoint("bert", "masked-lm", parent), "fill-mask")
    with pytest.raises(UnsupportedError, match="exported for fill-mask: Predictor computes embeddings"):
        Predictor(masked, "text")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a cluster of two workers on this machine."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed"))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        ray.shutdown()


# Ray Data 2.60 sets options in its own constructor that it calls deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")
def test_a_killed_worker_loses_no_rows(embedder: Path, cluster: Any, tmp_path: Path) -> None:
    rows = [{"id": index, "text": f"{TEXTS[index % len(TEXTS)]} {index}"} for index in range(48)]
    dataset = cluster.data.from_items(rows, override_num_blocks=6)
    named = {"directory": str(embedder), "column": "text"}
    found = dataset.map_batches(DyingPredictor, fn_constructor_kwargs=named, concurrency=2, batch_size=8).take_all()
    assert (tmp_path / "killed").exists()
    assert sorted(row["id"] for row in found) == list(range(48))
    alone = Predictor(embedder, "text")({"text": column(*(row["text"] for row in rows))})["embedding"]
    for row in found:
        np.testing.assert_allclose(row["embedding"], alone[row["id"]], atol=1e-5)


def test_a_killed_task_is_repeated_and_checkpoints_are_exported(cluster: Any, tmp_path: Path) -> None:
    assert sorted(run_tasks(killed_once, [(str(tmp_path / "killed"), number) for number in range(4)], "auto")) == [
        0,
        1,
        2,
        3,
    ]
    checkpoint = make_checkpoint("bert", "masked-lm", tmp_path)
    options = ExportOptions(validate="none")
    for status in ("exported", "kept"):
        (record,) = onnxport.export_all([str(checkpoint)], tmp_path / "out", options, ray="auto")
        assert (record.status, record.error) == (status, "")
    assert onnxport.verify(tmp_path / "out" / checkpoint.name).problems == ()
