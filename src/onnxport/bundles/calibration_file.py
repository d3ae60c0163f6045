"""`calibration.safetensors`: what `--calibration` measured, so that `onnxport validate` can quantize again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxport.containment import inside
from onnxport.errors import CorruptCheckpointError
from onnxport.options import FloatDtype
from onnxport.weights.expressions import Array

CALIBRATION_FILE = "calibration.safetensors"


def write_importance(directory: Path, importance: Mapping[FloatDtype, Mapping[str, Array]]) -> None:
    """Write what was measured of quantized layers' inputs; no file if nothing was.

    Args:
        directory: an output directory.
        importance: type of activations to the full name of a weight to the mean square of each input of its layer,
            float32 `[inputs]`.
    """
    if not importance:
        return
    from safetensors.numpy import save_file

    named = {f"{dtype}.{name}": array for dtype, arrays in importance.items() for name, array in arrays.items()}
    save_file(named, directory / CALIBRATION_FILE)


def read_importance(directory: Path, dtype: FloatDtype) -> dict[str, Array]:
    """Read what `write_importance` wrote for a type of activations; empty without the file.

    Raises:
        CorruptCheckpointError: the file is damaged, or a link to one elsewhere.
    """
    file = inside(directory, directory / CALIBRATION_FILE)
    if not file.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        named = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptCheckpointError(f"{file} is damaged ({error}); export the model again") from error
    start = f"{dtype}."
    return {name.removeprefix(start): array for name, array in named.items() if name.startswith(start)}
