"""Provide `transformers.onnx.convert`: export a loaded model and validate the file, with the API of 4.37.2."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from importlib import metadata
from inspect import signature as python_signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from packaging.version import Version, parse

from onnxport._transformers_api import PAST, cache_parameter
from onnxport.description.arguments import Layout
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of, sizes_of
from onnxport.options import MAX_OPSET, MIN_OPSET
from onnxport.patching.scope import evaluating, exclusive

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from onnxport.configs import OnnxConfig
    from onnxport.description.preprocessor import Preprocessor

logger = logging.getLogger(__name__)

ORT_QUANTIZE_MINIMUM_VERSION = parse("1.4.0")
"""First version of ONNX Runtime that supports quantization."""


def check_onnxruntime_requirements(minimum_version: Version) -> None:
    """Check that a minimum version of ONNX Runtime is installed.

    Args:
        minimum_version: the minimum version.

    Raises:
        ImportError: ONNX Runtime isn't installed, or is older.
    """
    try:
        installed = parse(metadata.version("onnxruntime"))
    except metadata.PackageNotFoundError:
        raise ImportError("onnxruntime doesn't seem to be installed; run: pip install onnxruntime") from None
    if installed < minimum_version:
        raise ImportError(
            f"We found an older version of onnxruntime ({installed}) but we require onnxruntime to be >= "
            f"{minimum_version}; run: pip install --upgrade onnxruntime"
        )


def ensure_model_and_config_inputs_match(model: PreTrainedModel, model_inputs: Iterable[str]) -> tuple[bool, list[str]]:
    """Compare input names with the parameters of a model's `forward`.

    Args:
        model: the model.
        model_inputs: names of inputs.

    Returns:
        Whether `forward` has all of them, and the matching names in the order of `forward`.
    """
    parameters = python_signature(model.forward).parameters
    known = [PAST if name == cache_parameter(parameters) else name for name in parameters]
    names = set(model_inputs)
    return names.issubset(known), [name for name in known if name in names]


def export(
    preprocessor: Preprocessor,
    model: PreTrainedModel,
    config: OnnxConfig,
    opset: int,
    output: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
) -> tuple[list[str], list[str]]:
    """Export a loaded model to one ONNX file.

    Args:
        preprocessor: tokenizer, image processor, feature extractor or processor of the model.
        model: a Transformers PyTorch model.
        config: description of the graph.
        opset: ONNX opset version; if it is below the engine's minimum, the minimum is used, with a warning.
        output: file to write; weights over the protobuf limit are written to a second file next to it.
        tokenizer: deprecated name of `preprocessor`.
        device: device to trace the model on, `cpu` or `cuda`.

    Returns:
        The input names in the order of `forward` (`past_key_values` once) and the output names.

    Raises:
        ValueError: both a tokenizer and a preprocessor are passed, `forward` lacks an input, or the opset is too high.
        TypeError: `model` isn't a Transformers PyTorch model.
        TraceError: the model couldn't be captured.
    """
    from transformers import PreTrainedModel

    preprocessor = _preprocessor_or_tokenizer(preprocessor, tokenizer)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model is a {type(model).__name__}, not a PyTorch model of Transformers; TensorFlow classes no longer "
            "exist in Transformers 5: load tf_model.h5 with FeaturesManager.get_model_from_feature(framework='tf')"
        )
    if not config.is_torch_support_available:
        logger.warning("PyTorch is older than %s, which this model needs", config.torch_onnx_minimum_version)
    return export_pytorch(preprocessor, model, config, opset, Path(output), None, device)


def export_pytorch(
    preprocessor: Preprocessor,
    model: PreTrainedModel,
    config: OnnxConfig,
    opset: int,
    output: Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "cpu",
) -> tuple[list[str], list[str]]:
    """Export a PyTorch model; arguments, return value and errors are those of `export`."""
    import torch

    from onnxport.binding.bound_graphs import bind_to_state
    from onnxport.passes.finish import finish
    from onnxport.tracing import trace
    from onnxport.tracing.originals import trace_examples
    from onnxport.writing.write import save_graph

    signature = signature_of(config)
    examples = Examples(config, signature, _preprocessor_or_tokenizer(preprocessor, tokenizer))
    original_device = next(model.parameters()).device
    with exclusive(), evaluating(model), ExitStack() as stack:
        stack.callback(model.to, original_device)
        model.to(_device(device))
        layout, _ = trace_examples(model, examples)
        matches, matched = ensure_model_and_config_inputs_match(model, {name.split(".")[0] for name in layout.flat})
        if not matches:
            raise ValueError("Model and config inputs doesn't match")
        layout.flat = {name: tensor.to(model.device) for name, tensor in layout.flat.items()}
        with torch.no_grad():
            graph = trace(model, config, layout, signature, opset=_opset(opset)).graph
    finish(graph)
    bind_to_state(graph, model.state_dict(keep_vars=True))
    save_graph(graph, Path(output))
    return matched, list(config.outputs)


def export_tensorflow(*_: Any, **__: Any) -> tuple[list[str], list[str]]:
    """Raise an error: Transformers 5 has no TensorFlow classes.

    Raises:
        RuntimeError: always, with the alternative in the message.
    """
    raise RuntimeError(
        "Transformers 5 has no TensorFlow models to export; a tf_model.h5 is read into the PyTorch model: "
        "FeaturesManager.get_model_from_feature(feature, model, framework='tf'), or --framework tf"
    )


def validate_model_outputs(
    config: OnnxConfig,
    preprocessor: Preprocessor,
    reference_model: PreTrainedModel,
    onnx_model: Path,
    onnx_named_outputs: list[str],
    atol: float,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Compare a model and its graph on inputs with dynamic axes one larger than in the trace.

    Args:
        config: description of the graph.
        preprocessor: tokenizer, image processor, feature extractor or processor of the model.
        reference_model: the original model.
        onnx_model: the `.onnx` file.
        onnx_named_outputs: names of the outputs to compare.
        atol: absolute tolerance; NumPy's default relative tolerance, 1e-5, is added to it.
        tokenizer: deprecated name of `preprocessor`.

    Raises:
        ValueError: names, shapes or values differ.
        ValidationError: ONNX Runtime can't load the file.
    """
    from onnxport.tracing.originals import run_original
    from onnxport.validation.sessions import open_session, run_graph

    preprocessor = _preprocessor_or_tokenizer(preprocessor, tokenizer)
    logger.info("Validating ONNX model...")
    session = open_session(Path(onnx_model))
    examples = Examples(config, signature_of(config), preprocessor)
    layout = larger_inputs(examples, {value.name: value.shape for value in session.get_inputs()})
    original_device = next(reference_model.parameters()).device
    with evaluating(reference_model), ExitStack() as stack:
        stack.callback(reference_model.to, original_device)
        reference_model.to("cpu")
        reference = run_original(reference_model, examples, layout)
    _check_names(onnx_named_outputs, reference, session)
    results = run_graph(session, layout)
    for name in onnx_named_outputs:
        _check_output(name, reference[name], results[name], atol)


