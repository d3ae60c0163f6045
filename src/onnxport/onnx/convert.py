"""`transformers.onnx.convert`: export a loaded model, and validate the file, as 4.37.2 did it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from importlib import metadata
from inspect import signature as python_signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from packaging.version import Version, parse

from onnxport.description.arguments import Layout
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of, solve
from onnxport.options import MAX_OPSET, MIN_OPSET
from onnxport.patching.scope import evaluating, exclusive

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig

logger = logging.getLogger(__name__)

ORT_QUANTIZE_MINIMUM_VERSION = parse("1.4.0")
"""First ONNX Runtime that quantises; older ones are refused."""


def check_onnxruntime_requirements(minimum_version: Version) -> None:
    """Check that ONNX Runtime is installed and recent enough.

    Args:
        minimum_version: lowest version that is accepted.

    Raises:
        ImportError: it isn't installed, or is older.
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
    """Compare input names with the parameters of a model's forward.

    Args:
        model: the model.
        model_inputs: names of inputs.

    Returns:
        Whether forward has all of them, and those that it has, in its own order.
    """
    parameters = python_signature(model.forward).parameters
    names = set(model_inputs)
    return names.issubset(parameters), [name for name in parameters if name in names]


def export(
    preprocessor: Any,
    model: PreTrainedModel,
    config: OnnxConfig,
    opset: int,
    output: Path,
    tokenizer: Any = None,
    device: str = "cpu",
) -> tuple[list[str], list[str]]:
    """Export a loaded model to one ONNX file.

    Args:
        preprocessor: tokenizer, image processor, feature extractor or processor of the model.
        model: a PyTorch model of Transformers.
        config: description of the graph.
        opset: ONNX opset; one below what the engine produces is raised to it, with a warning.
        output: file to write; weights over the protobuf limit go beside it.
        tokenizer: deprecated name of `preprocessor`.
        device: `cpu` or `cuda`, where the model is traced.

    Returns:
        The input names in forward's order (`past_key_values` once) and the output names.

    Raises:
        ValueError: both a tokenizer and a preprocessor, inputs that forward doesn't take, an opset out of range.
        TypeError: `model` isn't a PyTorch model of Transformers.
        TraceError: the model couldn't be captured.
    """
    from transformers import PreTrainedModel

    preprocessor = _only_one(preprocessor, tokenizer)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model is a {type(model).__name__}, not a PyTorch model of Transformers; TensorFlow classes no longer "
            "exist in Transformers 5: load tf_model.h5 with FeaturesManager.get_model_from_feature(framework='tf')"
        )
    if not config.is_torch_support_available:
        logger.warning("PyTorch is older than %s, which this model needs", config.torch_onnx_minimum_version)
    return export_pytorch(preprocessor, model, config, opset, Path(output), None, device)


def export_pytorch(
    preprocessor: Any,
    model: PreTrainedModel,
    config: OnnxConfig,
    opset: int,
    output: Path,
    tokenizer: Any = None,
    device: str = "cpu",
) -> tuple[list[str], list[str]]:
    """Export a PyTorch model; arguments, result and errors are those of `export`."""
    import torch

    from onnxport.binding.bound_graphs import bind_to_state
    from onnxport.passes.finish import finish
    from onnxport.tracing import trace
    from onnxport.tracing.originals import trace_examples
    from onnxport.writing.write import save_graph

    signature = signature_of(config)
    examples = Examples(config, signature, _only_one(preprocessor, tokenizer))
    home = next(model.parameters()).device
    with exclusive(), evaluating(model), ExitStack() as stack:
        stack.callback(model.to, home)
        model.to(_device(device))
        layout, _ = trace_examples(model, examples)
        matches, matched = ensure_model_and_config_inputs_match(model, {name.split(".")[0] for name in layout.flat})
        if not matches:
            raise ValueError("Model and config inputs doesn't match")
        layout.flat = {name: tensor.to(model.device) for name, tensor in layout.flat.items()}
        with torch.no_grad():
            graph = trace(model, config, layout, signature, opset=_opset(opset))
    finish(graph)
    bind_to_state(graph, model.state_dict(keep_vars=True))
    save_graph(graph, Path(output))
    return matched, list(config.outputs)


