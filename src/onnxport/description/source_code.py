"""Print a description as a Python module: a class with literal inputs and outputs, to edit and to export with.

The behaviour of a description (a cache, pooling, a separate encoder) can't be printed as literals. If a class in
`onnxport.architectures` defines it, the printed class inherits from that class; if it was derived from the model, the
description isn't printed.
"""

from __future__ import annotations

import re

from onnxport.configs import OnnxConfig
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.description import Description, GraphDescription, TensorSpec
from onnxport.description.documented_inputs import CompletedOnnxConfig
from onnxport.errors import UnsupportedError

_HOOKS = (
    *("run", "generate_dummy_inputs", "generate_dummy_inputs_onnxruntime", "values_override", "model_values"),
    *("static_symbols", "past_to_cache", "cache_to_past", "flatten_output_collection_property", "_component"),
    *("default_fixed_batch", "default_fixed_sequence", "default_fixed_num_choices", "patch_ops", "restore_ops"),
    "multiples",
)
"""Members that a description may override besides the printed ones."""


def python_module(description: Description) -> str:
    """Return the source of a module with the description of a checkpoint's graph.

    Args:
        description: description of a checkpoint that is exported as one graph.

    Raises:
        UnsupportedError: the export has several graphs, or its description can't be printed.
    """
    if len(description.graphs) != 1:
        names = [graph.name for graph in description.graphs]
        multimodal = "embed_tokens" in names  # several graphs also without past
        remedy = "print them with --json" if multimodal else "add --no-past, or name the task without -with-past"
        raise UnsupportedError(
            f"--python prints one graph, but {description.model} is exported as several ({', '.join(names)}): {remedy}"
        )
    (graph,) = description.graphs
    base, feature = _base_class(graph), graph.code.config.task
    return "\n".join(
        [
            *_header(description, base),
            *_axes_property("inputs", "Inputs of the graph, in order, with their dynamic axes.", graph.inputs),
            *_axes_property("outputs", "Outputs of the graph, in order, with their dynamic axes.", graph.outputs),
            *_literal_property("atol_for_validation", "float", "Absolute tolerance of validation.", graph.atol),
            *_literal_property("default_onnx_opset", "int", "Minimum opset of the model.", graph.opset),
            *(_POSITION_IDS_METHOD if base is OnnxConfig and _has_positions(graph) else ()),
            *_added_inputs_method(graph),
            *_constructor(base, feature, past=bool(getattr(graph.code.config, "use_past", False))),
            "",
        ]
    )


def _base_class(graph: GraphDescription) -> type[OnnxConfig]:
    """Return the base class of the printed class.

    Raises:
        UnsupportedError: the description can't be printed.
    """
    config = graph.code.config.trunk if isinstance(graph.code.config, CompletedOnnxConfig) else graph.code.config
    cls, past = type(config), bool(getattr(config, "use_past", False))
    if isinstance(config, DerivedOnnxConfig) and config.is_plain:
        return OnnxConfig
    if graph.source == "hand-written" and not isinstance(config, DelegatingOnnxConfig):
        return cls if _overridden_hooks(cls) or past or config._patching_specs else OnnxConfig
    behaviour = "with a cache" if past else f"as {cls.__name__} does"
    raise UnsupportedError(
        f"--python can't print a description that runs the model {behaviour}"
        + ("; add --no-past, or name the task without -with-past" if past else "; print it with --json")
    )


def _overridden_hooks(cls: type[OnnxConfig]) -> list[str]:
    """Return the hooks that a class or its bases override in `OnnxConfig`."""
    bases = [base for base in cls.__mro__ if base not in OnnxConfig.__mro__]
    return [hook for hook in _HOOKS if any(hook in vars(base) for base in bases)]


def _has_positions(graph: GraphDescription) -> bool:
    return any(tensor.name == "position_ids" for tensor in graph.inputs)


