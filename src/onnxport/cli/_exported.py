"""An exported directory that is open to be run: its graph, its settings, its tokenizer or processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import CheckpointNotFoundError, OnnxportError, OptionError, UnsupportedError, ValidationError
from onnxport.runtime.directory import Directory
from onnxport.runtime.graph import DTYPES

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]

_FATAL = 4


@dataclass(frozen=True)
class Exported:
    """Hold an opened directory.

    Attributes:
        directory: what an export wrote.
        session: its graph, or the one of several that takes the inputs, in ONNX Runtime.
    """

    directory: Directory
    session: onnxruntime.InferenceSession

    @property
    def inputs(self) -> dict[str, Any]:
        """The graph's inputs by name; each has `shape` and `type`."""
        return {value.name: value for value in self.session.get_inputs()}

    def label(self, index: int) -> str:
        """Name a class as the model's configuration does."""
        return str((self.directory.config.get("id2label") or {}).get(str(index), index))

    def load(self, auto_class: str) -> Any:
        """Load a preprocessor of the directory by the name of its Auto class; code in the directory never runs.

        Raises:
            CheckpointNotFoundError: the directory has none.
        """
        import transformers

        lacking = f"{self.directory.path} has nothing that {auto_class} loads"
        instead = "text models take token numbers with --input-ids, too"
        try:
            loaded = getattr(transformers, auto_class).from_pretrained(
                self.directory.path, trust_remote_code=False, local_files_only=True
            )
        except Exception as error:  # each tokenizer and processor class fails in its own way on what isn't there
            raise CheckpointNotFoundError(f"{lacking} ({type(error).__name__}: {error}); {instead}") from error
        # Without any vocabulary, Transformers 5 makes a tokenizer that knows only its special tokens.
        names = sorted(set((getattr(loaded, "vocab_files_names", None) or {}).values()))
        if names and not any((self.directory.path / name).is_file() for name in names):
            raise CheckpointNotFoundError(f"{lacking} (no {' or '.join(names)}); {instead}")
        return loaded

    def run(self, feed: Mapping[str, Any]) -> Arrays:
        """Run the graph with those of its inputs that `feed` has; plain ones that it lacks are made up.

        Returns:
            The outputs by name; floating point ones as float32.

        Raises:
            OptionError: an input that the model needs is missing.
            UnsupportedError: it needs the cache of an encoder.
            ValidationError: ONNX Runtime refuses.
        """
        import onnxruntime

        wanted = self.inputs
        complete = self._completed(feed)
        missing = sorted(wanted.keys() - complete.keys())
        if missing:
            raise OptionError(f"the graph needs {', '.join(missing)}, which these options don't give")
        names = [value.name for value in self.session.get_outputs()]
        options = onnxruntime.RunOptions()
        options.log_severity_level = _FATAL  # its errors come as exceptions, which are shown
        try:
            typed = {name: _typed(name, complete[name], value.type) for name, value in wanted.items()}
            results = self.session.run(names, typed, options)
        except OnnxportError:
            raise
        except Exception as error:  # the runtime has no public base class for its errors
            raise ValidationError(
                f"ONNX Runtime can't run {self.directory.manifest.components[0].file}: {error}"
            ) from error
        return {name: _readable(result) for name, result in zip(names, results, strict=True)}

    def _completed(self, feed: Mapping[str, Any]) -> Arrays:
        """Add masks of ones, types of zeros, positions in order, a decoder's first token and empty caches."""
        full = {name: np.asarray(array) for name, array in feed.items()}
        if "decoder_input_ids" in self.inputs and full:
            batch = len(next(iter(full.values())))
            full.setdefault(
                "decoder_input_ids", np.full((batch, 1), self.directory.decoder_start_token_id, dtype=np.int64)
            )
        for prefix in ("", "decoder_"):
            ids = full.get(f"{prefix}input_ids")
            if ids is not None:
                full.setdefault(f"{prefix}attention_mask", np.ones_like(ids))
                full.setdefault(f"{prefix}token_type_ids", np.zeros_like(ids))
                full.setdefault(f"{prefix}position_ids", np.broadcast_to(np.arange(ids.shape[-1]), ids.shape))
        for name, value in self.inputs.items():
            if name.startswith("past_key_values.") and name not in full and full:
                batch = len(next(iter(full.values())))
                full[name] = np.zeros(_empty_cache(name, value.shape, batch), dtype=DTYPES.get(value.type, "float32"))
        return full


def open_exported(directory: Directory) -> Exported:
    """Open the graph of a directory with one.

    Raises:
        UnsupportedError: it holds several graphs.
        ValidationError: ONNX Runtime refuses the graph.
    """
    from onnxport.validation.prove import open_session

    files = [component.file for component in directory.manifest.components]
    if len(files) != 1:
        raise UnsupportedError(
            f"{directory.path} holds several graphs ({', '.join(files)}); onnxport run tries directories with one"
        )
    return Exported(directory, open_session(directory.path / files[0]))


def _empty_cache(name: str, shape: list[Any], batch: int) -> list[int]:
    """Return the shape of a cache that holds nothing: the batch as it is, all other open axes 0.

    Raises:
        UnsupportedError: it is what the encoder said, which can't be nothing.
    """
    if ".encoder." in name:
        raise UnsupportedError(
            "the graph goes on from an earlier step's cache, which onnxport run doesn't have; "
            "to try the model, export it without -with-past in --task"
        )
    symbolic = [index for index, dim in enumerate(shape) if not isinstance(dim, int)]
    return [dim if isinstance(dim, int) else (batch if index == symbolic[0] else 0) for index, dim in enumerate(shape)]


def _typed(name: str, array: NDArray[Any], kind: str) -> NDArray[Any]:
    if kind not in DTYPES:
        raise OptionError(f"input {name} is a {kind}, which onnxport run can't make")
    return np.ascontiguousarray(array, dtype=DTYPES[kind])


def _readable(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.kind == "f" else array
