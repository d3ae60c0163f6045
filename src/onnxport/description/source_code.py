"""Write a description as a Python module: a class whose inputs and outputs are literal, to be edited and exported with.

What a description does beside that (a cache, pooling, an encoder alone) isn't in the literals. Where a class of
`onnxport.architectures` does it, the printed class extends that; where it was derived from the model, it isn't printed.
"""

from __future__ import annotations

import re

from onnxport.configs import OnnxConfig
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.description import Description, GraphDescription, TensorSpec
from onnxport.description.sentence_embedding import SentenceEmbeddingOnnxConfig
from onnxport.errors import UnsupportedError

_HOOKS = (
    *("run", "generate_dummy_inputs", "generate_dummy_inputs_onnxruntime", "values_override", "model_values"),
    *("static_symbols", "past_to_cache", "cache_to_past", "flatten_output_collection_property", "_component"),
    *("default_fixed_batch", "default_fixed_sequence", "default_fixed_num_choices", "patch_ops", "restore_ops"),
    "multiples",
)
"""What a description may override, beside what is printed."""


def python_module(description: Description) -> str:
    """Return the source of a module that describes a graph as a checkpoint was described.

    Args:
        description: of a checkpoint that becomes one graph.

    Raises:
        UnsupportedError: it becomes several graphs, or running it takes more than a class with literals.
    """
    if len(description.graphs) != 1:
        names = [graph.name for graph in description.graphs]
        multimodal = "embed_tokens" in names  # without past, it becomes several, too
        remedy = "print them with --json" if multimodal else "add --no-past, or name the task without -with-past"
        raise UnsupportedError(
            f"--python describes one graph, and {description.model} becomes several ({', '.join(names)}): {remedy}"
        )
    (graph,) = description.graphs
    base, feature = _base_class(graph), graph.code.config.task
    return "\n".join(
        [
            *_header(description, base),
            *_axes_property("inputs", "Inputs of the graph, in order, with their dynamic axes.", graph.inputs),
            *_axes_property("outputs", "Outputs of the graph, in order, with their dynamic axes.", graph.outputs),
            *_literal_property(
                "atol_for_validation", "float", "Largest absolute difference that is still right.", graph.atol
            ),
            *_literal_property("default_onnx_opset", "int", "Opset of the graph.", graph.opset),
            *(_POSITION_IDS_METHOD if base is OnnxConfig and _has_positions(graph) else ()),
            *_constructor(base, feature, past=bool(getattr(graph.code.config, "use_past", False))),
            "",
        ]
    )


def _base_class(graph: GraphDescription) -> type[OnnxConfig]:
    """Return the class that the printed one extends.

    Raises:
        UnsupportedError: none does.
    """
    kind = type(graph.code.config)
    past = bool(getattr(graph.code.config, "use_past", False))
    if isinstance(graph.code.config, DerivedOnnxConfig) and graph.code.config.is_plain:
        return OnnxConfig
    if graph.source == "hand-written" and not isinstance(graph.code.config, SentenceEmbeddingOnnxConfig):
        return kind if _overridden_hooks(kind) or past or graph.code.config._patching_specs else OnnxConfig
    what = "with a cache" if past else f"as {kind.__name__} does"
    raise UnsupportedError(
        f"--python can't write a description that runs the model {what}"
        + ("; add --no-past, or name the task without -with-past" if past else "; print it with --json")
    )


def _overridden_hooks(kind: type[OnnxConfig]) -> list[str]:
    """Name the hooks that a class doesn't have from `OnnxConfig`."""
    own = [base for base in kind.__mro__ if base not in OnnxConfig.__mro__]
    return [hook for hook in _HOOKS if any(hook in vars(base) for base in own)]


def _has_positions(graph: GraphDescription) -> bool:
    return any(tensor.name == "position_ids" for tensor in graph.inputs)


def _header(description: Description, base: type[OnnxConfig]) -> list[str]:
    module = "onnxport.onnx" if base is OnnxConfig else base.__module__
    return [
        f'"""How {description.architecture} is exported for {description.task}, as onnxport describe printed it.',
        "",
        "Edit it, and name this file: onnxport export MODEL OUTPUT --description FILE. A loaded model is exported by",
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
    """Return an axis's label; a new name for one that isn't a sum of others."""
    label = tensor.labels[axis]
    return label if _SYMBOL_SUM.fullmatch(label) else f"{tensor.name}_{axis}"


_SYMBOL_SUM = re.compile(r"[A-Za-z_]\w*( \+ [A-Za-z_]\w*)*")


def _literal_property(name: str, kind: str, text: str, value: float) -> list[str]:
    head = ["", "    @property", f"    def {name}(self) -> {kind}:"]
    return [*head, f'        """{text}"""', f"        return {value!r}"]


_POSITION_IDS_METHOD = (
    "",
    "    def generate_dummy_inputs(self, preprocessor: Any, *sizes: Any, **named: Any) -> Mapping[str, Any]:",
    '        """Make inputs with the preprocessor, and the places of the tokens."""',
    "        import torch",
    "",
    '        made = dict(super().generate_dummy_inputs(preprocessor, *sizes, **{**named, "framework": "pt"}))',
    '        batch, length = made["input_ids"].shape',
    '        made["position_ids"] = torch.arange(length).expand(batch, length).clone()',
    "        return made",
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
