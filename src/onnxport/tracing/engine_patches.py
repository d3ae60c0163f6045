"""Patches of torch, onnxscript and Transformers' exporter for code that can't be captured, or is too slow to capture.

Patches of a model's code are in its family's file in `architectures/`. All of these are needed with torch 2.13,
onnxscript 0.7 and Transformers 5.23.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from onnxport.architectures._clamping import clamps_always
from onnxport.architectures._seanet import seanet_patches
from onnxport.architectures._symbolic import symbolic_int
from onnxport.patching.patch import EAGER, SLOW, Patch
from onnxport.tracing._decompose import decompose, promote
from onnxport.tracing._economy import lazy_function_ir, memoized, without_source_lines
from onnxport.tracing.fake import is_fake

if TYPE_CHECKING:
    import sympy
    import torch
    from transformers import PreTrainedModel

    Size = int | torch.SymInt


def _squeeze(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Squeeze only the axes whose size is statically 1, or depends on other sizes and is 1 in the example."""

    def squeeze(tensor: torch.Tensor, *dims: Any, **named: Any) -> torch.Tensor:
        requested = named.get("dim", dims[0] if len(dims) == 1 else dims or range(tensor.dim()))
        axes = [requested] if isinstance(requested, int) else [*requested]
        for axis in sorted((axis % max(tensor.dim(), 1) for axis in axes), reverse=True):
            if tensor.dim() and _example_size(tensor.shape[axis]) == 1:
                tensor = original(tensor, axis)  # which limits a dynamic size to 1
        return tensor

    return squeeze


def _example_size(size: Size) -> int | None:
    """Return a size in the example; None if it depends on values. Dynamic axes of inputs have at least 2 elements."""
    return size if isinstance(size, int) else size.node.hint


