"""Weights that were quantized: let Transformers' own loader undo it, or say why it can't.

Its loader undoes some methods tensor by tensor, without a package or a GPU; what it does is recorded like the rest.
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
    from transformers import PretrainedConfig, PreTrainedModel

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
    for part in (config, text_config_of(config)):
        if (settings := getattr(part, "quantization_config", None)) is not None:
            return part, settings
    return config, None


def _is_undone_by_loader(method: str) -> bool:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    found = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    return (
        found is not None and method not in _ELSEWHERE and "dequantize" in inspect.signature(found.__init__).parameters
    )


def cast_the_others(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Cast the parameters that weren't quantized: the loader leaves some in the type that they are stored in.

    Args:
        model: loaded from a quantized checkpoint; its parameters are replaced where they are of another type.
        dtype: the wanted type; what the model's class keeps in float32 is float32.
    """
    import torch

    kept = [re.escape(name).replace(r"\*", r"\w+") for name in model._get_dtype_plan(dtype)]
    in_float32 = re.compile("|".join(rf"(?:^|\.){name}(?:\.|$)" for name in kept) or r"(?!)")
    made: dict[int, torch.nn.Parameter] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.is_meta or not parameter.is_floating_point():
                continue
            wanted = torch.float32 if in_float32.search(f"{path}.{name}") else dtype
            if id(parameter) not in made:
                made[id(parameter)] = (
                    parameter
                    if parameter.dtype == wanted
                    else torch.nn.Parameter(parameter.detach().to(wanted), requires_grad=False)
                )
            module._parameters[name] = made[id(parameter)]


def _record_mxfp4(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Unpack recordings as one expression.

    The loader's own function fills a tensor piece by piece, by table and by bits, which no expression does.
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
    "the loader unpacks MXFP4 in place, bit by bit, which can't be recorded",
    "none: the loader is written for tensors with values",
    "the loader takes a function that unpacks",
)
"""For binding: replaced for recordings alone, because the loader has no argument for it."""
