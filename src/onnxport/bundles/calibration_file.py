"""`calibration.safetensors`: what `--calibration` measured, so that `onnxport validate` can quantize again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from onnxport.containment import inside
from onnxport.errors import CorruptCheckpointError
from onnxport.weights.expressions import Array

CALIBRATION_FILE = "calibration.safetensors"


def write_importance(directory: Path, importance: Mapping[str, Array]) -> None:
    """Write the weights of quantized layers' inputs; no file if there are none.

    Args:
        directory: an output directory.
        importance: full name of a parameter to the weight of each input of its layer, float32 `[inputs]`.
    """
    if not importance:
        return
    from safetensors.numpy import save_file

    save_file(dict(importance), directory / CALIBRATION_FILE)


def read_importance(directory: Path) -> dict[str, Array]:
    """Read the weights that `write_importance` wrote; empty without the file.

    Raises:
        CorruptCheckpointError: the file is damaged, or a link to one elsewhere.
    """
    file = inside(directory, directory / CALIBRATION_FILE)
    if not file.is_file():
        return {}
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptCheckpointError(f"{file} is damaged ({error}); export the model again") from error
