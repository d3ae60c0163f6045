"""The old import paths work after `import onnxport.compat`, each in a new interpreter."""

from __future__ import annotations

import pytest

from tests.forked import run_code


def run(code: str) -> str:
    return run_code(code).stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "from transformers.onnx import OnnxConfig, FeaturesManager, export; import onnxport.onnx as o; "
        "assert export is o.export and OnnxConfig is o.OnnxConfig",
        "import transformers.onnx; assert transformers.onnx.config.DEFAULT_ONNX_OPSET == 11",
        "from transformers.onnx.utils import compute_effective_axis_dimension as f; assert f(-1, 8, 2) == 6",
        "from transformers.models.bert import BertOnnxConfig, BertConfig; "
        "assert list(BertOnnxConfig(BertConfig()).inputs)[0] == 'input_ids'",
        "from transformers.models.big_bird.configuration_big_bird import BigBirdOnnxConfig",
    ],
)
def test_old_imports_work(statement: str) -> None:
    run(f"import onnxport.compat; {statement}")


def test_modules_imported_before_are_extended() -> None:
    run("import transformers.models.gpt2; import onnxport.compat; from transformers.models.gpt2 import GPT2OnnxConfig")


def test_without_compat_nothing_changes() -> None:
    code = "import onnxport, importlib.util as u; print(u.find_spec('transformers.onnx'))"
    assert run(code) == "None"


@pytest.mark.parametrize(
    "statement",
    [
        "from transformers.models.mega import MegaOnnxConfig",
        "from transformers.models.mega.configuration_mega import MegaOnnxConfig",
        "from transformers.models.data2vec.configuration_data2vec_text import Data2VecTextOnnxConfig",
        "from transformers.models.data2vec.configuration_data2vec_vision import Data2VecVisionOnnxConfig",
    ],
)
def test_folders_that_were_moved_or_removed(statement: str) -> None:
    run(f"import onnxport.compat; {statement}")


def test_every_old_class_is_in_its_folder() -> None:
    code = (
        "import onnxport.compat, importlib; from onnxport.configs.model_types import MODEL_FOLDERS\n"
        "for folder, names in MODEL_FOLDERS.items():\n"
        "    module = importlib.import_module(f'transformers.models.{folder}')\n"
        "    assert all(hasattr(module, name) for name in names), folder\n"
    )
    run(code)


def test_installing_twice_changes_nothing() -> None:
    run(
        "import sys, importlib, onnxport.compat; before = list(sys.meta_path); importlib.reload(onnxport.compat); "
        "assert len(sys.meta_path) == len(before); import transformers.onnx"
    )


def test_a_missing_submodule_is_still_missing() -> None:
    code = "import onnxport.compat\ntry: import transformers.onnx.nothing\nexcept ModuleNotFoundError: print('missing')"
    assert run(code) == "missing"
