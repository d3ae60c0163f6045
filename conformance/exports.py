"""Export one pair twice: with the API of `transformers.onnx`, and with the `onnxport` command."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance.checkpoints import make_checkpoint

PASSED, FAILED = "passed", "failed"
MINIMUM_CASES = 4
"""Sizes at which the command validates a graph: the traced ones and three others, one with padding in the mask."""


def run_pair(model_type: str, feature: str, directory: Path) -> dict[str, Any]:
    """Make the pair's checkpoint, and export and validate it with the façade and with the command.

    Args:
        model_type: as in `FeaturesManager`.
        feature: one of the model type's features.
        directory: directory of the checkpoints, and of outputs, which are removed again.

    Returns:
        `facade` and `public`, each with `status`, `seconds`, `message` and `trace`; `status` for both.
    """
    start = time.perf_counter()
    output = directory / "outputs" / f"{model_type}-{feature}"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    try:
        facade = _attempt(lambda: _through_facade(_checkpoint(model_type, feature, directory), feature, output))
        public = _attempt(lambda: _through_command(_checkpoint(model_type, feature, directory), feature, output))
    finally:
        shutil.rmtree(output, ignore_errors=True)
    status = PASSED if facade["status"] == public["status"] == PASSED else FAILED
    seconds = round(time.perf_counter() - start, 1)
    return {"status": status, "seconds": seconds, "facade": facade, "public": public}


def _checkpoint(model_type: str, feature: str, directory: Path) -> Path:
    return make_checkpoint(model_type, feature, directory / "checkpoints")


def _attempt(action: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """Run an export and return its outcome; for an error, its first line and the innermost frames of the traceback."""
    start = time.perf_counter()
    try:
        extra = action() or {}
        found: dict[str, Any] = {"status": PASSED, **extra}
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        trace = traceback.format_exception(error)
        found = {
            "status": FAILED,
            "message": f"{type(error).__name__}: {lines[0]}"[:500],
            "trace": "".join(trace)[-6000:],
        }
    return {**found, "seconds": round(time.perf_counter() - start, 1)}


def _through_facade(checkpoint: Path, feature: str, output: Path) -> None:
    """Export as in the documentation of `transformers.onnx`: load, describe, export, validate."""
    from onnxport.onnx import FeaturesManager, export, validate_model_outputs
    from onnxport.onnx.utils import get_preprocessor

    model = FeaturesManager.get_model_from_feature(feature, str(checkpoint))
    _, construct = FeaturesManager.check_supported_model_or_raise(model, feature=feature)
    config = construct(model.config)
    if feature == "vision2seq-lm":
        components = _encoder_and_decoder(checkpoint, model, config)
    else:
        components = [(model, config, get_preprocessor(str(checkpoint)))]
    for index, (submodel, description, preprocessor) in enumerate(components):
        file = output / f"facade-{index}.onnx"
        _, outputs = export(preprocessor, submodel, description, description.default_onnx_opset, file)
        validate_model_outputs(description, preprocessor, submodel, file, outputs, description.atol_for_validation)


def _encoder_and_decoder(checkpoint: Path, model: Any, config: Any) -> list[tuple[Any, Any, Any]]:
    from transformers import AutoImageProcessor, AutoTokenizer

    encoder = config.get_encoder_config(model.config.encoder)
    decoder = config.get_decoder_config(model.config.encoder, model.config.decoder, feature="causal-lm")
    return [
        (model.encoder, encoder, AutoImageProcessor.from_pretrained(checkpoint)),
        (model.decoder, decoder, AutoTokenizer.from_pretrained(checkpoint)),
    ]


def command(arguments: list[str]) -> tuple[int, str]:
    """Run the `onnxport` command in this process; return its exit code and its standard error."""
    from onnxport.cli import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    return code, errors.getvalue().strip()


def _through_command(checkpoint: Path, feature: str, output: Path) -> dict[str, Any]:
    """Export with the command's function, and return the validation results in the manifest.

    Raises:
        RuntimeError: the command failed, and the message is its last line; or it succeeded, but according to the
            manifest, a graph wasn't validated at three sizes, and with padding if it has a mask.
    """
    target = output / "public"
    code, text = command(["export", str(checkpoint), str(target), "--task", feature, "--quiet", "--debug"])
    if code != 0:
        raise RuntimeError(f"{_last_line(text)}\n\n{text[-5000:]}")
    manifest = json.loads((target / "onnxport.json").read_text())
    cases = Counter(case["component"] for case in manifest["validation"]["cases"])
    status = manifest["validation"]["status"]
    masked = {
        component["name"]
        for component in manifest["components"]
        if any(tensor["name"].endswith("attention_mask") for tensor in component["inputs"])
    }
    minimum = {name: MINIMUM_CASES - (name not in masked) for name in cases if name != "load"}
    if status != "passed" or not cases or any(cases[name] < count for name, count in minimum.items()):
        raise RuntimeError(
            f"the command succeeded, but the manifest has status {status!r} and {dict(cases)} cases, of {minimum}"
        )
    refused = [f"{case['name']}: {case['note']}" for case in manifest["validation"]["cases"] if case["note"]]
    fixed = [axis for component in manifest["components"] for axis in component["fixed_axes"]]
    tensors = [tensor for component in manifest["components"] for tensor in component["inputs"] + component["outputs"]]
    labels = sorted({axis for tensor in tensors for axis in tensor["axes"] if isinstance(axis, str)})
    return {"cases": cases.total(), "refused": refused, "fixed_axes": fixed, "labels": labels}


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if line.startswith("onnxport: ")]
    return errors[-1] if errors else text.rsplit("\n", 1)[-1]
