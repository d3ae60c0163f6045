"""How the parameters of an export are quantized: the plan that its graphs follow, and that its manifest keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnxport.binding.bind import Binding
from onnxport.checkpoint.typed_values import typed
from onnxport.errors import brief
from onnxport.weights.arithmetic import as_float32
from onnxport.weights.building import concatenate, cut, product, reshape, transpose
from onnxport.weights.expressions import NO_FILES, Array, Expression, InMemory, Reads
from onnxport.weights.grids import grid_of
from onnxport.weights.parameters import Parameter, substituted
from onnxport.weights.quantization import BlockScheme, Dequantized, Nf4Scheme, RowScheme, Scheme, quantized

_SAMPLED_ROWS = 64
"""Rows of a matrix among which its grid is looked for."""
_LEAST_SMOOTHING = 0.03
"""The smallest factor of `smoothing` as a share of the largest: inputs that a text left at 0 aren't 0 in others."""


@dataclass(frozen=True)
class Stored:
    """The place of a quantized matrix in the graphs of an export.

    Attributes:
        component: the graph.
        tensor: name of the parameter there, which may have the rows of several.
        first: the first row of the matrix.
        rows: its number of rows.
        columns: its number of columns.
    """

    component: str
    tensor: str
    first: int
    rows: int
    columns: int


