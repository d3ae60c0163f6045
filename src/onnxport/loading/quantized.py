"""Dequantize weights with Transformers' loader, or raise with the reason why it can't.

The loader dequantizes some methods tensor by tensor, without further packages or a GPU; its operations are recorded
like those of other weights.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.description.text_configs import text_config_of
from onnxport.errors import UnsupportedError
from onnxport.patching.patch import Patch
from onnxport.weights import building

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

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
"""Quantization method → package that Transformers needs for it."""


_OTHER_PATHS = ("gguf", "metal")
"""Methods with a `dequantize` setting that the loader handles elsewhere, or on particular hardware only."""


def let_loader_dequantize(checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
    """Set `dequantize` in a quantization configuration, so that the loader returns floating-point weights.

    Args:
        checkpoint: the checkpoint, for messages.
        config: its configuration; `quantization_config` is replaced.

    Raises:
        UnsupportedError: Transformers can't dequantize the method while loading.
    """
    owner, settings = _settings(config)
    if settings is None:
        return
    method = checkpoint.quantization or type(settings).__name__
    if not _has_dequantize_setting(method) or not isinstance(settings, dict):
        package = f" with the package {_PACKAGES[method]} installed," if method in _PACKAGES else ""
        raise UnsupportedError(
            f"{checkpoint.name}: the weights are quantized ({method}), and Transformers can't dequantize them while "
            f"loading; export the checkpoint that they were quantized from, or,{package} load the model where it runs, "
            "call its `dequantize()` if the method has one, save it, and export that"
        )
    owner.quantization_config = {**settings, "dequantize": True}


def _settings(config: PreTrainedConfig) -> tuple[PreTrainedConfig, Any]:
    """Return the (sub-)configuration that has a `quantization_config`, and that; None for the second without."""
    for part in (config, text_config_of(config)):
        if (settings := getattr(part, "quantization_config", None)) is not None:
            return part, settings
    return config, None


def _has_dequantize_setting(method: str) -> bool:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    found = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    return (
        found is not None
        and method not in _OTHER_PATHS
        and "dequantize" in inspect.signature(found.__init__).parameters
    )


def cast_unquantized(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the parameters that weren't quantized, some of which the loader leaves in their stored dtype.

    Args:
        model: loaded from a quantized checkpoint; parameters of another dtype are replaced.
        dtype: the target dtype; parameters that the model's class keeps in float32 become float32.
    """
    import torch

    kept = [re.escape(name).replace(r"\*", r"\w+") for name in model._get_dtype_plan(dtype)]
    in_float32 = re.compile("|".join(rf"(?:^|\.){name}(?:\.|$)" for name in kept) or r"(?!)")
    made: dict[int, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.is_meta or not parameter.is_floating_point():
                continue
            target = torch.float32 if in_float32.search(f"{path}.{name}") else dtype
            if id(parameter) not in made:
                made[id(parameter)] = (
                    parameter
                    if parameter.dtype == target
                    else torch.nn.Parameter(parameter.detach().to(target), requires_grad=False)
                )
            module._parameters[name] = made[id(parameter)]


def _record_mxfp4(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Dequantize recordings of MXFP4 blocks as one expression; tensors go to the original function.

    The loader of Transformers 5.23 dequantizes in place, by table look-ups and bit operations that expressions can't
    represent.
    """
    from onnx_ir.tensor_adapters import from_torch_dtype

    from onnxport.weights.recording import Recording

    def dequantize(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if not isinstance(blocks, Recording) or not isinstance(scales, Recording):
            return original(blocks, scales, dtype)
        made = building.transpose(building.mxfp4(blocks.expression, scales.expression), (0, 2, 1))
        return Recording(building.cast(made, from_torch_dtype(dtype)), blocks.tape)

    return dequantize


RECORDED_MXFP4 = Patch(
    "transformers.integrations.mxfp4:dequantize_convertops",
    _record_mxfp4,
    "the loader of Transformers 5.23 dequantizes MXFP4 in place, bit by bit, which can't be recorded",
    "none: the loader is written for tensors with data",
    "the loader has an argument for a dequantization function",
)
"""Applied while binding; tensors with data still go to the original function."""
