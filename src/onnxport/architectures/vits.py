"""VITS: a spline that is computed for all inputs, so that it isn't empty where none lies between its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxport.architectures._architecture import Architecture
from onnxport.patching.patch import EAGER, Patch

if TYPE_CHECKING:
    import torch

    Spline = Callable[..., tuple[torch.Tensor, torch.Tensor]]

_MODULE = "transformers.models.vits.modeling_vits"


def _spline_everywhere(_: object) -> Spline:
    def unconstrained_spline(
        inputs: torch.Tensor,
        unnormalized_widths: torch.Tensor,
        unnormalized_heights: torch.Tensor,
        unnormalized_derivatives: torch.Tensor,
        reverse: bool = False,
        tail_bound: float = 5.0,
        min_bin_width: float = 1e-3,
        min_bin_height: float = 1e-3,
        min_derivative: float = 1e-3,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform `inputs` between the bounds, [batch, channels, length]; others stay as they are."""
        import torch
        from torch.nn import functional
        from transformers.models.vits.modeling_vits import _rational_quadratic_spline

        at_bounds = math.log(math.exp(1 - min_derivative) - 1)  # the derivative there is 1
        transformed, log_determinant = _rational_quadratic_spline(
            inputs.clamp(-tail_bound, tail_bound),
            unnormalized_widths,
            unnormalized_heights,
            functional.pad(unnormalized_derivatives, (1, 1), value=at_bounds),
            reverse,
            tail_bound,
            min_bin_width,
            min_bin_height,
            min_derivative,
        )
        is_inside = inputs.abs() <= tail_bound
        return torch.where(is_inside, transformed, inputs), torch.where(is_inside, log_determinant, 0.0)

    return unconstrained_spline


ARCHITECTURES = (
    Architecture(
        ("vits",),
        patches=(
            Patch(
                f"{_MODULE}:_unconstrained_rational_quadratic_spline",
                _spline_everywhere,
                "ONNX Runtime can't gather from the empty tensors of inputs that all lie outside",
                EAGER,
                "Transformers computes the spline without selecting elements",
            ),
        ),
    ),
)
