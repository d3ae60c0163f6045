"""Make a graph's inputs from the columns of a batch: texts by length, images, and audio."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.description.image_processing import IMAGES
from onnxport.description.lengths import positions_in
from onnxport.errors import MissingDependencyError, OptionError
from onnxport.runtime.directory import Directory
from onnxport.runtime.prompts import load_required
from onnxport.runtime.raw_images import raw_images
from onnxport.runtime.tokenizer import DirectoryTokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

Run = tuple[list[int], dict[str, "NDArray[Any]"]]
"""Indices of rows, and the inputs of the graph for them."""
_TOKENS_OF_A_RUN = 32
"""How many tokens take as long as what a run costs beside its tokens, on a CPU: about 22 for MiniLM on one thread,
where 64 tokens take 12.1 ms, and many tokens 0.14 ms each (ONNX Runtime 1.32)."""


class Column:
    """Read a column of inputs.

    Attributes:
        kind: `text`, `image` or `audio`.
        inputs: names of inputs that a graph for this kind has.

    Args:
        directory: the exported directory.
        sampling_rate: samples per second in a column of audio.
    """

    kind: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]

    def __init__(self, directory: Directory, sampling_rate: int | None = None) -> None:
        self._directory, self._sampling_rate = directory, sampling_rate

    def read(self, column: Sequence[Any] | NDArray[Any], name: str) -> list[Any]:
        """Return the value of each row.

        Args:
            column: the entries of the rows.
            name: the column's name.

        Raises:
            OptionError: an entry can't be read.
        """
        values = []
        for row, entry in enumerate(column):
            try:
                values.append(self._value(entry))
            except (TypeError, ValueError, OSError) as error:
                raise OptionError(
                    f"row {row} of column {name!r} is no {self.kind} ({type(entry).__name__}: {error}); correct it, or "
                    "leave the row out"
                ) from error
        return values

    def runs(self, values: Sequence[Any], batch_size: int) -> Iterator[Run]:
        """Yield the inputs of the graph for the rows, some at a time.

        Args:
            values: result of `read`.
            batch_size: the largest number of rows in one run.
        """
        for part in _full_runs(len(values), batch_size):
            yield list(range(part.start, part.stop)), self._inputs(list(values[part]))

    def _value(self, entry: Any) -> Any:
        raise NotImplementedError

    def _inputs(self, values: list[Any]) -> dict[str, NDArray[Any]]:
        raise NotImplementedError


class TextColumn(Column):
    """Read texts; those of similar length are run together."""

    kind = "text"
    inputs = ("input_ids",)

    def __init__(self, directory: Directory, sampling_rate: int | None = None) -> None:
        super().__init__(directory, sampling_rate)
        self._tokenizer = DirectoryTokenizer(directory)
        self._longest, self._prefix = _max_length(directory), _default_prompt(directory)

    def runs(self, values: Sequence[Any], batch_size: int) -> Iterator[Run]:
        """Yield the inputs of the graph, the longest texts first."""
        rows = self._tokenizer.encode_each([self._prefix + text for text in values], self._longest)
        order = sorted(range(len(rows)), key=lambda row: -len(rows[row].ids))
        lengths = [len(rows[row].ids) for row in order]
        on_cpu = self._directory.settings.device_type == "cpu"  # a GPU computes few rows no faster than many
        for part in _least_padding(lengths, batch_size) if on_cpu else _full_runs(len(order), batch_size):
            chosen = order[part]
            feed = self._tokenizer.pad([rows[row] for row in chosen])
            yield chosen, {name: array for name, array in feed.items() if name in self._directory.input_names}

    def _value(self, entry: Any) -> str:
        if not isinstance(entry, str):
            raise TypeError("a string is required")
        return entry


def _full_runs(rows: int, batch_size: int) -> list[slice]:
    """Return runs of `batch_size` rows, and one of the rest."""
    return [slice(start, min(start + batch_size, rows)) for start in range(0, rows, batch_size)]


def _least_padding(lengths: Sequence[int], batch_size: int) -> list[slice]:
    """Return the runs that compute the fewest tokens, padding included.

    Args:
        lengths: number of tokens of each text, the longest first.
        batch_size: the largest number of texts in one run.
    """
    sizes = np.asarray(lengths, np.float64)
    tokens, starts = np.zeros(len(sizes) + 1), np.zeros(len(sizes) + 1, np.int64)
    for stop in range(1, len(sizes) + 1):  # the best runs of the texts before `stop`, by where the last run starts
        start = np.arange(max(0, stop - batch_size), stop)
        total = tokens[start] + (stop - start) * sizes[start] + _TOKENS_OF_A_RUN
        starts[stop], tokens[stop] = start[total.argmin()], total.min()
    runs: list[slice] = []
    stop = len(sizes)
    while stop:
        runs.append(slice(int(starts[stop]), stop))
        stop = runs[-1].start
    return runs[::-1]


def _max_length(directory: Directory) -> int | None:
    """Return the number of tokens to truncate texts to, as Transformers or sentence-transformers does."""
    found = (
        directory.read("tokenizer_config.json").get("model_max_length"),
        directory.read("sentence_bert_config.json").get("max_seq_length"),
        *positions_in(directory.config),
    )
    return min((int(length) for length in found if isinstance(length, int | float) and length > 0), default=None)


def _default_prompt(directory: Directory) -> str:
    """Return the text that sentence-transformers puts before each text by default."""
    settings = directory.read("config_sentence_transformers.json")
    return str((settings.get("prompts") or {}).get(settings.get("default_prompt_name"), ""))


class ImageColumn(Column):
    """Read images."""

    kind = "image"
    inputs = ("pixel_values", IMAGES)

    def __init__(self, directory: Directory, sampling_rate: int | None = None) -> None:
        super().__init__(directory, sampling_rate)
        takes_files = IMAGES in directory.input_names
        self._processor = None if takes_files else load_required("AutoImageProcessor", directory)

    def _value(self, entry: Any) -> Any:
        from PIL import Image

        if isinstance(entry, bytes):
            return Image.open(io.BytesIO(entry)).convert("RGB")
        pixels = np.asarray(entry)
        if pixels.dtype != np.uint8:
            raise TypeError(f"8-bit values are required, not {pixels.dtype}")
        return Image.fromarray(pixels).convert("RGB")

    def _inputs(self, values: list[Any]) -> dict[str, NDArray[Any]]:
        if self._processor is None:
            return {IMAGES: raw_images(values)}
        features = self._processor(images=values, return_tensors="pt")
        return {name: np.asarray(value) for name, value in features.items() if name in self._directory.input_names}


class AudioColumn(Column):
    """Read audio."""

    kind = "audio"
    inputs = ("input_values", "input_features")

    def __init__(self, directory: Directory, sampling_rate: int | None = None) -> None:
        super().__init__(directory, sampling_rate)
        self._extractor = load_required("AutoFeatureExtractor", directory)

    def _value(self, entry: Any) -> NDArray[np.float32]:
        samples = np.asarray(entry, dtype=np.float32)
        samples = samples.mean(axis=0) if samples.ndim > 1 else samples
        if not samples.size:
            raise ValueError("it has no samples")
        rate = self._sampling_rate or self._extractor.sampling_rate
        return (
            samples
            if rate == self._extractor.sampling_rate
            else _resampled(samples, rate, self._extractor.sampling_rate)
        )

    def _inputs(self, values: list[Any]) -> dict[str, NDArray[Any]]:
        rate = self._extractor.sampling_rate
        features = self._extractor(values, sampling_rate=rate, padding=True, return_tensors="np")
        return {name: np.asarray(value) for name, value in features.items() if name in self._directory.input_names}


def _resampled(samples: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    def missing(error: Exception) -> MissingDependencyError:
        return MissingDependencyError(
            f"audio of {rate} Hz for a model of {wanted} Hz needs soxr: pip install 'onnxport[audio]'"
        )

    with translating(missing):
        import soxr
    return np.asarray(soxr.resample(samples, rate, wanted, quality="VHQ"), dtype=np.float32)