def _header(description: Description, base: type[OnnxConfig]) -> list[str]:
    module = "onnxport.onnx" if base is OnnxConfig else base.__module__
    return [
        f'"""The description of {description.architecture} for {description.task}, printed by onnxport describe.',
        "",
        "Edit it and export with it: onnxport export MODEL OUTPUT --description FILE. A loaded model is exported by",
        "`onnxport.onnx.export` with `make_config(model.config)`.",
        '"""',
        "",
        "from collections.abc import Mapping",
        "from typing import Any",
        "",
        "from transformers import PreTrainedConfig",
        "",
        f"from {module} import {base.__name__}",
        "",
        "",
        f"class FrozenOnnxConfig({base.__name__}):",
        f'    """Describe {description.architecture} for {description.task}."""',
    ]


def _axes_property(name: str, text: str, tensors: tuple[TensorSpec, ...]) -> list[str]:
    entries = []
    for tensor in tensors:
        axes = ", ".join(f'{axis}: "{_label(tensor, axis)}"' for axis in tensor.labels)
        entries.append(f'            "{tensor.name}": {{{axes}}},')
    start = ["", "    @property", f"    def {name}(self) -> Mapping[str, Mapping[int, str]]:", f'        """{text}"""']
    return [*start, "        return {", *entries, "        }"]


def _label(tensor: TensorSpec, axis: int) -> str:
    """Return the label of an axis; a new one if it isn't a symbol or a sum of symbols."""
    label = tensor.labels[axis]
    return label if _SYMBOL_SUM.fullmatch(label) else f"{tensor.name}_{axis}"


_SYMBOL_SUM = re.compile(r"[A-Za-z_]\w*( \+ [A-Za-z_]\w*)*")


def _literal_property(name: str, value_type: str, text: str, value: float) -> list[str]:
    head = ["", "    @property", f"    def {name}(self) -> {value_type}:"]
    return [*head, f'        """{text}"""', f"        return {value!r}"]


_POSITION_IDS_METHOD = (
    "",
    "    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:",
    '        """Make inputs with the preprocessor, and `position_ids`."""',
    "        import torch",
    "",
    '        inputs = dict(super().generate_dummy_inputs(preprocessor, *sizes, **{**named, "framework": "pt"}))',
    '        batch, length = inputs["input_ids"].shape',
    '        inputs["position_ids"] = torch.arange(length).expand(batch, length).clone()',
    "        return inputs",
)


def _added_inputs_method(graph: GraphDescription) -> list[str]:
    """Return a method that makes the inputs that the preprocessor doesn't: ones of the sizes of the other inputs."""
    config = graph.code.config
    names = [one.name for one in config.added] if isinstance(config, CompletedOnnxConfig) else []
    if not names:
        return []
    sizes: dict[str, str] = {}
    for spec in graph.inputs:
        if spec.name not in names:
            for axis, label in spec.labels.items():
                sizes.setdefault(label, f'inputs["{spec.name}"].shape[{axis}]')
    lines = []
    for spec in (spec for spec in graph.inputs if spec.name in names):
        shape = [sizes.get(spec.labels.get(axis, ""), str(size)) for axis, size in enumerate(spec.example)]
        lines.append(f'        inputs["{spec.name}"] = torch.ones(({", ".join(shape)},), dtype=torch.{spec.dtype})')
    return [*_ADDED_INPUTS_HEAD, *lines, "        return inputs"]


_ADDED_INPUTS_HEAD = (
    "",
    "    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:",
    '        """Make inputs with the preprocessor, and those that it doesn\'t make."""',
    "        import torch",
    "",
    '        inputs = dict(super().generate_dummy_inputs(preprocessor, *sizes, **{**named, "framework": "pt"}))',
)


def _constructor(base: type[OnnxConfig], feature: str, *, past: bool) -> list[str]:
    make = "with_past" if past else "from_model_config"
    return [
        "",
        "",
        "def make_config(config: PreTrainedConfig) -> FrozenOnnxConfig:",
        '    """Return the description of a model with a configuration."""',
        f'    return FrozenOnnxConfig.{make}(config, task="{feature}")',
    ]
