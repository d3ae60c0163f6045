"""Load a user's description, such as an edited one that `onnxport describe --python` printed."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport.configs._base import OnnxConfig
from onnxport.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_FUNCTION = "make_config"


def load_user_config(path: str, config: PreTrainedConfig) -> OnnxConfig:
    """Run a user's Python file and return the description that its `make_config` returns.

    Args:
        path: a Python file with a function `make_config(config)`.
        config: the model's configuration.

    Raises:
        OptionError: the file doesn't exist or fails, or `make_config` doesn't return an `OnnxConfig`.
    """
    if not Path(path).is_file():
        raise OptionError(f"--description {path!r} isn't a file: name the Python file that describes the model")

    def incorrect(error: Exception) -> OptionError:
        return OptionError(f"--description {path}: {type(error).__name__}: {error}; correct that file")

    with translating(incorrect):
        make_config: Any = runpy.run_path(path).get(_FUNCTION)
        described = make_config(config) if callable(make_config) else None
    if not isinstance(described, OnnxConfig):
        returned = f"{_FUNCTION} returns a {type(described).__name__}"
        found = returned if callable(make_config) else f"it has no function {_FUNCTION}"
        raise OptionError(
            f"--description {path}: {found}; define {_FUNCTION}(config) that returns an onnxport.onnx.OnnxConfig, as "
            "onnxport describe --python prints it"
        )
    return described
