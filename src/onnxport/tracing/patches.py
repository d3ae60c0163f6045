"""Our own fixes of the capture: what torch or Transformers does in a way that doesn't survive it, or takes too long."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from onnxport.patching.patch import Patch
from onnxport.tracing._decompose import decompose, promote
from onnxport.tracing._economy import memoized, unread, without_source_lines
from onnxport.tracing.annealing import ANNEALING
from onnxport.tracing.codecs import CODECS
from onnxport.tracing.experts import EXPERTS
from onnxport.tracing.fake import is_fake
from onnxport.tracing.indexers import INDEXERS
from onnxport.tracing.lengths import LENGTHS
from onnxport.tracing.sizes import POOLS, SIZES, symbolic_sizes
from onnxport.tracing.windows import DIVISIONS, WINDOWS


def _squeeze(original: Any) -> Any:
    """Squeeze the axes that are 1 for every size of the dynamic ones."""

    def squeeze(tensor: Any, *dims: Any, **named: Any) -> Any:
        wanted = named.get("dim", dims[0] if len(dims) == 1 else dims or range(tensor.dim()))
        axes = [wanted] if isinstance(wanted, int) else [*wanted]
        for axis in sorted((axis % max(tensor.dim(), 1) for axis in axes), reverse=True):
            if tensor.dim() and isinstance(tensor.shape[axis], int) and tensor.shape[axis] == 1:
                tensor = original(tensor, axis)
        return tensor

    return squeeze


class _NeverAll:
    """Answer whether all values are finite, or any isn't: it can't be known before a graph runs."""

    def all(self) -> bool:
        return False

    def any(self) -> bool:
        return True


def _never_all(original: Any) -> Any:
    """Take values in half precision for infinite, so that what clamps them is part of the graph."""

    def check(tensor: Any, *arguments: Any) -> Any:
        import torch

        return _NeverAll() if tensor.dtype == torch.float16 else original(tensor, *arguments)

    return check


class _Checking:
    """Be the module torch, but for one of its checks."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.isinf = _never_all(original.isinf)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


_FINITE = Patch(
    "torch:isfinite",
    _never_all,
    "layers clamp values in half precision if any isn't finite, which depends on values (BART, Marian, DETR, LED)",
    "Transformers clamps them in any case",
)


def _pool_any_size(original: Any) -> Any:
    """Average pictures of any size with one matrix for the rows and one for the columns."""

    def adaptive_avg_pool2d(images: Any, output_size: Any) -> Any:
        wanted = output_size if isinstance(output_size, list | tuple) else (output_size, output_size)
        if all(isinstance(size, int) for size in images.shape[-2:]) or all(size == 1 for size in wanted):
            return original(images, output_size)
        rows, columns = (
            None if out is None else _averages(images, axis, out) for axis, out in zip((-2, -1), wanted, strict=True)
        )
        images = images if rows is None else rows @ images
        return images if columns is None else images @ columns.transpose(0, 1)

    return adaptive_avg_pool2d


def _averages(images: Any, axis: int, out: int) -> Any:
    """Return the matrix [out, size of the axis] whose rows average the places that each output looks at."""
    import torch

    size = images.shape[axis]
    place = torch.arange(size, device=images.device)[None]
    number = torch.arange(out, device=images.device)[:, None]
    starts, ends = number * size // out, ((number + 1) * size + out - 1) // out
    seen = ((place >= starts) & (place < ends)).to(images.dtype)
    return seen / seen.sum(-1, keepdim=True)


def _spaced(original: Any) -> Any:
    """Space numbers evenly, as many as a size that may vary says."""

    def linspace(start: Any, end: Any, steps: Any, **named: Any) -> Any:
        import torch

        if isinstance(steps, int):
            return original(start, end, steps, **named)
        last = torch.sym_max(steps - 1, 1)  # type: ignore[no-untyped-call]
        return torch.arange(steps, **{"dtype": torch.get_default_dtype(), **named}) * ((end - start) / last) + start

    return linspace


