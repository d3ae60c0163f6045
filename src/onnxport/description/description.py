"""The description of an export before it is traced: inputs, outputs, axes, cache and tolerances of each graph.

A model is described once, by running it. The serializable part is stored with the blueprint; the code that makes inputs
and runs the model exists only in the process that described it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from onnxport.description.arguments import Layout
from onnxport.description.axes import is_cached, is_fixed, today_label, with_sizes
from onnxport.description.cache_layout import CacheLayout, CrossAttentionLayout
from onnxport.description.delegating import DelegatingOnnxConfig
from onnxport.description.depth import LayerTypes, NotExtendableError, at_depth
from onnxport.description.encoder_outputs import MAIN_INPUTS, Modality
from onnxport.description.examples import Examples
from onnxport.description.positions import END_TOKEN, TOKENS
from onnxport.description.signature import signature_of, sizes_of
from onnxport.description.tasks import Task, canonical_task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig

_HAND_WRITTEN = ("onnxport.architectures.", "onnxport.configs.")


@dataclass(frozen=True)
class TensorSpec:
    """Describe an input or an output.

    Attributes:
        name: name in the graph.
        dtype: element type.
        axes: for each axis its size, or its label if it is dynamic.
        example: shape of the traced example.
        labels: dynamic axis to its label with the symbols of 4.37.2.
    """

    name: str
    dtype: str
    axes: tuple[int | str, ...]
    example: tuple[int, ...]
    labels: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, dtype: str, shape: tuple[int, ...], labels: dict[int, str]) -> Self:
        """Return the description of a tensor from the shape of its example."""
        axes = tuple(_today(labels[axis]) if axis in labels else size for axis, size in enumerate(shape))
        return cls(name, dtype, axes, shape, labels)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a description from the output of `asdict` after a JSON round trip, which makes keys strings.

        Raises:
            KeyError, TypeError, ValueError: the value has another structure.
        """
        labels = {int(axis): str(label) for axis, label in value["labels"].items()}
        return cls(value["name"], value["dtype"], tuple(value["axes"]), tuple(value["example"]), labels)


def _today(label: str) -> str:
    """Return a label with the symbols that today's clients expect."""
    return re.sub(r"[A-Za-z_]\w*", lambda symbol: today_label(symbol[0]), label)


@dataclass(frozen=True)
class Runnable:
    """Hold the code of a description: it makes inputs, runs the model, and names its outputs.

    Attributes:
        config: the `OnnxConfig`.
        preprocessor: makes its dummy inputs: tokenizer, processor, image processor or feature extractor.
    """

    config: OnnxConfig
    preprocessor: Any

    @property
    def examples(self) -> Examples:
        """Example inputs at requested sizes, with the symbols that today's clients expect."""
        return Examples(self.config, signature_of(self.config).today(), self.preprocessor)

    @property
    def cache(self) -> CacheLayout | CrossAttentionLayout | None:
        """Layout of the graph's cache; None if it has none, or if only the class's code describes it."""
        config = self.config
        while isinstance(config, DelegatingOnnxConfig):
            config = config.trunk
        layouts = (value for value in vars(config).values() if isinstance(value, CacheLayout | CrossAttentionLayout))
        return next((layout for layout in layouts if layout.layers), None)

    def layout(self, sizes: Mapping[str, int]) -> Layout:
        """Make the inputs for the trace.

        Args:
            sizes: symbol to size in the trace.
        """
        examples = self.examples
        layout = examples.at()
        signature = examples.signature.for_inputs(layout.flat)
        default = sizes_of(signature, layout.flat)
        changes = {symbol: size for symbol, size in sizes.items() if default.get(symbol) != size}
        return examples.at(changes) if changes else layout


