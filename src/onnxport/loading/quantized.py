"""Dequantize weights with Transformers' loader, or raise an error that explains why it can't.

For some methods, the loader dequantizes tensor by tensor without additional packages or a GPU. Its operations are
recorded like those for other weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.text_configs import text_config_of
from onnxport.errors import UnsupportedError
from onnxport.loading.packed import is_unpacked
from onnxport.patching.patch import Patch
from onnxport.weights import building

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto-round",
    "fp_quant": "fp_quant",
    "higgs": "flute-kernel",
    "hqq": "hqq",
    "quanto": "optimum-quanto",
    "quark": "amd-quark",
    "sinq": "sinq",
    "spqr": "spqr_quant",
    "torchao": "torchao",
    "vptq": "vptq",
}
"""Quantization method to the package that Transformers requires for it."""


_UNSUPPORTED_METHODS = ("gguf", "metal")
"""Methods with a `dequantize` setting that the loader handles differently, or only on specific hardware."""


def let_loader_dequantize(checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
    """Set `dequantize` in a quantization configuration, so that the loader returns floating-point weights.

    The configuration is removed if the weights are dequantized before (`loading.packed`).

    Args:
        checkpoint: the checkpoint, for messages.
        config: its configuration, whose `quantization_config` is replaced.

    Raises:
        UnsupportedError: Transformers can't dequantize the method while loading.
    """
    owner, settings = _quantization_settings(config)
    if settings is None:
        return
    method = checkpoint.quantization or type(settings).__name__
    if is_unpacked(checkpoint):  # they are dequantized before they are passed to the loader
        del owner.quantization_config
        return
    if not _has_dequantize_setting(method) or not isinstance(settings, dict):
        package = f" with the package {_PACKAGES[method]} installed," if method in _PACKAGES else ""
        raise UnsupportedError(
            f"{checkpoint.name}: the weights are quantized ({method}), and Transformers can't dequantize them while "
            f"loading; export the checkpoint that they were quantized from, or,{package} load the model where it runs, "
            "call its `dequantize()` if the method has one, save it, and export that"
        )
    owner.quantization_config = {**settings, "dequantize": True}


def _quantization_settings(config: PreTrainedConfig) -> tuple[PreTrainedConfig, Any]:
    """Return the (sub-)configuration with a `quantization_config`, and the `quantization_config`, None if missing."""
    for part in (config, text_config_of(config)):
        if (settings := getattr(part, "quantization_config", None)) is not None:
            return part, settings
    return config, None


def _has_dequantize_setting(method: str) -> bool:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    config_class = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    return (
        config_class is not None
        and method not in _UNSUPPORTED_METHODS
        and "dequantize" in inspect.signature(config_class.__init__).parameters
    )


def cast_unquantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the parameters that weren't quantized, some of which the loader leaves in their stored dtype.

    Args:
        model: model loaded from a quantized checkpoint; parameters with other dtypes are replaced.
        dtype: the target dtype, except for parameters that the model class keeps in float32.
    """
    import torch

    patterns = [re.escape(name).replace(r"\*", r"\w+") for name in model._get_dtype_plan(dtype)]
    keep_in_float32 = re.compile("|".join(rf"(?:^|\.){pattern}(?:\.|$)" for pattern in patterns) or r"(?!)")
    cast: dict[int, torch.nn.Parameter] = {}  # tied parameters stay tied
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.is_meta or not parameter.is_floating_point():
                continue
            target = torch.float32 if keep_in_float32.search(f"{path}.{name}") else dtype
            if id(parameter) not in cast:
                cast[id(parameter)] = (
                    parameter
                    if parameter.dtype == target
                    else torch.nn.Parameter(parameter.detach().to(target), requires_grad=False)
                )
            module._parameters[name] = cast[id(parameter)]


def _record_mxfp4(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Dequantize recorded MXFP4 blocks as one expression; tensors are passed to the original function.

    The loader of Transformers 5.23 dequantizes in place, with table lookups and bitwise operations that expressions
    can't represent.
    """
    from onnx_ir.tensor_adapters import from_torch_dtype

    from onnxport.weights.recording import Recording

    def dequantize(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not isinstance(blocks, Recording) or not isinstance(scales, Recording):
            return original(blocks, scales, dtype)
        dequantized = building.transpose(building.mxfp4(blocks.expression, scales.expression), (0, 2, 1))
        return Recording(building.cast(dequantized, from_torch_dtype(dtype)), blocks.tape)

    return dequantize


RECORDED_MXFP4 = Patch(
    "transformers.integrations.mxfp4:dequantize_convertops",
    _record_mxfp4,
    "the loader of Transformers 5.23 dequantizes MXFP4 in place, with bitwise operations, which can't be recorded",
    "none: the loader is written for tensors with data",
    "the loader has an argument for a dequantization function",
)
"""Applied while binding; tensors with data are still passed to the original function."""