def _symbolic_adaptive_pool(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Average-pool feature maps of symbolic size with one matrix for the rows and one for the columns."""

    def adaptive_avg_pool2d(images: torch.Tensor, output_size: Any) -> torch.Tensor:
        requested = output_size if isinstance(output_size, list | tuple) else (output_size, output_size)
        if all(isinstance(size, int) for size in images.shape[-2:]) or all(size == 1 for size in requested):
            return original(images, output_size)
        rows, columns = (
            None if out is None else _averaging_matrix(images, axis, out)
            for axis, out in zip((-2, -1), requested, strict=True)
        )
        images = images if rows is None else rows @ images
        return images if columns is None else images @ columns.transpose(0, 1)

    return adaptive_avg_pool2d


def _averaging_matrix(images: torch.Tensor, axis: int, out: int) -> torch.Tensor:
    """Return the matrix [out, axis size] whose rows average the positions in each output's pooling window."""
    import torch

    size = images.shape[axis]
    position = torch.arange(size, device=images.device)[None]
    index = torch.arange(out, device=images.device)[:, None]
    starts, ends = index * size // out, ((index + 1) * size + out - 1) // out
    inside = ((position >= starts) & (position < ends)).to(images.dtype)
    return inside / inside.sum(-1, keepdim=True)


def _symbolic_linspace(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Compute a linspace whose number of steps is a symbolic size."""

    def linspace(start: float, end: float, steps: Size, **named: Any) -> torch.Tensor:
        import torch

        if isinstance(steps, int):
            return original(start, end, steps, **named)
        last = torch.sym_max(steps - 1, 1)  # type: ignore[no-untyped-call]
        counts = torch.arange(steps, **{"dtype": torch.get_default_dtype(), **named})  # type: ignore[call-overload]
        return counts * ((end - start) / last) + start

    return linspace


def _tensor_of_sizes(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Create a tensor from symbolic sizes."""

    def as_tensor(
        data: Any, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> torch.Tensor:
        import torch

        rows = data if isinstance(data, list | tuple) else ()
        flat = [size for row in rows for size in (row if isinstance(row, list | tuple) else (row,))]
        if not any(isinstance(size, torch.SymInt) for size in flat):
            return original(data, dtype=dtype, device=device)
        sizes = [torch.scalar_tensor(size, dtype=dtype or torch.int64, device=device) for size in flat]
        stacked = torch.stack(sizes)
        return stacked.reshape(len(rows), -1) if isinstance(rows[0], list | tuple) else stacked

    return as_tensor


def _without_position_ids(original: Callable[[PreTrainedModel, dict[str, Any]], None]) -> Callable[..., None]:
    """Leave 3D position ids to the model, which computes them itself for text without images."""

    def precompute_export_inputs(model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        missing = inputs.get("position_ids") is None
        if missing:
            inputs["position_ids"] = False
        original(model, inputs)
        if missing:
            del inputs["position_ids"]

    return precompute_export_inputs


def _normalized_division(original: Callable[..., sympy.Basic | None]) -> classmethod[Any, Any, Any]:
    """Bring floor divisions to one form, so that equal sizes are equal expressions.

    (a // b + c) // d is (a + b * c) // (b * d), (g * a + c) // (g * d) is (a + c // g) // d, and (a + c) // d is
    (a + c % d) // d + c // d. Equal factors of products are cancelled here, since torch passes the quotients to sympy's
    simplify, which takes a third of the time of a capture of Swin.
    """
    import sympy

    def divide(cls: type[sympy.Function], base: sympy.Basic, divisor: sympy.Basic) -> sympy.Basic | None:
        if base.is_Mul:
            factors, divisors = list(base.args), list(sympy.Mul.make_args(divisor))
            common_factors = [factor for factor in divisors if factor in factors]
            for factor in common_factors:
                factors.remove(factor)
                divisors.remove(factor)
            if common_factors:
                return cls(sympy.Mul(*factors), sympy.Mul(*divisors))
        if base.is_Add and divisor.is_Integer and divisor > 0:
            constant, rest = base.as_coeff_Add()
            if isinstance(rest, cls) and constant.is_Integer and rest.args[1].is_Integer and rest.args[1] > 0:
                return cls(rest.args[0] + rest.args[1] * constant, rest.args[1] * divisor)
            common = _common_divisor(rest, divisor) if constant.is_Integer else 1
            if common > 1:
                return cls((rest / common).expand() + constant // common, divisor // common)
            if constant.is_Integer and rest.is_integer and not 0 <= constant < divisor:
                return cls(rest + constant % divisor, divisor) + constant // divisor
        return original(base, divisor)

    return classmethod(divide)


def _common_divisor(rest: sympy.Expr, divisor: sympy.Integer) -> int:
    """Return the greatest common divisor of an integer and the coefficients of an integer-valued sum."""
    coefficients = [term.as_coeff_Mul()[0] for term in rest.as_ordered_terms() if term.is_integer]
    is_integral = rest.is_integer and all(coefficient.is_Integer for coefficient in coefficients)
    return math.gcd(int(divisor), *map(int, coefficients)) if is_integral else 1


def _pool_one_row(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Pool a sequence of symbolic length with `max_pool2d`, as an image with a single row."""

    def max_pool1d(rows: torch.Tensor, *sizes: Any, **named: Any) -> torch.Tensor:
        from torch.nn import functional

        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
        options = {**dict(zip(names, sizes, strict=False)), **named}
        if options.get("return_indices") or isinstance(rows.shape[-1], int):
            return original(rows, *sizes, **named)
        row = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
        wide = {name: (row[name], _first(size)) for name, size in options.items() if name in row and size is not None}
        wide.setdefault("stride", wide["kernel_size"])
        pooled = functional.max_pool2d(rows.unsqueeze(-2), **wide, ceil_mode=bool(options.get("ceil_mode")))
        return pooled.squeeze(-2)

    return max_pool1d


def _first(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else size[0]


def _scaled_by_size(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Multiply the query by a scale that depends on a symbolic size; the operator takes a constant."""

    def scaled_dot_product_attention(query: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        import torch

        scale = named.get("scale")
        if isinstance(scale, torch.SymFloat):
            scaled = query * scale  # type: ignore[operator]  # the stubs have no symbolic scalars
            return original(scaled, *others, **{**named, "scale": 1.0})
        return original(query, *others, **named)

    return scaled_dot_product_attention


def _grouped_experts(original: Callable[..., Any]) -> Callable[..., Any]:
    """Use grouped matrix multiplication where a model's configuration selects the loop over experts."""

    def get_interface(self: Any, experts_implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
        implementation = "grouped_mm" if experts_implementation == "eager" else experts_implementation
        return original(self, implementation, default)

    return get_interface


def _no_fake_grouped_mm(original: Callable[..., bool]) -> Callable[..., bool]:
    """Use the fallback of `grouped_mm` for fake parameters."""

    def can_use(states: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> bool:
        return not is_fake(weight) and bool(original(states, weight, offs))

    return can_use


_CLAMPING = Patch(
    "torch:isfinite",
    clamps_always,
    "BART, Marian, DETR and LED clamp float16 hidden states only if any of them isn't finite, which depends on values",
    EAGER,
    "Transformers clamps them unconditionally",
    without_values=True,
)
_GROUPED_EXPERTS = Patch(
    "transformers.integrations.moe:ExpertsInterface.get_interface",
    _grouped_experts,
    "a model whose configuration selects eager experts (OpenAI's privacy filter) loops over the experts that were hit",
    EAGER,
    "the exporter replaces eager experts of every model",
    without_values=True,
)
_SYMBOLIC = ("add", "mul", "eq", "ne", "lt", "le", "gt", "ge", "sym_or", "sym_and")
"""Operations on symbolic sizes that contiguity and broadcasting checks consist of."""


def _keeping_truth_values(original: Callable[[sympy.Basic], sympy.Basic]) -> Callable[[sympy.Basic], sympy.Basic]:
    import sympy

    def canonicalize(condition: sympy.Basic) -> sympy.Basic:
        return condition if condition in (sympy.true, sympy.false) else original(condition)

    return canonicalize


def _solving_what_can_be(solve: Callable[[Any], None]) -> Callable[[Any], None]:
    """Leave out the equations that sympy can't solve for their symbol; the solutions are for error messages only."""

    def solve_rest(self: Any) -> None:
        while True:
            try:
                solve(self)
            except AssertionError as error:
                if not str(error).startswith("Expected a"):
                    raise
            else:
                return

    return solve_rest


ENGINE_PATCHES: tuple[Patch, ...] = (
    Patch(
        "torch:Tensor.squeeze",
        _squeeze,
        "squeeze() becomes a Squeeze without axes, which drops a batch axis of size 1 (mBART, PLBart), and squeeze(0) "
        "becomes a Squeeze of an axis that isn't 1 (Mistral 3)",
        "https://github.com/microsoft/onnxscript/issues/360",
        "torch.onnx lowers squeeze() with the axes that are statically 1",
    ),
    _CLAMPING,
    _GROUPED_EXPERTS,
    Patch(
        "torch.fx.experimental.symbolic_shapes:DimConstraints.solve",
        _solving_what_can_be,
        "an equation of floor divisions for which sympy returns no value of its symbol ends the capture, although no "
        "axis has to be static (Moonshine's mask)",
        EAGER,
        "torch.export reports only constraints that it can solve",
    ),
    Patch(
        "torch.fx.experimental.symbolic_shapes:_canonicalize_bool_expr_impl",
        _keeping_truth_values,
        "a condition on sizes that becomes true or false when it is brought to conjunctive normal form ends the "
        "decomposition (Mask2Former with a Swin backbone)",
        "none: an assertion of torch 2.13 that its own simplification violates",
        "torch canonicalizes true and false",
    ),
    Patch(
        "transformers.exporters.utils:precompute_export_inputs",
        _without_position_ids,
        "the exporter adds a position_ids input to multimodal models that are traced on text alone",
        "none: the exporter is meant to add inputs",
        "the exporter adds no inputs that the caller doesn't pass",
    ),
    Patch(
        "torch.distributions:Distribution._validate_args",
        lambda _: False,
        "a distribution checks the values of its parameters (BLT's patcher)",
        EAGER,
        "torch.distributions checks none while exporting",
        without_values=True,
    ),
    Patch(
        "torch.nn.functional:adaptive_avg_pool2d",
        _symbolic_adaptive_pool,
        "the pooling windows are specialized to the example's size (UperNet and other feature pyramids)",
        EAGER,
        "torch.export preserves adaptive pools of symbolic sizes as operators",
    ),
    Patch(
        "torch.nn.functional:max_pool1d",
        _pool_one_row,
        "max_pool1d specializes the pooled axis to the example's size (CANINE)",
        EAGER,
        "torch.export preserves pools of symbolic sizes as operators",
    ),
    Patch(
        "torch.nn.functional:scaled_dot_product_attention",
        _scaled_by_size,
        "a scale that depends on a symbolic size is specialized to the example's (DaViT's attention over channels, the "
        "vision encoder of Florence-2)",
        "none: the operator's schema has a constant scale",
        "the operator takes a symbolic scale",
    ),
    Patch(
        "torch:as_tensor",
        _tensor_of_sizes,
        "as_tensor of symbolic sizes specializes them to the example's feature maps (Deformable DETR)",
        EAGER,
        "torch.export keeps sizes symbolic in tensors created from them",
    ),
    Patch(
        "torch:linspace",
        _symbolic_linspace,
        "linspace specializes a symbolic number of steps to the example's number of rows (Deformable DETR, LW-DETR)",
        EAGER,
        "torch.onnx translates linspace with a symbolic number of steps",
    ),
    Patch(
        "torch.utils._sympy.functions:FloorDiv.eval",
        _normalized_division,
        "sizes that are halved repeatedly become nested divisions, which take minutes to compare (Swin, SAM 2)",
        "https://github.com/pytorch/pytorch/issues/134133",
        "torch flattens nested floor divisions of sums",
    ),
    Patch(
        "torch.utils._traceback:CapturedTraceback.summary",
        without_source_lines,
        "every node of the captured program records the source lines that created it, which nothing here reads",
        SLOW,
        "torch.export has a setting that disables it",
    ),
    Patch(
        "torch.onnx._internal.exporter._fx_passes:decompose_with_registry",
        decompose,
        "the entire program is run twice more, although few of its operators lack an ONNX translation",
        SLOW,
        "torch.onnx decomposes single nodes",
    ),
    Patch(
        "torch.onnx._internal.fx.passes.type_promotion:_TypePromotionInterpreter.run_node",
        promote,
        "the entire program is run once more, although few of its nodes have arguments of different dtypes",
        SLOW,
        "torch.onnx runs only the nodes that type promotion changed",
    ),
    Patch(
        "onnxscript._internal.values:TracedOnnxFunction.function_ir",
        lazy_function_ir,
        "the source of all 500 translations is parsed to read the domain that they share",
        SLOW,
        "torch.onnx builds its registry without parsing them",
    ),
    *(
        Patch(
            f"torch.fx.experimental.sym_node:SymNode.{operation}",
            memoized,
            "sympy computes the same few expressions tens of thousands of times",
            SLOW,
            "torch caches them",
        )
        for operation in _SYMBOLIC
    ),
)
"""Applied while any model is captured."""

FAKE_PATCHES: tuple[Patch, ...] = (
    _CLAMPING,
    _GROUPED_EXPERTS,
    Patch(
        "transformers.integrations.moe:_can_use_grouped_mm",
        _no_fake_grouped_mm,
        "torch's grouped_mm rejects float32 fake tensors, which its CPU kernel accepts",
        "https://github.com/pytorch/pytorch/issues/159547",
        "its meta function accepts the dtypes that its kernel accepts",
        without_values=True,
    ),
)
"""Applied while any model runs with fake parameters."""


def _symbolic_length(original: Callable[..., int]) -> Callable[..., Size]:
    """Return the size of a tensor's first axis as its length; it may be symbolic."""

    def length(value: Any) -> Size:
        import torch

        return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else original(value)

    return length


def size_patches(modules: Sequence[str]) -> tuple[Patch, ...]:
    """Return patches of `torch_int`, `len` and SEANet's layers that keep sizes symbolic in modeling files.

    Args:
        modules: names of imported modeling files.
    """
    integers = tuple(
        Patch(
            f"{name}:torch_int",
            symbolic_int,
            "torch_int specializes the size that position embeddings are interpolated to, since is_tracing() is false "
            "in torch.export",
            "https://github.com/huggingface/transformers/pull/33226",
            "Transformers' torch_int returns symbolic sizes unchanged",
        )
        for name in modules
        if "torch_int" in vars(sys.modules[name])
    )
    lengths = tuple(
        Patch(
            f"{name}:len",
            _symbolic_length,
            "len() of a tensor specializes the size of its first axis (RT-DETR, D-FINE, DEIM)",
            "https://github.com/pytorch/pytorch/pull/185804",
            "torch.export lets len() of a tensor return a symbolic size",
        )
        for name in modules
    )
    return (*integers, *lengths, *(patch for name in modules for patch in seanet_patches(name)))