def export_tensorflow(*_: Any, **__: Any) -> tuple[list[str], list[str]]:
    """Say that TensorFlow classes are gone.

    Raises:
        RuntimeError: always; the message says what to do instead.
    """
    raise RuntimeError(
        "Transformers 5 has no TensorFlow models to export; a tf_model.h5 is read into the PyTorch model: "
        "FeaturesManager.get_model_from_feature(feature, model, framework='tf'), or --framework tf"
    )


def validate_model_outputs(
    config: OnnxConfig,
    preprocessor: Any,
    reference_model: PreTrainedModel,
    onnx_model: Path,
    onnx_named_outputs: list[str],
    atol: float,
    tokenizer: Any = None,
) -> None:
    """Compare a model and its graph on inputs one larger in batch and length than those it was traced with.

    Args:
        config: description of the graph.
        preprocessor: tokenizer, image processor, feature extractor or processor of the model.
        reference_model: the original.
        onnx_model: the file.
        onnx_named_outputs: names of the outputs to compare.
        atol: largest absolute difference accepted; numpy's default relative tolerance, 1e-5, is added to it.
        tokenizer: deprecated name of `preprocessor`.

    Raises:
        ValueError: names, shapes or values differ.
        ValidationError: ONNX Runtime can't load the file.
    """
    from onnxport.tracing.originals import run_original
    from onnxport.validation.sessions import open_session, run_graph

    preprocessor = _only_one(preprocessor, tokenizer)
    logger.info("Validating ONNX model...")
    session = open_session(Path(onnx_model))
    examples = Examples(config, signature_of(config), preprocessor)
    layout = larger_inputs(examples, {value.name: value.shape for value in session.get_inputs()})
    home = next(reference_model.parameters()).device
    with evaluating(reference_model), ExitStack() as stack:
        stack.callback(reference_model.to, home)
        reference_model.to("cpu")
        reference = run_original(reference_model, examples, layout)
    _check_names(onnx_named_outputs, reference, session)
    results = run_graph(session, layout)
    for name in onnx_named_outputs:
        _check_output(name, reference[name], results[name], atol)


def larger_inputs(examples: Examples, graph_inputs: dict[str, list[Any]]) -> Layout:
    """Make inputs with one element more than the configuration's fixed sizes on every axis that a graph leaves free.

    Args:
        examples: where inputs come from.
        graph_inputs: name to shape, labels on the free axes.

    Returns:
        Larger inputs; pictures keep the size that their preprocessor gives them.
    """
    base = examples.at()
    signature = examples.signature.for_inputs(base.flat)
    sizes = solve(signature, {name: tuple(tensor.shape) for name, tensor in base.flat.items()})
    free = {dim for shape in graph_inputs.values() for dim in shape if isinstance(dim, str)}
    wanted = {symbol: max(size, 2) + 1 for symbol, size in sizes.items() if symbol in free - _IMAGE}
    return examples.at(wanted)


_IMAGE = {"num_channels", "height", "width"}


def _only_one(preprocessor: Any, tokenizer: Any) -> Any:
    """Take the deprecated `tokenizer` for the preprocessor where it is given alone."""
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
        logger.warning("Opset %d is below what the engine produces; the graph gets opset %d", opset, MIN_OPSET)
    return max(opset, MIN_OPSET)


def _check_names(names: list[str], reference: dict[str, Any], session: Any) -> None:
    missing = set(names) - set(reference)
    absent = set(names) - {value.name for value in session.get_outputs()}
    if missing or absent:
        logger.info("\t-[x] ONNX model output names %s do not match reference model %s", set(names), set(reference))
        raise ValueError(f"Outputs doesn't match between reference model and ONNX exported model: {missing or absent}")
    logger.info("\t-[✓] ONNX model output names match reference model (%s)", set(names))


def _check_output(name: str, reference: Any, result: Any, atol: float) -> None:
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
