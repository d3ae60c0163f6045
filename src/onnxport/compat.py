"""Make `transformers.onnx` importable again: `import onnxport.compat`.

Afterwards, `import transformers.onnx` (and its submodules) returns `onnxport.onnx`, and
`from transformers.models.bert import BertOnnxConfig` works for every configuration class of 4.37.2, also from
`transformers.models.bert.configuration_bert`. Names are added to Transformers, and none is replaced. A finder in
`sys.meta_path` adds them when a module is imported, so that no model is imported up front. A folder that Transformers 5
no longer has (mega) contains only the old classes.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from onnxport.configs.model_types import MODEL_FOLDERS, load_config_class

_OLD, _NEW = "transformers.onnx", "onnxport.onnx"
_MODELS = "transformers.models."
_SEVERAL_FILES = {"data2vec": ("configuration_data2vec_text", "configuration_data2vec_vision")}
_GONE_FOLDERS = ("mega",)
"""Model folders of 4.37.2 that Transformers 5 doesn't have."""


class _Alias(Loader):
    """Load a module of `transformers.onnx` as the one of `onnxport.onnx`."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(_NEW + spec.name.removeprefix(_OLD))
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _Finder(MetaPathFinder):
    """Find `transformers.onnx`, and extend the modules of models with the old classes on import."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == _OLD or name.startswith(_OLD + "."):
            return ModuleSpec(name, _Alias(), is_package=name == _OLD)
        folder = name.removeprefix(_MODELS).split(".")[0] if name.startswith(_MODELS) else ""
        if name not in _modules_of(folder):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Extended(spec.loader, folder)
                return spec
        if folder in _GONE_FOLDERS:
            return ModuleSpec(name, _Extended(_Empty(), folder), is_package=name == _MODELS + folder)
        return None


class _Empty(Loader):
    """Load a module of a folder that Transformers 5 no longer has."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None: ...


class _Extended(Loader):
    """Load a module of a model's folder, then add the old configuration classes of that folder."""

    def __init__(self, loader: Loader, folder: str) -> None:
        self._loader = loader
        self._folder = folder

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _extend(sys.modules.get(module.__name__, module), self._folder)


def _modules_of(folder: str) -> tuple[str, ...]:
    """Return the modules of a model's folder that had its configuration classes in 4.37.2."""
    if folder not in MODEL_FOLDERS:
        return ()
    files = _SEVERAL_FILES.get(folder, (f"configuration_{folder}",))
    return (_MODELS + folder, *(f"{_MODELS}{folder}.{file}" for file in files))


def _extend(module: ModuleType, folder: str) -> None:
    for name in MODEL_FOLDERS[folder]:
        if name not in vars(module):
            setattr(module, name, load_config_class(name))


def _install() -> None:
    """Insert the finder, once, and extend the modules that are already imported."""
    if any(type(finder).__module__ == __name__ for finder in sys.meta_path):  # by name, which survives a reload
        return
    sys.meta_path.insert(0, _Finder())
    for folder in MODEL_FOLDERS:
        for name in _modules_of(folder):
            if name in sys.modules:
                _extend(sys.modules[name], folder)


_install()
