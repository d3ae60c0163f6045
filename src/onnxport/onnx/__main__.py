"""`python -m onnxport.onnx`: the command line of `transformers.onnx` 4.37.2."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from onnxport._garbage import without_last_collections
from onnxport.configs.model_types import ENCODER_DECODER_MODELS
from onnxport.errors import OnnxportError

MIN_OPTIMUM_VERSION = "1.5.0"
"""Kept for imports; the export never goes through optimum."""

logger = logging.getLogger("onnxport.onnx")


def export_with_optimum(args: Namespace) -> None:
    """Export with onnxport: the original started optimum in a process of its own and ignored how it ended."""
    export_with_transformers(args)


def export_with_transformers(args: Namespace) -> None:
    """Export and validate what the parsed arguments ask for.

    Args:
        args: as `main` parses them.

    Raises:
        ValueError: the opset is below what the model needs, or the graph differs from the model.
        KeyError: the model type or the feature isn't supported.
        OnnxportError: the checkpoint can't be read, or the model can't be captured.
    """
    from onnxport.onnx.features import FeaturesManager  # here, so that Ctrl-C finds main() running

    output = args.output if args.output.is_file() else args.output / "model.onnx"
    framework = FeaturesManager.determine_framework(args.model, framework=args.framework)
    model = FeaturesManager.get_model_from_feature(
        args.feature, args.model, framework=framework, cache_dir=args.cache_dir
    )
    _, constructor = FeaturesManager.check_supported_model_or_raise(model, feature=args.feature)
    onnx_config = constructor(model.config)
    if model.config.model_type in ENCODER_DECODER_MODELS:
        parts = _halves(args, model, onnx_config, output)
    else:
        parts = [(output, model, onnx_config, _preprocessor(args))]
    needed = [config.default_onnx_opset for _, _, config, _ in parts]
    lowest = min(needed)  # the original refuses two graphs only below what both need
    opset = args.opset if args.opset is not None else max(needed)
    if opset < lowest:
        raise ValueError(
            f"Opset {opset} is not sufficient to export {model.config.model_type}. At least  {lowest} is required."
        )
    _export_parts(parts, opset, args.atol)
    logger.info("All good, model saved at: %s", ", ".join(part[0].as_posix() for part in parts))


Part = tuple[Path, Any, Any, Any]
"""File, model, description and preprocessor of one graph."""


def _export_parts(parts: list[Part], opset: int, atol: float | None) -> None:
    """Export and validate into a temporary directory beside the output, then move the files to their places."""
    from onnxport.onnx.convert import export, validate_model_outputs

    parent = parts[0][0].parent
    created = [path for path in (parent, *parent.parents) if not path.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".onnxport.", suffix=".partial", dir=parent))
    try:
        for file, model, config, preprocessor in parts:
            _, outputs = export(preprocessor, model, config, opset, stage / file.name)
            tolerance = config.atol_for_validation if atol is None else atol
            validate_model_outputs(config, preprocessor, model, stage / file.name, outputs, tolerance)
        for path in stage.iterdir():
            path.replace(parent / path.name)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(parent)) from error  # a full disk doesn't say where
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for directory in created:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()


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


def _halves(args: Namespace, model: Any, config: Any, output: Path) -> list[Part]:
    """Describe the encoder and the decoder of a vision-encoder-decoder; the files stand beside the output."""
    from transformers import AutoImageProcessor, AutoTokenizer

    encoder = config.get_encoder_config(model.config.encoder)
    decoder = config.get_decoder_config(model.config.encoder, model.config.decoder, feature="causal-lm")
    images = AutoImageProcessor.from_pretrained(args.model, cache_dir=args.cache_dir, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(args.model, cache_dir=args.cache_dir, trust_remote_code=False)
    return [
        (output.parent / "encoder_model.onnx", model.encoder, encoder, images),
        (output.parent / "decoder_model.onnx", model.decoder, decoder, tokenizer),
    ]


def _parser() -> ArgumentParser:
    parser = ArgumentParser("Hugging Face Transformers ONNX exporter")
    parser.add_argument("-m", "--model", required=True, help="Model ID on huggingface.co or path on disk.")
    parser.add_argument("--feature", default="default", help="Feature to export the model with.")
    parser.add_argument("--opset", type=int, default=None, help="ONNX opset version to export the model with.")
    parser.add_argument("--atol", type=float, default=None, help="Absolute tolerance of the validation.")
    parser.add_argument("--framework", choices=["pt", "tf"], default=None, help="Weights to read: pt or tf.")
    parser.add_argument("output", type=Path, help="Where to write the model.")
    parser.add_argument("--cache_dir", default=None, help="Where downloads are kept.")
    parser.add_argument(
        "--preprocessor",
        choices=["auto", "tokenizer", "feature_extractor", "image_processor", "processor"],
        default="auto",
        help="Which preprocessor makes the example inputs.",
    )
    parser.add_argument("--export_with_transformers", action="store_true", help="Accepted; there is no other way.")
    return parser


def main() -> int:
    """Parse the command line, export, and report on standard error.

    Returns:
        The exit code: 0 done, 1 failed; misuse ends in argparse's 2.
    """
    args = _parser().parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    logging.getLogger("onnxport").setLevel(logging.INFO)
    try:
        export_with_transformers(args)
    except Exception as error:  # noqa: BLE001  every failure ends as one line, as in 4.37.2
        print(f"onnxport: error: {_message(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("onnxport: interrupted", file=sys.stderr)
        return 130
    return 0


def _message(error: Exception) -> str:
    """Say in one line what went wrong; what nobody raised on purpose is named by its type."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    shown = " ".join(line.strip() for line in str(text).splitlines())
    return (
        shown
        if isinstance(error, (OnnxportError, ValueError, KeyError, OSError))
        else f"{type(error).__name__}: {shown}"
    )


if __name__ == "__main__":
    sys.exit(without_last_collections(main))
