"""The layout of Triton Inference Server: a model repository, with one model for each graph.

A graph is `NAME/1/model.onnx` with `NAME/config.pbtxt`, run by the backend onnxruntime. Graphs without a cache that
take the outputs of others are an ensemble, too, which runs all of them for one request. The settings, the tokenizer and
the manifest at the top are for the client. Other folders are left out: the server takes each for a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.description.components import CODES_DECODER
from onnxport.layouts._layout import Exported, Layout

_MAX_BATCH_SIZE = 32
_BATCH = "batch_size"
_TYPES = {
    **{"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "float64": "FP64", "bool": "BOOL"},
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def _texts(exported: Exported) -> Mapping[str, str]:
    """Return the configuration of each model of the repository, and of the ensemble of each precision."""
    manifest = exported.manifest
    texts = {f"{_name(component)}/config.pbtxt": _configuration(component) for component in manifest.components}
    for dtype in manifest.dtypes:
        name = "ensemble" if dtype == manifest.dtypes[0] else f"ensemble_{dtype}"
        if configuration := _ensemble(name, manifest.of_dtype(dtype).components):
            texts |= {f"{name}/config.pbtxt": configuration, f"{name}/1/ensemble.txt": _VERSION}
    return texts


_VERSION = "The server requires the folder of a version, also of an ensemble, which has no model file.\n"


def _name(component: ComponentDescription) -> str:
    return component.file.removesuffix(".onnx")


def _configuration(component: ComponentDescription) -> str:
    """Return a model configuration; requests are put into one batch if every input and output has a free batch axis."""
    batched = _has_batch(component)
    lines = [f'name: "{_name(component)}"', 'backend: "onnxruntime"']
    lines += _interface(component.inputs, component.outputs, batched=batched)
    lines += ["instance_group [\n  {\n    count: 1\n    kind: KIND_AUTO\n  }\n]"]
    return "\n".join([*lines, *(["dynamic_batching { }"] if batched else [])]) + "\n"


def _has_batch(component: ComponentDescription) -> bool:
    return all(value.axes[:1] == (_BATCH,) for value in (*component.inputs, *component.outputs))


def _interface(
    inputs: Iterable[TensorDescription], outputs: Iterable[TensorDescription], *, batched: bool, reshaped: bool = True
) -> Iterator[str]:
    yield f"max_batch_size: {_MAX_BATCH_SIZE if batched else 0}"
    for side, values in (("input", inputs), ("output", outputs)):
        tensors = ",\n".join(_tensor(value, batched=batched, reshaped=reshaped) for value in values)
        yield f"{side} [\n{tensors}\n]"


def _ensemble(name: str, components: Sequence[ComponentDescription]) -> str:
    """Return the configuration of an ensemble, in which a graph takes the outputs of earlier ones by their names.

    Empty if none does, if they run step by step, or one decodes what another encodes, or if names are ambiguous.
    """
    taken, made, consumed = dict[str, TensorDescription](), dict[str, TensorDescription](), set[str]()
    for component in components:
        for value in component.inputs:
            known = made.get(value.name) or taken.setdefault(value.name, value)
            consumed |= {value.name} & made.keys()
            if value.name.startswith("past_") or (known.dtype, len(known.axes)) != (value.dtype, len(value.axes)):
                return ""
        made_here = {value.name: value for value in component.outputs}
        if component.name == CODES_DECODER or made_here.keys() & (made.keys() | taken.keys()):
            return ""
        made |= made_here
    if not consumed:
        return ""
    last = [item for item in components if consumed.isdisjoint(value.name for value in item.outputs)]
    returned = [value for component in last for value in component.outputs]
    batched = all(map(_has_batch, components))
    lines = [f'name: "{name}"', 'platform: "ensemble"']
    lines += _interface(taken.values(), returned, batched=batched, reshaped=False)
    steps = ",\n".join(map(_step, components))
    return "\n".join([*lines, f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}"]) + "\n"


def _step(component: ComponentDescription) -> str:
    lines = [f'model_name: "{_name(component)}"', "model_version: -1"]
    for side, values in (("input", component.inputs), ("output", component.outputs)):
        lines += [f'{side}_map {{ key: "{value.name}" value: "{value.name}" }}' for value in values]
    return "\n".join(["    {", *(f"      {line}" for line in lines), "    }"])


def _tensor(value: TensorDescription, *, batched: bool, reshaped: bool) -> str:
    """Return the description of an input or output; a scalar is a tensor of one element, which a model reshapes."""
    axes = [axis if isinstance(axis, int) else -1 for axis in value.axes[1 if batched else 0 :]]
    lines = [
        f'name: "{value.name}"',
        f"data_type: TYPE_{_TYPES[value.dtype]}",
        f"dims: [ {', '.join(map(str, axes or [1]))} ]",
    ]
    lines += [] if axes or not reshaped else ["reshape: { shape: [ ] }"]
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
