"""Translate Keras variable names and layouts to those of Transformers 4's PyTorch models.

Besides the conventions of Keras layers, Transformers' TensorFlow variable names follow two rules: `_._` separates a
list index, and `a___b` means `b`. Model-specific exceptions are in the table `_EXCEPTIONS`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

# Keras leaf → PyTorch leaves to try, in order.
_LEAVES: dict[str, tuple[str, ...]] = {
    "kernel": ("weight",),
    "embeddings": ("weight", "embeddings"),
    "gamma": ("weight", "gamma"),
    "beta": ("bias", "beta"),
    "moving_mean": ("running_mean",),
    "moving_variance": ("running_var",),
    "depthwise_kernel": ("depthwise.weight", "weight"),
    "pointwise_kernel": ("pointwise.weight", "weight"),
}

# Pattern in a translated name → replacement, for models whose TensorFlow modules have other names. TFDeBERTa v2 used
# the names of DeBERTa v1.
_EXCEPTIONS = (
    (r"\.attention\.self\.pos_proj\.", ".attention.self.pos_key_proj."),
    (r"\.attention\.self\.pos_q_proj\.", ".attention.self.pos_query_proj."),
)

# Variables that the TensorFlow models create but never use: ALBERT adds `decoder/bias` instead.
_DEAD = (r"^[^/]*albert[^/]*/predictions/bias(:\d+)?$",)

_AXES: dict[tuple[str, int], tuple[int, ...]] = {
    ("kernel", 2): (1, 0),
    ("kernel", 3): (2, 1, 0),
    ("kernel", 4): (3, 2, 0, 1),
    ("pointwise_kernel", 3): (2, 1, 0),
    ("pointwise_kernel", 4): (3, 2, 0, 1),
    ("depthwise_kernel", 3): (1, 2, 0),
    ("depthwise_kernel", 4): (2, 3, 0, 1),
}


def leaf(variable: str) -> str:
    """Return the last component of a Keras variable name, without the `:0`."""
    return re.sub(r":\d+$", "", variable).rsplit("/", 1)[-1]


def is_dead(variable: str) -> bool:
    """Return whether the TensorFlow model creates a variable without using it."""
    return any(re.search(pattern, variable) for pattern in _DEAD)


def pytorch_names(variable: str) -> tuple[str, ...]:
    """Return the candidate names of a variable in a Transformers 4 PyTorch state dict, most likely first.

    Args:
        variable: for example `tf_bert_for_masked_lm/mlm___cls/predictions/transform/dense/kernel:0`.

    Returns:
        For example `("cls.predictions.transform.dense.weight", …)`. The first candidates don't have the outermost
        scope, which is the model.
    """
    levels = re.sub(r":\d+$", "", variable).split("/")
    levels = [part for level in levels for part in level.rsplit("___", 1)[-1].split("_._") if part]
    names: list[str] = []
    for start in (1, 0) if len(levels) > 1 else (0,):
        for last in _LEAVES.get(levels[-1], (levels[-1],)):
            name = ".".join([*levels[start:-1], last])
            names += [re.sub(pattern, new, name) for pattern, new in _EXCEPTIONS if re.search(pattern, name)]
            names.append(name)
    return tuple(dict.fromkeys(names))


def pytorch_layout(variable: str, array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Permute a variable's array to PyTorch's layout.

    Keras kernels end with (in, out), and PyTorch weights begin with (out, in). Other variables, including GPT-2's
    Conv1D, have the same layout in both. Axes of size 1 are added or removed to match `shape`, and the last two axes of
    a depthwise kernel (in, multiplier) are merged.

    Args:
        variable: the Keras variable name, whose last component determines the layout.
        array: values in Keras layout.
        shape: shape of the PyTorch parameter.

    Returns:
        The permuted array. Its shape is `shape` unless the variable doesn't match, which the caller reports.
    """
    name = leaf(variable)
    axes = _AXES.get((name, array.ndim))
    if axes is not None:
        array = array.transpose(axes)
    if name == "depthwise_kernel" and array.size == int(np.prod(shape)):
        return array.reshape(shape)
    if _without_ones(array.shape) == _without_ones(shape):
        return array.reshape(shape)
    return array


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)
