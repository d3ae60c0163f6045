"""The old import paths work after `import onnxport.compat`, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
