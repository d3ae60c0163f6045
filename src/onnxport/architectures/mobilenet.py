"""MobileNet V1 and V2: convolutions with TensorFlow's padding, of images of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch


def _pad_any_size(_: object) -> Callable[..., torch.Tensor]:
    """Pad feature maps so that a convolution has as many outputs as strides begin in each axis."""

    def apply_tf_padding(features: torch.Tensor, conv_layer: torch.nn.Conv2d) -> torch.Tensor:
        from torch.nn import functional

        padding: list[int] = []
        for axis in (1, 0):  # the width comes first
            size, stride = features.shape[axis + 2], conv_layer.stride[axis]
            kernel, dilation = conv_layer.kernel_size[axis], conv_layer.dilation[axis]
            total = ((size + stride - 1) // stride - 1) * stride + kernel - size if kernel >= stride else 0
            padding += [total // 2 * dilation, (total - total // 2) * dilation]
        return functional.pad(features, padding)

    return apply_tf_padding


def _patch(module: str) -> Patch:
    return Patch(
        f"{module}:apply_tf_padding",
        _pad_any_size,
        "int() of a size, and the condition on its remainder, specialize the padding to the example's size",
        EAGER,
        "Transformers computes the padding without a branch",
    )


_MODELS = "transformers.models"

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("mobilenet_v1",), patches=(_patch(f"{_MODELS}.mobilenet_v1.modeling_mobilenet_v1"),)),
    Architecture(("mobilenet_v2",), patches=(_patch(f"{_MODELS}.mobilenet_v2.modeling_mobilenet_v2"),)),
)
