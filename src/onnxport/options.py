"""Options of an export. One frozen dataclass serves the API, the CLI and the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import Literal, TypeVar, cast, get_args

from onnxport.errors import OptionError

FloatDtype = Literal["fp32", "fp16", "bf16"]
Dtype = Literal["fp32", "fp16", "bf16", "q8", "int8", "uint8", "q4", "q4f16", "bnb4", "q2", "q2f16"]
TokenDtype = Literal["int64", "int32"]
ValidationLevel = Literal["full", "quick", "none"]
ExternalData = Literal["auto", "always"]
Weights = Literal["copy", "link"]
Framework = Literal["pt", "tf"]
Optimize = Literal["none", "cpu", "cuda", "webgpu", "dml"]

Progress = Callable[[str, float | None], None]
"""Callback that receives a stage of the export and its completed fraction, None if unknown."""

DEFAULT_LAYOUT = "default"
"""The layout of every export that no other layout was chosen for: that of Optimum."""
_DEFAULT_DTYPE = "fp32"

MIN_OPSET = 18
"""Lowest ONNX opset that the engine (`torch.onnx`, exported-program path) produces."""
MAX_OPSET = 23
"""Highest ONNX opset that the engine's operator library produces."""
FUSED_OPSET = 23
"""First ONNX opset with `Attention`, `RotaryEmbedding` and `RMSNormalization`, which `--optimize cpu` uses."""
RANDOM, UNCALIBRATED = "random", "none"
"""`--calibration random`: random tokens instead of a text; `--calibration none`: nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """Choose which graphs are exported; the fields are those of `ExportOptions`."""

    task: str | None = None
    past: bool = True
    last_logits: bool = False
    split_encoders: bool = False
    description: str | None = None
    inputs_embeds: bool = False
    image_processing: bool = False
    outputs: tuple[str, ...] | None = None
    fix: Mapping[str, int] | None = None
    token_dtype: TokenDtype = "int64"
    io_dtype: FloatDtype | None = None
    opset: int | None = None
    optimize: Optimize = "none"
    dtype: FloatDtype = "fp32"
    stamping: bool = True


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Choose how a checkpoint is found and read; the fields are those of `ExportOptions`.

    The task decides whether the modules of a sentence-transformers directory are part of the model.
    """

    task: str | None = None
    split_encoders: bool = False
    route: str | None = None
    framework: Framework | None = None
    adapter: str | None = None
    revision: str | None = None
    cache_dir: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False
    dtype: FloatDtype = "fp32"
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Choose how an export is validated; the fields are those of `ExportOptions`."""

    validate: ValidationLevel = "full"
    atol: float | None = None
    rtol: float | None = None
    memory: int | None = None
    dtype: FloatDtype = "fp32"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Choose how files are written; the fields are those of `ExportOptions`."""

    external_data: ExternalData = "auto"
    weights: Weights = "copy"
    dry_run: bool = False
    force: bool = False
    keep_invalid: bool = False
    dtype: FloatDtype = "fp32"


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """Choose how matrices are quantized.

    Attributes:
        block_size: elements of a row that share a scale: a power of 2 from 16 to 256.
        symmetric: whether blocks have no zero point.
        accuracy_level: type of the activations that ONNX Runtime's `MatMulNBits` computes with: 4 for int8, 1 for
            float32, 0 for the type of the graph.
        lm_head: bits of the layer that computes the logits, and of an embedding that is tied to it: 2, 4 or 8; None for
            those of the other layers.
        weight_only: whether `q8` and `int8` quantize weights alone, in blocks: slower than with 8-bit activations, and
            closer to the original.
        gptq: whether weights in blocks are rounded one column after another, so that later columns compensate for
            errors; with `--calibration`.

    Raises:
        OptionError: a value is out of range.
    """

    block_size: int = 32
    symmetric: bool = True
    accuracy_level: int = 4
    lm_head: int | None = None
    weight_only: bool = False
    gptq: bool = False

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[int | None, ...]] = {
            "block_size": (16, 32, 64, 128, 256),
            "symmetric": (False, True),
            "accuracy_level": (0, 1, 2, 3, 4),
            "lm_head": (None, 2, 4, 8),
            "weight_only": (False, True),
            "gptq": (False, True),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                choices = ", ".join(str(value) for value in values if value is not None)
                raise OptionError(f"--quantize-options {name}={getattr(self, name)!r} is not one of: {choices}")


Group = TypeVar("Group", GraphOptions, CheckpointOptions, ValidationOptions, OutputOptions)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Choose how a checkpoint is exported.

    Each field has its description in `metadata["help"]`, which the command line prints, too: `python -OO` removes
    docstrings.

    Raises:
        OptionError: a value is out of range.
    """

    task: str | None = field(
        default=None,
        metadata={
            "help": "task or feature name of 4.37.2: fill-mask or masked-lm (default: inferred from the checkpoint)"
        },
    )
    past: bool = field(
        default=True,
        metadata={"help": "export a generation task with its key/value cache, if the task is inferred"},
    )
    last_logits: bool = field(
        default=False, metadata={"help": "for text generation, return the logits of the last token only"}
    )
    split_encoders: bool = field(
        default=False,
        metadata={
            "help": "export the text and the image (or audio) encoder of a dual-encoder model as separate graphs, "
            "SAM's image encoder and its decoder of prompts, or both parts of an encoder-decoder without a head or of "
            "an audio codec"
        },
    )
    route: str | None = field(
        default=None,
        metadata={"help": "route of a sentence-transformers model with a Router, such as query or document"},
    )
    description: str | None = field(
        default=None,
        metadata={
            "help": "Python file that describes the model, as onnxport describe --python prints it; it is run, and its "
            "make_config(config) returns the OnnxConfig of the single graph (default: a built-in or a derived one)"
        },
    )
    inputs_embeds: bool = field(
        default=False,
        metadata={
            "help": "take inputs_embeds instead of input_ids, and export the token embeddings as embed_tokens.onnx"
        },
    )
    image_processing: bool = field(
        default=False,
        metadata={
            "help": "take raw images, and compute the image processor's resizing and normalization in the graph, and "
            "scores, boxes or maps of the images' size"
        },
    )
    outputs: tuple[str, ...] | None = field(
        default=None,
        metadata={
            "help": "further outputs of the model, by their names in Transformers: hidden_states,attentions (default: "
            "those of the task)"
        },
    )
    fix: Mapping[str, int] | None = field(
        default=None,
        metadata={
            "help": "axes to fix, and their sizes: batch_size=1,sequence_length=128; the names are those of describe "
            "and of the manifest (default: axes are dynamic)"
        },
    )
    token_dtype: TokenDtype = field(
        default="int64",
        metadata={"help": "integer type of token ids, masks, position ids and all other integers that are inputs"},
    )
    io_dtype: FloatDtype | None = field(
        default=None,
        metadata={"help": "floating-point type of inputs and outputs, except for the cache (default: that of --dtype)"},
    )
    opset: int | None = field(
        default=None, metadata={"help": f"ONNX opset, {MIN_OPSET} to {MAX_OPSET} (default: the engine's)"}
    )
    optimize: Optimize = field(
        default="none",
        metadata={
            "help": "fuse operators for an execution provider of ONNX Runtime; none: the operators that were traced"
        },
    )
    atol: float | None = field(
        default=None,
        metadata={"help": "largest absolute difference that validation accepts (default: that of the description)"},
    )
    rtol: float | None = field(
        default=None,
        metadata={"help": "largest relative difference that validation accepts (default: that of the description)"},
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "precision of the weights, one or several of " + ", ".join(get_args(Dtype)) + ": fp32,q8,q4 writes "
            "a graph for each, and traces the model once for each floating-point type (default: fp32, or those that "
            "clients of --layout choose from)"
        },
    )
    quantize_options: QuantizeOptions = field(
        default=QuantizeOptions(),
        metadata={
            "help": "how matrices are quantized: block_size=32,symmetric=true,accuracy_level=4,lm_head=8,weight_only,"
            "gptq (default: blocks of 32, symmetric, int8 activations, the head like the other layers)"
        },
    )
    calibration: str | None = field(
        default=None,
        metadata={
            "help": "text file that the original reads, so that weights are quantized for such inputs, and on which "
            "the loss of language models is measured; `random` for random tokens, or `none` (default: random tokens "
            "for q8, int8 and uint8 of models of text, no calibration for others, and the package's text for the loss)"
        },
    )
    device: str = field(
        default="cpu", metadata={"help": "torch device on which the model is traced and the reference is run"}
    )
    framework: Framework | None = field(
        default=None, metadata={"help": "tf to read tf_model.h5 (default: the weights that the checkpoint has)"}
    )
    adapter: str | None = field(
        default=None,
        metadata={"help": "directory or repository of a LoRA adapter to merge into the checkpoint's weights"},
    )
    adapter_inputs: bool = field(
        default=False,
        metadata={
            "help": "keep the adapter apart: the base model's graph takes the matrices of adapters as optional inputs, "
            "and the adapter is a file that ONNX Runtime loads"
        },
    )
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit on the hub"})
    cache_dir: str | None = field(
        default=None, metadata={"help": "cache directory of downloads (default: the hub client's)"}
    )
    token: str | None = field(default=None, repr=False, metadata={"help": "access token of the hub"})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "allow code in the checkpoint's repository to run"}
    )
    validate: ValidationLevel = field(
        default="full",
        metadata={"help": "full: at several input shapes; quick: at the traced one; none: skip validation"},
    )
    memory: int | None = field(
        default=None,
        metadata={"help": "memory limit of validation, in bytes (default: 60 % of the available memory)"},
    )
    layout: str = field(
        default=DEFAULT_LAYOUT,
        metadata={
            "help": "arrange the files for a client: transformers.js, genai, triton, or a layout of another package; "
            "default: optimum, sentence-transformers, ONNX Runtime and others"
        },
    )
    external_data: ExternalData = field(
        default="auto",
        metadata={"help": "always: weights in a separate file; auto: only above the 2 GiB limit of protobuf"},
    )
    weights: Weights = field(
        default="copy",
        metadata={
            "help": "copy the weights, or link the safetensors files into the output, without using time and disk space"
        },
    )
    cache: bool = field(
        default=True,
        metadata={"help": "reuse the cached graphs of earlier exports, and cache new ones"},
    )
    stamping: bool = field(
        default=True,
        metadata={
            "help": "trace a few layers and repeat them if they are proved isomorphic; otherwise trace all of them"
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "plan and report, write nothing"})
    force: bool = field(default=False, metadata={"help": "replace an output directory that isn't empty"})
    keep_invalid: bool = field(default=False, metadata={"help": "keep the output although validation failed"})

    def __post_init__(self) -> None:
        if self.dtype is None and self.layout == DEFAULT_LAYOUT:
            object.__setattr__(self, "dtype", _DEFAULT_DTYPE)
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                choices = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise OptionError(f"--{name.replace('_', '-')} {value!r} is not one of: {choices}")
        if not self.dtypes or len(set(self.dtypes)) < len(self.dtypes) or set(self.dtypes) - set(get_args(Dtype)):
            raise OptionError(
                f"--dtype {self.dtype!r} isn't one or several, once each, of: {', '.join(get_args(Dtype))}"
            )
        if not self.past and self.task is not None and self.task.endswith("-with-past"):
            raise OptionError(f"--task {self.task} and --no-past contradict each other: leave one of them out")
        if self.quantize_options.gptq and self.calibration_file is None:
            raise OptionError(
                "--quantize-options gptq quantizes for the inputs that a text gives: add --calibration FILE"
            )
        _check_opset(self)
        several = "--split-encoders" if self.split_encoders else "--inputs-embeds" if self.inputs_embeds else None
        if several is not None and self.description is not None:
            raise OptionError(f"--description describes one graph, and {several} asks for two: leave one out")
        _check_sizes(self.fix)
        _check_outputs(self)
        if self.memory is not None and self.memory < 1:
            raise OptionError(f"--memory {self.memory} is not a number of bytes above zero")
        for name in ("atol", "rtol"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise OptionError(f"--{name} {value!r} is not a finite number that is zero or more")

    @property
    def dtypes(self) -> tuple[Dtype, ...]:
        """The precisions, in the order of `dtype`."""
        dtype = _DEFAULT_DTYPE if self.dtype is None else self.dtype
        return tuple(cast("Dtype", name.strip()) for name in dtype.split(","))

    @property
    def float_dtypes(self) -> tuple[FloatDtype, ...]:
        """The types of activations of all precisions, each once; the model is traced once for each."""
        return tuple(dict.fromkeys(map(float_dtype_of, self.dtypes)))

    @property
    def calibration_file(self) -> str | None:
        """The text that the original reads, or on which the loss is measured; None for the package's."""
        return None if self.calibration in (RANDOM, UNCALIBRATED) else self.calibration

    @property
    def graph(self) -> GraphOptions:
        """The options of the graphs."""
        return self._group(GraphOptions)

    @property
    def checkpoint(self) -> CheckpointOptions:
        """The options of finding and reading the checkpoint."""
        return self._group(CheckpointOptions)

    @property
    def validation(self) -> ValidationOptions:
        """The options of the validation."""
        return self._group(ValidationOptions)

    @property
    def output(self) -> OutputOptions:
        """The options of writing files."""
        return self._group(OutputOptions)

    def _group(self, group: type[Group]) -> Group:
        values = {option.name: getattr(self, option.name) for option in fields(group)}
        return group(**{**values, "dtype": self.float_dtypes[0]})


def float_dtype_of(name: Dtype) -> FloatDtype:
    """Return the type of the activations of a precision."""
    if name in ("fp32", "fp16", "bf16"):
        return name
    return "fp16" if name.endswith("f16") else "fp32"


def _check_opset(options: ExportOptions) -> None:
    opset, optimize = options.opset, options.optimize
    if opset is None:
        return
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise OptionError(
            f"--opset {opset} is out of range: the engine produces {MIN_OPSET} to {MAX_OPSET}; "
            "leave the option out for the default"
        )
    if optimize != "none" and (opset >= FUSED_OPSET) != (optimize == "cpu"):
        allowed = f"from {FUSED_OPSET}" if optimize == "cpu" else f"up to {FUSED_OPSET - 1}"
        raise OptionError(f"--optimize {optimize} is for opsets {allowed}, not {opset}: leave --opset out")


def _check_sizes(fix: Mapping[str, int] | None) -> None:
    """Check the sizes of `--fix`: an axis has at least one element, that of a cache may have none."""
    if fix is not None and not isinstance(fix, Mapping):
        raise OptionError(f"--fix {fix!r} doesn't map axes to sizes: pass batch_size=1,sequence_length=128")
    for axis, size in (fix or {}).items():
        least = 0 if str(axis).startswith("past_") else 1
        if type(size) is not int or size < least:
            raise OptionError(f"--fix {axis}={size!r}: the size of an axis is an integer from {least}")


def _check_outputs(options: ExportOptions) -> None:
    names = options.outputs
    if names is None:
        return
    if isinstance(names, str) or not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise OptionError(f"--outputs {names!r} isn't a list of names: pass hidden_states,attentions")
    if options.split_encoders:
        raise OptionError("--split-encoders exports encoders that return embeddings only: leave out --outputs")


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "token_dtype": get_args(TokenDtype),
    "io_dtype": (None, *get_args(FloatDtype)),
    "optimize": get_args(Optimize),
    "validate": get_args(ValidationLevel),
    "external_data": get_args(ExternalData),
    "weights": get_args(Weights),
    "framework": (None, *get_args(Framework)),
}