def _of_sizes(original: Any) -> Any:
    """Make a tensor of sizes that may vary."""

    def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Any:
        import torch

        rows = data if isinstance(data, list | tuple) else ()
        flat = [size for row in rows for size in (row if isinstance(row, list | tuple) else (row,))]
        if not any(isinstance(size, torch.SymInt) for size in flat):
            return original(data, dtype=dtype, device=device)
        sizes = [torch.scalar_tensor(size, dtype=dtype or torch.int64, device=device) for size in flat]
        together = torch.stack(sizes)
        return together.reshape(len(rows), -1) if isinstance(rows[0], list | tuple) else together

    return as_tensor


def _no_positions(original: Any) -> Any:
    """Leave positions in three directions to the model, which finds those of a text alone by itself."""

    def precompute_export_inputs(model: Any, inputs: dict[str, Any]) -> None:
        missing = inputs.get("position_ids") is None
        if missing:
            inputs["position_ids"] = False
        original(model, inputs)
        if missing:
            del inputs["position_ids"]

    return precompute_export_inputs


_SYMBOLIC = ("add", "mul", "eq", "ne", "lt", "le", "gt", "ge", "sym_or", "sym_and")
"""Operations on symbolic sizes that checks of contiguity and broadcasting are made of."""

PATCHES: tuple[Patch, ...] = (
    Patch(
        "torch:Tensor.squeeze",
        _squeeze,
        "squeeze() becomes Squeeze without axes, which drops the batch when it is 1 (mBART, PLBart), and squeeze(0) a "
        "Squeeze of an axis that isn't 1 (Mistral 3)",
        "the engine lowers squeezes to the axes that are statically 1",
    ),
    _FINITE,
    Patch(
        "transformers.exporters.utils:precompute_export_inputs",
        _no_positions,
        "positions of pictures' places are asked of models that are given a text alone, and become another input",
        "the engine adds no input that isn't asked for",
    ),
    Patch(
        "torch.nn.functional:adaptive_avg_pool2d",
        _pool_any_size,
        "the windows of the pool become those of the example's size (UperNet and other pyramids)",
        "torch.export keeps adaptive pools of symbolic sizes whole",
    ),
    Patch(
        "torch:as_tensor",
        _of_sizes,
        "sizes of feature maps become those of the example's picture (Deformable DETR)",
        "torch.export keeps symbolic sizes that a tensor is made of",
    ),
    Patch(
        "torch:linspace",
        _spaced,
        "as many numbers as a picture has rows become as many as the example's has (Deformable DETR, LW-DETR)",
        "the engine translates linspace with a symbolic number of steps",
    ),
    Patch(
        "torch.utils._traceback:CapturedTraceback.summary",
        without_source_lines,
        "every node of the captured program gets the source lines that made it, which nothing here reads",
        "torch.export has a setting for it",
    ),
    Patch(
        "torch.onnx._internal.exporter._fx_passes:decompose_with_registry",
        decompose,
        "the whole program is run twice more, although few of its operators have no translation",
        "the engine decomposes single nodes",
    ),
    Patch(
        "torch.onnx._internal.fx.passes.type_promotion:_TypePromotionInterpreter.run_node",
        promote,
        "the whole program is run once more, although few of its nodes have arguments of two types",
        "the engine runs only the nodes that it changed",
    ),
    Patch(
        "onnxscript._internal.values:TracedOnnxFunction.function_ir",
        unread,
        "the source of all 500 translations is parsed to learn the domain that they share",
        "the list of translations is made without it",
    ),
    *(
        Patch(
            f"torch.fx.experimental.sym_node:SymNode.{operation}",
            memoized,
            "the same few expressions are computed by sympy tens of thousands of times",
            "torch remembers them",
        )
        for operation in _SYMBOLIC
    ),
)


def _table_as_it_is(_: Any) -> Any:
    """Look positions up in the table that there is."""

    def forward(self: Any, tokens: Any, *, past_key_values_length: Any = 0) -> Any:
        from torch.nn import functional

        counted = self.make_positions(tokens, self.padding_idx)
        return functional.embedding(counted + past_key_values_length, self.weight, self.padding_idx)

    return forward


def _always_masked(_: Any) -> Any:
    """Mask padding, also where there is none."""

    def make_padding_mask(tokens: Any, padding_idx: int = 1) -> Any:
        return tokens.eq(padding_idx)

    return make_padding_mask


def _no_mask(original: Any) -> Any:
    """Make no mask where nothing is hidden."""

    def create(*arguments: Any, attention_mask: Any = None, **named: Any) -> Any:
        return None if attention_mask is None else original(*arguments, attention_mask=attention_mask, **named)

    return create