def larger_inputs(examples: Examples, graph_inputs: dict[str, list[Any]]) -> Layout:
    """Create inputs that are one element larger than the dummy inputs on every dynamic axis of a graph.

    Args:
        examples: creates the inputs.
        graph_inputs: shapes by input name, with labels for the dynamic axes.

    Returns:
        Larger inputs; images have the size that their preprocessor resizes them to.
    """
    base = examples.at()
    signature = examples.signature.for_inputs(base.flat)
    sizes = sizes_of(signature, base.flat)
    dynamic = {dim for shape in graph_inputs.values() for dim in shape if isinstance(dim, str)}
    larger = {symbol: max(size, 2) + 1 for symbol, size in sizes.items() if symbol in dynamic - _IMAGE_AXES}
    return examples.at(larger)


_IMAGE_AXES = {"num_channels", "height", "width"}


def _preprocessor_or_tokenizer(preprocessor: Preprocessor, tokenizer: PreTrainedTokenizerBase | None) -> Any:
    """Return the preprocessor, or the tokenizer that was passed by its deprecated name."""
    from transformers import PreTrainedTokenizerBase

    if tokenizer is None:
        return preprocessor
    if isinstance(preprocessor, PreTrainedTokenizerBase):
        raise ValueError("You cannot provide both a tokenizer and a preprocessor to export the model.")
    warnings.warn("The `tokenizer` argument is deprecated; use `preprocessor` instead.", FutureWarning, stacklevel=3)
    logger.info("Overwriting the `preprocessor` argument with `tokenizer`.")
    return tokenizer


def _device(device: str) -> str:
    import torch

    if not device.startswith("cuda") or torch.cuda.is_available():
        return device
    logger.warning("CUDA is not available, the model is traced on the CPU")
    return "cpu"


def _opset(opset: int) -> int:
    if opset > MAX_OPSET:
        raise ValueError(f"opset {opset} is out of range: the engine produces {MIN_OPSET} to {MAX_OPSET}")
    if opset < MIN_OPSET:
        logger.warning("Opset %d is below the minimum of the engine; opset %d is used", opset, MIN_OPSET)
    return max(opset, MIN_OPSET)


def _check_names(
    names: list[str], reference: Mapping[str, NDArray[Any]], session: onnxruntime.InferenceSession
) -> None:
    missing = set(names) - set(reference)
    absent = set(names) - {value.name for value in session.get_outputs()}
    if missing or absent:
        logger.info("\t-[x] ONNX model output names %s do not match reference model %s", set(names), set(reference))
        raise ValueError(f"Outputs doesn't match between reference model and ONNX exported model: {missing or absent}")
    logger.info("\t-[✓] ONNX model output names match reference model (%s)", set(names))


def _check_output(name: str, reference: NDArray[Any], result: NDArray[Any], atol: float) -> None:
    logger.info('\t- Validating ONNX Model output "%s":', name)
    if result.shape != reference.shape:
        raise ValueError(
            "Outputs shape doesn't match between reference model and ONNX exported model: "
            f"Got {reference.shape} (reference) and {result.shape} (ONNX) for {name}"
        )
    logger.info("\t\t-[✓] %s matches %s", result.shape, reference.shape)
    if not np.allclose(reference, result, atol=atol):
        different = ~np.isclose(reference, result, atol=atol)
        difference = np.abs(reference.astype(np.float64) - result.astype(np.float64)).max()
        raise ValueError(
            f"Outputs values doesn't match between reference model and ONNX exported model for {name}: Got max "
            f"absolute difference of: {difference} for {reference[different]} vs {result[different]}"
        )
    logger.info("\t\t-[✓] all values close (atol: %s)", atol)
