"""A graph's signature: flat names of inputs and outputs, in order, with labelled axes; sizes of the labels' symbols.

`signature_of` builds it from an OnnxConfig once; tracing, validation and the manifest use the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.description.axes import PAST_INPUTS, symbols_of, today_label, true_label
from onnxport.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

    from onnxport.configs import OnnxConfig

_PER_IMAGE_TENSORS = (
    "logits_per_image",
    "image_embeds",
    "pixel_values",
    "images",
    "pixel_attention_mask",
    "spatial_shapes",
)
"""Inputs and outputs of dual encoders of text and images whose batch axis is that of the images."""

Labels = dict[str, dict[int, str]]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Signature:
    """Name the inputs and outputs of a graph.

    Attributes:
        inputs: flat input name to (axis to label), in the graph's order.
        outputs: flat output name to (axis to label), in the graph's order.
    """

    inputs: Labels
    outputs: Labels

    def for_inputs(self, names: Mapping[str, Any]) -> Signature:
        """Return the signature with only the inputs in `names`: a description may list inputs that a head lacks."""
        return Signature({name: axes for name, axes in self.inputs.items() if name in names}, self.outputs)

    def relabelled(self, label: Callable[[str], str]) -> Signature:
        """Return the signature with `label` applied to every label."""
        return Signature(_relabel(self.inputs, label), _relabel(self.outputs, label))

    def today(self) -> Signature:
        """Return the same signature with the axis names that today's clients expect."""
        return self.relabelled(today_label)


def _relabel(labels: Labels, label: Callable[[str], str]) -> Labels:
    return {name: {axis: label(text) for axis, text in axes.items()} for name, axes in labels.items()}


def signature_of(config: OnnxConfig) -> Signature:
    """Return the signature of a configuration, with labels that hold for every tensor.

    4.37.2 labelled a past input as the present, didn't label the length of `decoder_input_ids` with past or the size of
    `pixel_mask`, and required equal batch sizes of text and images. The signature corrects these labels; the
    configuration itself is unchanged.
    """
    static = config.static_symbols
    seq2seq = any("past_encoder_sequence" in axes.values() for axes in config.inputs.values())
    inputs = {
        name: {axis: true_label(name, text) for axis, text in axes.items() if text not in static}
        for name, axes in config.inputs.items()
    }
    outputs = {name: dict(axes) for name, axes in config.outputs.items()}
    if "pixel_mask" in inputs:
        inputs["pixel_mask"].update({1: "height", 2: "width"})
    if "logits_per_image" in outputs:
        for name in _PER_IMAGE_TENSORS:
            (inputs if name in inputs else outputs).get(name, {})[0] = "image_batch"
    if not seq2seq:
        past = any(name.startswith(PAST_INPUTS) for name in inputs)
        if past and inputs.get("attention_mask") == inputs.get("input_ids"):
            inputs["attention_mask"][1] = f"past_sequence + {inputs['input_ids'][1]}"
        return Signature(inputs, outputs)
    if "decoder_input_ids" in inputs:
        inputs["decoder_input_ids"].setdefault(1, "decoder_sequence")
    corrections = {"past_decoder_sequence + sequence": "past_decoder_sequence + decoder_sequence"}
    mask = inputs.get("attention_mask", {}).get(1, "past_decoder_sequence")
    if "past_decoder_sequence" not in mask:  # it masks the encoder's hidden states, and so the cross-attention keys
        inputs["attention_mask"][1] = "encoder_sequence"
        corrections["past_encoder_sequence"] = "encoder_sequence"
    return Signature(inputs, outputs).relabelled(lambda label: corrections.get(label, label))


def sizes_of(signature: Signature, tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Find the size of every symbol from example tensors; see `solve`."""
    return solve(signature, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def solve(signature: Signature, shapes: Shapes) -> dict[str, int]:
    """Find the size of every symbol from example shapes.

    Args:
        signature: the labelled inputs.
        shapes: input name to shape.

    Returns:
        Symbol to size: the smallest if some axes are multiples of it. A symbol that occurs only in sums is found by
        subtraction.

    Raises:
        UnsupportedError: an axis has a label that the input doesn't have.
    """
    sizes: dict[str, int] = {}
    sums: list[tuple[tuple[str, ...], int]] = []
    for name, axes in signature.inputs.items():
        for axis, label in axes.items():
            symbols = symbols_of(label)
            if name in shapes and axis >= len(shapes[name]):
                raise UnsupportedError(f"the description labels axis {axis} of {name}, whose shape is {shapes[name]}")
            if name in shapes and len(symbols) == 1:
                known, size = sizes.setdefault(label, shapes[name][axis]), shapes[name][axis]
                if 0 < size < known and known % size == 0:  # the first was a multiple of it
                    sizes[label] = size
            elif name in shapes:
                sums.append((symbols, shapes[name][axis]))
    for symbols, total in sums:
        unknown = [symbol for symbol in symbols if symbol not in sizes]
        rest = total - sum(sizes.get(symbol, 0) for symbol in symbols)
        if len(unknown) == 1 and rest > 0:
            sizes[unknown[0]] = rest
    return sizes


def axis_size(label: str, size: int, old: Mapping[str, int], new: Mapping[str, int]) -> int:
    """Return the size of an axis after its symbols change from `old` to `new`.

    An axis that is a multiple of its symbol (Bloom folds the heads into the batch) stays that multiple; one with an
    unknown symbol keeps its size.

    Args:
        label: label of the axis.
        size: its size with the symbols' sizes in `old`.
        old: symbol to size, as `solve` returned it.
        new: symbol to size; unchanged symbols may be omitted.
    """
    symbols = symbols_of(label)
    if any(symbol not in old for symbol in symbols):
        return size
    total = sum(new.get(symbol, old[symbol]) for symbol in symbols)
    if len(symbols) == 1 and old[label] and size % old[label] == 0:
        return total * (size // old[label])
    return total
