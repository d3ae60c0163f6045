"""The public names of the package, whatever is imported first."""

from __future__ import annotations

import pytest

import onnxport
from tests.forked import run_code

NAMES = {
    "ExportOptions",
    "ExportResult",
    "Manifest",
    "OnnxportError",
    "Signer",
    "ValidationReport",
    "__version__",
    "export",
    "export_all",
    "inspect",
    "load",
    "pipeline",
    "validate",
    "verify",
}


def test_public_names() -> None:
    assert set(onnxport.__all__) == NAMES
    assert len(NAMES) <= 15
    assert set(dir(onnxport)) >= NAMES
    for name in NAMES:
        assert getattr(onnxport, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        _ = onnxport.exprot


@pytest.mark.parametrize(
    "before",
    [
        "import onnxport._export",
        "import onnxport.validation, onnxport.validation._validate",
        "import onnxport.bundles.inspection",
        "import onnxport.cli.export, onnxport.cli.inspect, onnxport.cli.validate",
        "import onnxport.onnx",
    ],
)
def test_verbs_are_functions_after_any_import(before: str) -> None:
    code = (
        f"{before}; import onnxport; assert all(map(callable, (onnxport.export, onnxport.validate, onnxport.inspect)))"
    )
    run_code(code)
