"""Load a description that a user wrote, or that `onnxport describe --python` printed and a user edited."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport._foreign_errors import translating
from onnxport.configs._base import OnnxConfig
from onnxport.errors import OptionError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MAKER = "make_config"


def load_user_config(path: str, config: PreTrainedConfig) -> OnnxConfig:
    """Run a user's module, and describe a model with what it defines.

    Args:
        path: a Python file with a function `make_config(config)`.
        config: the model's configuration.

    Raises:
        OptionError: there is no such file, it can't be run, or what it makes isn't an `OnnxConfig`.
    """
    if not Path(path).is_file():
        raise OptionError(f"--description {path!r} isn't a file: name the Python file that describes the model")

    def incorrect(error: Exception) -> OptionError:
        return OptionError(f"--description {path}: {type(error).__name__}: {error}; correct that file")

    with translating(incorrect):
        maker: Any = runpy.run_path(path).get(_MAKER)
        made = maker(config) if callable(maker) else None
    if not isinstance(made, OnnxConfig):
        found = f"{_MAKER} returns a {type(made).__name__}" if callable(maker) else f"it has no function {_MAKER}"
        raise OptionError(
            f"--description {path}: {found}; define {_MAKER}(config) that returns an onnxport.onnx.OnnxConfig, as "
            "onnxport describe --python prints it"
        )
    return made
