"""Run `python -m onnxport.onnx`, the command line of `transformers.onnx` 4.37.2."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxport._garbage import without_exit_collections
from onnxport._process import INTERRUPTED, run_process, write_error
from onnxport.configs.model_types import ENCODER_DECODER_MODELS
from onnxport.errors import OnnxportError, one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from onnxport.configs import OnnxConfig
    from onnxport.configs.decoders import VisionEncoderDecoderOnnxConfig

MIN_OPTIMUM_VERSION = "1.5.0"
"""For imports only; the export never uses optimum."""

logger = logging.getLogger("onnxport.onnx")


def export_with_optimum(args: Namespace) -> None:
    """Export with onnxport; 4.37.2 ran optimum in a subprocess and ignored its exit code."""
    export_with_transformers(args)


def export_with_transformers(args: Namespace) -> None:
    """Export and validate a model.

    Args:
        args: the arguments that `main` parses.

    Raises:
        ValueError: the opset is too low for the model, or the graph's outputs differ from the model's.
        KeyError: the model type or the feature isn't supported.
        OnnxportError: the checkpoint can't be read, or the model can't be captured.
    """
    from onnxport.onnx.features import (
        FeaturesManager,
    )  # imported here, so that Ctrl-C during the import is handled by main()

    output = args.output if args.output.is_file() else args.output / "model.onnx"
    framework = FeaturesManager.determine_framework(args.model, framework=args.framework)
    model = FeaturesManager.get_model_from_feature(
        args.feature, args.model, framework=framework, cache_dir=args.cache_dir
    )
    _, constructor = FeaturesManager.check_supported_model_or_raise(model, feature=args.feature)
    onnx_config = constructor(model.config)
    if model.config.model_type in ENCODER_DECODER_MODELS:
        parts = _encoder_and_decoder(args, model, onnx_config, output)
    else:
        parts = [Part(output, model, onnx_config, _preprocessor(args))]
    required = [part.config.default_onnx_opset for part in parts]
    lowest = min(required)  # 4.37.2 rejects an opset only if it is too low for both graphs
    opset = args.opset if args.opset is not None else max(required)
    if opset < lowest:
        raise ValueError(
            f"Opset {opset} is not sufficient to export {model.config.model_type}. At least  {lowest} is required."
        )
    _export_parts(parts, opset, args.atol)
    logger.info("All good, model saved at: %s", ", ".join(part.file.as_posix() for part in parts))


@dataclass(frozen=True)
class Part:
    """A graph to export.

    Attributes:
        file: the graph's file.
        model: the model, or its encoder or decoder.
        config: description of the graph.
        preprocessor: creates the dummy inputs.
    """

    file: Path
    model: PreTrainedModel
    config: OnnxConfig
    preprocessor: Any


def _export_parts(parts: list[Part], opset: int, atol: float | None) -> None:
    """Export and validate in a staging directory, then move the files into place."""
    from onnxport.bundles.output import staged_files
    from onnxport.onnx.convert import export, validate_model_outputs

    parent = parts[0].file.parent
    try:
        with staged_files(parent) as stage:
            for part in parts:
                file, config = stage / part.file.name, part.config
                _, outputs = export(part.preprocessor, part.model, config, opset, file)
                tolerance = config.atol_for_validation if atol is None else atol
                validate_model_outputs(config, part.preprocessor, part.model, file, outputs, tolerance)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(parent)) from error  # a full disk's error has no file name


def _preprocessor(args: Namespace) -> Any:
    import transformers

    from onnxport.onnx.utils import get_preprocessor

    classes = {
        "tokenizer": "AutoTokenizer",
        "image_processor": "AutoImageProcessor",
        "feature_extractor": "AutoFeatureExtractor",
        "processor": "AutoProcessor",
    }
    if args.preprocessor == "auto":
        return get_preprocessor(args.model, cache_dir=args.cache_dir)
    return getattr(transformers, classes[args.preprocessor]).from_pretrained(
        args.model, cache_dir=args.cache_dir, trust_remote_code=False
    )


def _encoder_and_decoder(
    args: Namespace, model: PreTrainedModel, config: VisionEncoderDecoderOnnxConfig, output: Path
) -> list[Part]:
    """Describe the encoder and the decoder of a vision encoder-decoder."""
    from transformers import AutoImageProcessor, AutoTokenizer

    encoder = config.get_encoder_config(model.config.encoder)
    decoder = config.get_decoder_config(model.config.encoder, model.config.decoder, feature="causal-lm")
    image_processor = AutoImageProcessor.from_pretrained(args.model, cache_dir=args.cache_dir, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(args.model, cache_dir=args.cache_dir, trust_remote_code=False)
    return [
        Part(output.parent / "encoder_model.onnx", model.encoder, encoder, image_processor),
        Part(output.parent / "decoder_model.onnx", model.decoder, decoder, tokenizer),
    ]


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Hugging Face Transformers ONNX exporter")
    parser.add_argument("-m", "--model", required=True, help="Model ID on huggingface.co or path on disk.")
    parser.add_argument("--feature", default="default", help="Feature to export the model with.")
    parser.add_argument("--opset", type=int, default=None, help="ONNX opset version to export the model with.")
    parser.add_argument("--atol", type=float, default=None, help="Absolute tolerance of the validation.")
    parser.add_argument("--framework", choices=["pt", "tf"], default=None, help="Framework of the weights.")
    parser.add_argument("output", type=Path, help="File or directory to write.")
    parser.add_argument("--cache_dir", default=None, help="Directory for downloads.")
    parser.add_argument(
        "--preprocessor",
        choices=["auto", "tokenizer", "feature_extractor", "image_processor", "processor"],
        default="auto",
        help="Preprocessor that makes the dummy inputs.",
    )
    parser.add_argument(
        "--export_with_transformers", action="store_true", help="Accepted for compatibility; it has no effect."
    )
    return parser


def main() -> int:
    """Parse the command line, export, and report to standard error.

    Returns:
        The exit code: 0 success, 1 failure, 130 interrupted; argparse exits with 2 on misuse.
    """
    try:
        args = _parser().parse_args()
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
        logging.getLogger("onnxport").setLevel(logging.INFO)
        export_with_transformers(args)
    except Exception as error:  # noqa: BLE001  # the process's last line of defence: any error becomes one line
        write_error(f"onnxport: error: {_message(error)}\n")
        return 1
    except KeyboardInterrupt:
        write_error("onnxport: interrupted\n")
        return INTERRUPTED
    return 0


def _message(error: Exception) -> str:
    """Return an error's message on one line; unexpected errors are prefixed with their type."""
    if isinstance(error, OSError) and error.strerror:
        return one_line(f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror)
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    is_known = isinstance(error, (OnnxportError, ValueError, KeyError, OSError))
    return one_line(text if is_known else f"{type(error).__name__}: {text}")


if __name__ == "__main__":
    sys.exit(run_process(lambda: partial(without_exit_collections, main)))
