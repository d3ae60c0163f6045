"""The layout of Triton Inference Server: a model repository, with one model for each graph.

A graph is `NAME/1/model.onnx` with `NAME/config.pbtxt`, run by the backend onnxruntime. The settings, the tokenizer and
the manifest at the top are for the client. Other folders are left out: the server takes each for a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.layouts._layout import Exported, Layout

_MAX_BATCH_SIZE = 32
_BATCH = "batch_size"
_TYPES = {
    **{"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64", "bool": "BOOL"},
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def _texts(exported: Exported) -> Mapping[str, str]:
    """Return the configuration of each model of the repository."""
    components = exported.manifest.components
    return {f"{_name(component)}/config.pbtxt": _configuration(component) for component in components}


def _name(component: ComponentDescription) -> str:
    return component.file.removesuffix(".onnx")


def _configuration(component: ComponentDescription) -> str:
    """Return a model configuration; requests are put into one batch if every input and output has a free batch axis."""
    batched = all(value.axes[:1] == (_BATCH,) for value in (*component.inputs, *component.outputs))
    lines = [f'name: "{_name(component)}"', 'backend: "onnxruntime"']
    lines += [f"max_batch_size: {_MAX_BATCH_SIZE if batched else 0}"]
    for side, values in (("input", component.inputs), ("output", component.outputs)):
        tensors = ",\n".join(_tensor(value, batched=batched) for value in values)
        lines += [f"{side} [\n{tensors}\n]"]
    lines += ["instance_group [\n  {\n    count: 1\n    kind: KIND_AUTO\n  }\n]"]
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else [])]) + "\n"


def _tensor(value: TensorDescription, *, batched: bool) -> str:
    """Return the description of an input or output; a scalar is a tensor of one element, which Triton reshapes."""
    axes = [axis if isinstance(axis, int) else -1 for axis in value.axes[1 if batched else 0 :]]
    lines = [
        f'name: "{value.name}"',
        f"data_type: TYPE_{_TYPES[value.dtype]}",
        f"dims: [ {', '.join(map(str, axes or [1]))} ]",
    ]
    lines += [] if axes else ["reshape: { shape: [ ] }"]
    return "\n".join(["  {", *(f"    {line}" for line in lines), "  }"])


def _check(exported: Exported) -> Iterator[str]:
    """Yield what a client of the server has to do itself."""
    if any(value.name.startswith("past_") for item in exported.manifest.components for value in item.inputs):
        yield "Triton runs one step of the decoder for each request: the client passes the cache, and chooses tokens"


LAYOUT = Layout(
    name="triton",
    client="Triton Inference Server",
    files={"*.onnx": "{stem}/1/model.onnx", "*.onnx_data*": "{stem}/1/{name}", "*/*": None, "*": "{name}"},
    texts=_texts,
    check=_check,
)
