"""Weights that were quantized: let Transformers' own loader undo it, or say why it can't.

Its loader undoes some methods tensor by tensor, without a package or a GPU; what it does is recorded like the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from onnxport.errors import UnsupportedError
from onnxport.weights import building
from onnxport.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "fp_quant": "fp_quant",
    "gptq": "gptqmodel",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
    "sinq": "sinq",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""Method → package that Transformers runs it with."""


_ELSEWHERE = ("gguf", "metal")
"""Methods that the loader undoes on another path, or only on a machine with another processor."""


def let_loader_dequantize(checkpoint: Checkpoint, config: PretrainedConfig) -> None:
    """Ask for weights in floating point, whatever the machine could run.

    Args:
        checkpoint: for the message.
        config: its configuration; the settings of its quantization are changed.

    Raises:
        UnsupportedError: Transformers can't undo the method while it loads.
    """
    owner, settings = _settings(config)
    if settings is None:
        return
    method = checkpoint.quantization or type(settings).__name__
    if not _is_undone_by_loader(method) or not isinstance(settings, dict):
        package = f" with the package {_PACKAGES[method]} installed," if method in _PACKAGES else ""
        raise UnsupportedError(
            f"{checkpoint.name}: the weights are quantized ({method}), and Transformers can't undo that while it loads "
            f"them; export the checkpoint that they were quantized from, or,{package} load the model where it runs, "
            "call its `dequantize()` if the method has one, save it, and export that"
        )
    owner.quantization_config = {**settings, "dequantize": True}


def _settings(config: Any) -> tuple[Any, Any]:
    """Return the part of a configuration that says how weights are quantized, and what it says."""
    parts = [config]
    if hasattr(config, "get_text_config"):
        parts.append(config.get_text_config(decoder=True))
    for part in parts:
        if (settings := getattr(part, "quantization_config", None)) is not None:
            return part, settings
    return config, None


def _is_undone_by_loader(method: str) -> bool:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    found = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    return (
        found is not None and method not in _ELSEWHERE and "dequantize" in inspect.signature(found.__init__).parameters
    )


@contextmanager
def recorded_mxfp4() -> Iterator[None]:
    """Let recordings of packed numbers be unpacked as one expression in a block.

    The loader's own function fills a tensor piece by piece, by table and by bits, which no expression says. It is
    replaced for recordings alone, because the loader has no argument for it.
    """
    from onnx_ir.tensor_adapters import from_torch_dtype
    from transformers.integrations import mxfp4

    from onnxport.weights.recording import Recording

    original = mxfp4.dequantize_convertops

    def dequantize(blocks: Any, scales: Any, dtype: Any) -> Any:
        if not isinstance(blocks, Recording) or not isinstance(scales, Recording):
            return original(blocks, scales, dtype)
        made = building.transpose(building.mxfp4(blocks.expression, scales.expression), (0, 2, 1))
        return Recording(building.cast(made, from_torch_dtype(dtype)), blocks.tape)

    mxfp4.dequantize_convertops = dequantize
    try:
        yield
    finally:
        mxfp4.dequantize_convertops = original
