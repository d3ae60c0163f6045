"""Names of the files of adapters, which the runtime reads without the packages that write them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

SUFFIX = ".onnx_adapter"
"""Suffix of the files, as in ONNX Runtime."""


def adapter_file(file: Path, component: str, components: Collection[str]) -> Path:
    """Return the file for one graph: `NAME.COMPONENT.onnx_adapter` if several graphs have inputs for adapters.

    Args:
        file: `NAME.onnx_adapter`, or the file for one of the graphs.
        component: the graph.
        components: all graphs with inputs.
    """
    if len(components) == 1:
        return file
    name = file.name.removesuffix(SUFFIX)
    named = next((other for other in components if name.endswith(f".{other}")), "")
    return file.with_name(f"{name.removesuffix(f'.{named}')}.{component}{SUFFIX}")