@dataclass(frozen=True)
class QuantizedMatrix:
    """A parameter that is quantized.

    Attributes:
        scheme: how.
        by_columns: whether the columns of the parameter are the rows of the quantized matrix.
        importance: mean square of each input of the layer, measured; None if it wasn't.
        rounded: the quantized matrix, if its integers don't follow from the weights alone; None if they do.
        stored: where graphs have a matrix that is `rounded`.
    """

    scheme: Scheme
    by_columns: bool
    importance: Expression | None = None
    rounded: Dequantized | None = None
    stored: Stored | None = None

    @property
    def takes_calibration(self) -> bool:
        """Whether its integers may be chosen for measured inputs."""
        return isinstance(self.scheme, RowScheme) or self.takes_compensation

    @property
    def takes_compensation(self) -> bool:
        """Whether GPTQ may choose its integers: not if the checkpoint is quantized already."""
        return isinstance(self.scheme, BlockScheme) and not self.scheme.on_grid

    @cached_property
    def smoothing(self) -> InMemory | None:
        """What each input of the layer is divided by before it is rounded, float32 `[1, inputs]`; None if nothing is.

        All inputs of a layer with 8-bit activations share a scale, which the largest ones make coarse. Its weights are
        multiplied by the same (Xiao et al., 2022, arXiv:2211.10438, equation 3, with the root mean square of an input
        to the power of 1/2, and without the weights: of the exponents 1/4, 1/2, 3/4 and 1, 1/2 gave MiniLM the highest
        cosine, with the weights' maxima it was lower).
        """
        if self.importance is None or not isinstance(self.scheme, RowScheme):
            return None
        size = np.sqrt(np.sqrt(self.importance.evaluate(NO_FILES)))
        size = np.maximum(size, size.max() * _LEAST_SMOOTHING)
        return InMemory(np.asarray(size / size.mean() if size.any() else np.ones_like(size), np.float32)[None])

    def quantized(self, rows: Expression) -> Dequantized:
        """Quantize rows of a matrix, see `rows_of`; with `smoothing`, the result stands for the multiplied weights."""
        if self.smoothing is not None:
            return quantized(product(rows, self.smoothing), self.scheme)
        return quantized(rows, self.scheme, self.importance)

    def rows_of(self, parameter: Expression) -> Expression:
        """Return the parameter as a matrix whose rows are quantized, those of all experts one after the other."""
        order = (*range(len(parameter.shape) - 2), -1, -2) if self.by_columns else range(len(parameter.shape))
        matrix = transpose(parameter, [axis % len(parameter.shape) for axis in order])
        return reshape(matrix, (matrix.size // matrix.shape[-1], matrix.shape[-1]))

    def stands_for(self, parameter: Parameter) -> Expression:
        """Return the values that the quantized parameter stands for, in the parameter's layout."""
        rank = len(parameter.shape)
        order = (*range(rank - 2), rank - 1, rank - 2) if self.by_columns else tuple(range(rank))
        values: Expression = self.rounded or self.quantized(self.rows_of(parameter))
        if self.smoothing is not None:
            values = product(values, InMemory(1 / self.smoothing.array))
        return transpose(reshape(values, [parameter.shape[axis] for axis in order]), order)


def joined(matrices: Sequence[QuantizedMatrix]) -> QuantizedMatrix:
    """Return how the rows of several parameters, which are quantized alike, are quantized as one matrix."""
    first, parts = matrices[0], [matrix.rounded for matrix in matrices if matrix.rounded is not None]
    if not parts or len(matrices) == 1:
        return first
    if len(parts) < len(matrices):
        raise ValueError("some of the matrices that are packed were rounded, and others weren't")
    points = [part.zero_points for part in parts if part.zero_points is not None]
    rounded = Dequantized(
        concatenate([part.values for part in parts], 0),
        concatenate([part.scales for part in parts], 0),
        concatenate(points, 0) if points else None,
        first.scheme,
        (sum(part.sizes[0] for part in parts), parts[0].sizes[1]),
    )
    return replace(first, rounded=rounded)


def keep_grids(plan: Mapping[str, QuantizedMatrix], binding: Binding, reader: Reads) -> dict[str, QuantizedMatrix]:
    """Return a plan for a quantized checkpoint, whose matrices keep their integers and scales.

    If some matrices have no more bits than the plan, the checkpoint is one of so few bits, and its others, such as
    those of GGUF's Q6_K beside Q4_K, get 8 bits, not fewer than they have. Otherwise, the plan is unchanged.

    Args:
        plan: full name of a parameter to how it is quantized, in blocks.
        binding: expressions of the parameters.
        reader: reader of the checkpoint.
    """
    kept = {}
    bits = {matrix.scheme.bits for matrix in plan.values() if isinstance(matrix.scheme, BlockScheme)}
    for name, matrix in plan.items():
        expression = binding[name]
        parameter = Parameter(name, expression.dtype, expression.shape)
        rows = substituted(matrix.rows_of(parameter), lambda _, value=expression: value)  # type: ignore[misc]
        step = max(1, rows.shape[0] // _SAMPLED_ROWS)
        grid = grid_of(as_float32(cut(rows, 0, 0, rows.shape[0], step).evaluate(reader)))
        scheme = BlockScheme(8, 32) if grid is None else BlockScheme(grid.bits, grid.block_size, grid.zero_points, True)
        kept[name] = replace(matrix, scheme=scheme)
    is_kept = any(one.scheme.on_grid and one.scheme.bits <= max(bits) for one in kept.values())  # type: ignore[union-attr]
    return kept if is_kept else dict(plan)


@dataclass(frozen=True)
class Calibration:
    """Hold what the weights of a precision are quantized with, by full name of a parameter.

    Attributes:
        importance: the mean square of each input of its layer, float32 `[inputs]`.
        rounded: the quantized matrix.
    """

    importance: Mapping[str, Array] = field(default_factory=dict)
    rounded: Mapping[str, Dequantized] = field(default_factory=dict)


def calibrated(plan: Mapping[str, QuantizedMatrix], calibration: Calibration) -> dict[str, QuantizedMatrix]:
    """Return a plan whose matrices are quantized for inputs that were measured."""
    found = dict(plan)
    for name, matrix in plan.items():
        if name in calibration.rounded:
            found[name] = replace(matrix, rounded=calibration.rounded[name])
        elif name in calibration.importance and matrix.takes_calibration:
            found[name] = replace(matrix, importance=InMemory(calibration.importance[name]))
    return found


def to_values(plan: Mapping[str, QuantizedMatrix]) -> list[dict[str, Any]]:
    """Return a plan as JSON values, the inverse of `from_values`: parameters by how they are quantized."""
    groups: dict[tuple[Scheme, bool, bool], dict[str, Stored | None]] = {}
    for name, matrix in plan.items():
        key = (matrix.scheme, matrix.by_columns, matrix.importance is not None)
        groups.setdefault(key, {})[name] = matrix.stored
    return [
        {
            **asdict(scheme),
            **{"by_columns": by_columns, "calibrated": is_calibrated, "parameters": list(names)},
            **_stored_values(names),
        }
        for (scheme, by_columns, is_calibrated), names in groups.items()
    ]


def _stored_values(names: Mapping[str, Stored | None]) -> dict[str, Any]:
    stored = {name: asdict(one) for name, one in names.items() if one is not None}
    return {"stored": stored} if stored else {}


def from_values(values: Sequence[Mapping[str, Any]], importance: Mapping[str, Array]) -> dict[str, QuantizedMatrix]:
    """Return a plan from the result of `to_values`.

    Args:
        values: groups of parameters that are quantized alike.
        importance: the mean square of each input of calibrated layers, by the full name of its weight.

    Raises:
        ValueError: the values aren't a plan, or a calibrated layer isn't among those of `importance`.
    """
    plan: dict[str, QuantizedMatrix] = {}
    for group in values:
        try:
            settings = {name: value for name, value in group.items() if name not in _OF_PARAMETERS}
            kind: type[Scheme] = BlockScheme if "bits" in settings else RowScheme if "signed" in settings else Nf4Scheme
            scheme = typed(settings, kind, "quantization")
            parameters = typed(group["parameters"], list[str], "quantization.parameters")
            by_columns = typed(group["by_columns"], bool, "quantization.by_columns")
            is_calibrated = typed(group["calibrated"], bool, "quantization.calibrated")
            stored = typed(group.get("stored", {}), dict[str, Stored], "quantization.stored")
        except KeyError as error:
            raise ValueError(f"{brief(group)} isn't a quantization: it lacks {error}") from error
        for name in parameters:
            if is_calibrated and name not in importance:
                raise ValueError(f"calibration.safetensors lacks {name}")
            measured = InMemory(importance[name]) if is_calibrated else None
            plan[name] = QuantizedMatrix(scheme, by_columns, measured, stored=stored.get(name))
    return plan


_OF_PARAMETERS = ("by_columns", "calibrated", "parameters", "stored")