def _rotate_real(_: Any) -> Any:
    """Turn pairs of numbers as products of complex numbers do."""

    def apply_rotary_emb(xq: Any, xk: Any, freqs_cis: Any) -> tuple[Any, Any]:
        import torch

        cosine, sine = torch.view_as_real(freqs_cis).unbind(-1)
        cosine, sine = cosine[:, :, None], sine[:, :, None]

        def turned(states: Any) -> Any:
            first, second = states.float().reshape(*states.shape[:-1], -1, 2).unbind(-1)
            pairs = torch.stack([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
            return pairs.flatten(3).type_as(states)

        return turned(xq), turned(xk)

    return apply_rotary_emb


_VALUES_NOT_NEEDED = (
    *EXPERTS,
    Patch(
        "transformers.models.nllb_moe.modeling_nllb_moe:torch",
        _Checking,
        "its decoder's layers clamp values in half precision if any is infinite, which depends on values",
        "Transformers clamps them in any case",
    ),
)
"""What a model with fake parameters needs as well."""


class _HalfOfLimits:
    """Be the module torch, but for how small a number may be."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def finfo(self, dtype: Any) -> Any:
        """Return limits of which the lower is half of what a type has."""
        return SimpleNamespace(min=self._original.finfo(dtype).min / 2)


_MODEL_PATCHES: tuple[Patch, ...] = (
    *_VALUES_NOT_NEEDED,
    *(
        Patch(
            f"transformers.models.{name}.modeling_{name}:torch",
            _HalfOfLimits,
            "frames of padding see nothing: Transformers' own attention for graphs gives them zeros where all scores "
            "are the lowest number, and the model gives them the mean of all",
            "both give the same",
        )
        for name in ("parakeet", "granite_speech5")
    ),
    *ANNEALING,
    *CODECS,
    *INDEXERS,
    Patch(
        "transformers.models.fsmt.modeling_fsmt:SinusoidalPositionalEmbedding.forward",
        _table_as_it_is,
        "a table of positions that may grow while the model runs bounds the lengths of texts and caches",
        "Transformers makes FSMT's table once",
    ),
    Patch(
        "transformers.models.fsmt.modeling_fsmt:make_padding_mask",
        _always_masked,
        "whether there is a mask of the decoder's tokens depends on their values",
        "Transformers masks them in any case",
    ),
    Patch(
        "transformers.models.autoformer.modeling_autoformer:create_bidirectional_mask",
        _no_mask,
        "a mask that hides nothing has another shape than the correlations that it is added to",
        "Transformers makes no mask for a graph where it makes none otherwise",
    ),
    Patch(
        "transformers.models.llama4.modeling_llama4:apply_rotary_emb",
        _rotate_real,
        "the engine has no translation of an unsqueeze of complex numbers",
        "the engine translates it",
    ),
)


def patches() -> tuple[Patch, ...]:
    """Return the patches of a capture; those of models that aren't imported are left out."""
    return (
        *PATCHES,
        *POOLS,
        *DIVISIONS,
        *_of_imported((*_MODEL_PATCHES, *SIZES, *LENGTHS, *WINDOWS)),
        *symbolic_sizes(),
    )


def _of_imported(candidates: tuple[Patch, ...]) -> tuple[Patch, ...]:
    return tuple(patch for patch in candidates if patch.target.partition(":")[0] in sys.modules)


def _no_fake_grouped_product(original: Any) -> Any:
    """Take the plain product of experts for weights without values."""

    def can_use(states: Any, weight: Any, offs: Any) -> bool:
        return not is_fake(weight) and bool(original(states, weight, offs))

    return can_use


_FAKE_PATCHES: tuple[Patch, ...] = (
    _FINITE,
    Patch(
        "transformers.integrations.moe:_can_use_grouped_mm",
        _no_fake_grouped_product,
        "torch's grouped product refuses fake tensors other than bfloat16, which its kernel for the CPU takes",
        "its meta function accepts what its kernel accepts",
    ),
)


def fake_patches() -> tuple[Patch, ...]:
    """Return the patches that a model with fake parameters needs to be run at all."""
    return (*_FAKE_PATCHES, *_of_imported(_VALUES_NOT_NEEDED))