@dataclass(frozen=True)
class GraphDescription:
    """Describe a graph.

    Attributes:
        name: the component's name, `model` for a single graph.
        prefix: prefix of the component's parameter names in the exported model, such as `encoder.`.
        described_by: name of the class that describes it, without sentence-transformers modules.
        opset: its opset.
        atol: absolute tolerance of its validation.
        rtol: relative tolerance of its validation.
        inputs: in the graph's order.
        outputs: in the graph's order; empty until the model is traced, or run at several sizes.
        sizes: symbol to size in the traced example.
        cache: layout of the cache among its inputs and outputs; None if it has none.
        fixed_axes: axes that the description lists but the model requires to be static, as `input: label = size`.
        unused: parameters of the module's forward whose values it doesn't use.
        max_sizes: label of an input axis to the largest size that the graph computes as the model, of axes that have
            one.
        branch_sizes: label of an input axis to a size for which the model's code takes another branch than it took for
            the trace, of axes that have one; the validation includes it.
        fixed_sizes: symbol to the size that the export fixes its axes to.
        runnable: the code; None in a description that was read from a cache entry.
    """

    name: str
    prefix: str
    described_by: str
    opset: int
    atol: float
    rtol: float
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    cache: CacheLayout | CrossAttentionLayout | None = None
    fixed_axes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    max_sizes: Mapping[str, int] = field(default_factory=dict)
    branch_sizes: Mapping[str, int] = field(default_factory=dict)
    fixed_sizes: Mapping[str, int] = field(default_factory=dict)
    runnable: Runnable | None = field(default=None, repr=False, compare=False)

    @property
    def file(self) -> str:
        """Name of the graph's file."""
        return f"{self.name}.onnx"

    @property
    def source(self) -> str:
        """`hand-written`, or `derived` from the model."""
        return "hand-written" if self.described_by.startswith(_HAND_WRITTEN) else "derived"

    @property
    def code(self) -> Runnable:
        """The code of a description, which only the process that made it has."""
        assert self.runnable is not None, "a description from the cache has no code: describe the model again"
        return self.runnable

    def module_of(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the module of a model that is exported as the graph."""
        return model.get_submodule(self.prefix.removesuffix("."))  # type: ignore[return-value]

    def at_depth(self, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]) -> Self:
        """Return the description of the same graph of a deeper model; see `description.depth`.

        Raises:
            NotExtendableError: see `description.depth`; or an axis of an input is as long as a stack that is deeper.
        """
        lengths = {len(stack.shallow) for stack in stacks if stack.shallow != stack.deep}
        for spec in self.inputs:  # as MarkupLM's, with the tags of a token up to `max_depth`
            if not is_cached(spec.name) and not lengths.isdisjoint(spec.axes):
                raise NotExtendableError(f"{spec.name} may have an element for each layer")
        runnable = replace(self.code, config=at_depth(self.code.config, shallow, deep, stacks))
        dtype = next(iter(spec.dtype for spec in self.inputs if spec.dtype.startswith(("float", "bfloat"))), "float32")
        inputs = input_specs(runnable, runnable.layout(self.sizes), dtype, self.fixed_sizes)
        return replace(self, inputs=inputs, cache=runnable.cache, runnable=runnable)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the code as JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("runnable", "cache")}
        specs = {side: [asdict(spec) for spec in getattr(self, side)] for side in ("inputs", "outputs")}
        names = ("sizes", "max_sizes", "branch_sizes", "fixed_sizes")
        mappings = {name: dict(getattr(self, name)) for name in names}
        return {**values, **specs, **mappings, "cache": self.cache and self.cache.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a description from the output of `to_json`.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: the value has another structure.
        """
        specs = {side: tuple(map(TensorSpec.from_json, value[side])) for side in ("inputs", "outputs")}
        cache = value["cache"] and layout_from_json(value["cache"])
        lists = {name: tuple(value[name]) for name in ("fixed_axes", "unused")}
        return cls(**{**value, **specs, **lists, "cache": cache})


def layout_from_json(value: Mapping[str, Any]) -> CacheLayout | CrossAttentionLayout:
    """Build a cache's layout from the output of its `to_json`."""
    return CacheLayout.from_json(value) if "depth" in value else CrossAttentionLayout.from_json(value)


def described_by(config: OnnxConfig) -> str:
    """Return the name of the class that describes a graph, without modules and inputs that were added to it."""
    if isinstance(config, DelegatingOnnxConfig):
        return described_by(config.trunk)
    cls = type(config)
    return f"{cls.__module__}.{cls.__qualname__}"


def input_specs(
    runnable: Runnable, layout: Layout, dtype: str, fixed: Mapping[str, int] | None = None
) -> tuple[TensorSpec, ...]:
    """Describe the inputs of a graph.

    Args:
        runnable: its description labels their axes.
        layout: example inputs.
        dtype: floating-point type of the model and its inputs.
        fixed: symbol that today's clients expect to size, of symbols whose axes are static.
    """
    labels = signature_of(runnable.config).for_inputs(layout.flat).inputs
    specs = []
    for name, axes in labels.items():
        tensor = layout.flat[name]
        sizes = fixed or {}
        dynamic = {axis: with_sizes(label, sizes) for axis, label in axes.items() if not is_fixed(label, sizes)}
        tensor_dtype = dtype if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
        specs.append(TensorSpec.of(name, tensor_dtype, tuple(tensor.shape), dynamic))
    return tuple(specs)


@dataclass(frozen=True)
class Description:
    """Describe the export of a checkpoint.

    Attributes:
        model_type: `model_type` of its configuration.
        architecture: name of the model class that is exported.
        task: full name of the task.
        dtype: floating-point type of the weights in the graphs.
        graphs: one for each component.
        modalities: how the decoder takes the encoders' outputs; empty until the graphs are traced.
        left_out: parameter of forward that no graph has as an input to the reason.
        positions: what forward counts as position ids if it gets none; see `description.positions`.
        defaults: name of an input to what forward takes if it isn't passed: `zeros`, `first` (1 for the first token of
            each sequence, 0 for others), `patches/32` (1 for each patch of 32 x 32 pixels) or `required`; masks, token
            types and position ids without an entry are those of sequences without padding.
        reread_length: number of tokens beyond which generation reads all tokens again; see `description.positions`.
        adds_tokens: whether generation adds tokens to those of each step; see `description.positions`.
        end_token: the setting with the token that ends a sequence; see `description.positions`.
        notes: differences from an actual export.
        model: the model id or path that the user passed; empty in a blueprint, which fits all checkpoints of one shape.
    """

    model_type: str
    architecture: str
    task: str
    dtype: str
    graphs: tuple[GraphDescription, ...]
    modalities: tuple[Modality, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    positions: str = TOKENS
    defaults: Mapping[str, str] = field(default_factory=dict)
    reread_length: int = 0
    adds_tokens: bool = False
    end_token: str = END_TOKEN

    @property
    def canonical_task(self) -> Task:
        """The task."""
        return canonical_task(self.task)

    @property
    def reads_text(self) -> bool:
        """Whether the model takes token ids, and no images or audio."""
        names = {spec.name for graph in self.graphs for spec in graph.inputs}
        return "input_ids" in names and names.isdisjoint(MAIN_INPUTS)

    def at_depth(self, shallow: PreTrainedModel, deep: PreTrainedModel, stacks: Sequence[LayerTypes]) -> Self:
        """Return the description of the same model with more layers, without running it.

        Args:
            shallow: the model that was described.
            deep: the same model with more layers, or with weights.
            stacks: every stack whose layers differ in the deeper model.

        Raises:
            NotExtendableError: the cache's entries aren't those of the layers of one stack, or outputs are listed.
        """
        return replace(self, graphs=tuple(graph.at_depth(shallow, deep, stacks) for graph in self.graphs))

    def to_dict(self) -> dict[str, Any]:
        """Return the user-facing part as JSON values; deterministic for a checkpoint."""
        values = {name: getattr(self, name) for name in ("model", "model_type", "architecture", "task", "dtype")}
        graphs = [_graph_values(graph) for graph in self.graphs]
        return {**values, "notes": list(self.notes), "left_out": dict(self.left_out), "graphs": graphs}


def _graph_values(graph: GraphDescription) -> dict[str, Any]:
    names = ("name", "file", "source", "described_by", "opset", "atol", "rtol")
    values: dict[str, Any] = {name: getattr(graph, name) for name in names}
    for side in ("inputs", "outputs"):
        values[side] = [_without_labels(asdict(tensor)) for tensor in getattr(graph, side)]
    return {**values, "fixed_axes": list(graph.fixed_axes)}


def _without_labels(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if name != "labels"
    }
