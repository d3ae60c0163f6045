"""Export one architecture in every precision and fused form, and keep what the proof and the measured loss say."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conformance.exports import FAILED, PASSED, command
from conformance.matrix.exports import commit, failure_of
from conformance.matrix.pairs import Pair
from conformance.matrix.tiny import checkpoint_of

ARCHITECTURES: tuple[Pair, ...] = (
    *(("bert", "fill-mask"), ("roberta", "text-classification"), ("distilbert", "token-classification")),
    *(("deberta-v2", "question-answering"), ("modernbert", "fill-mask"), ("mpnet", "feature-extraction")),
    *(("gpt2", "text-generation-with-past"), ("opt", "text-generation-with-past")),
    *(("llama", "text-generation-with-past"), ("qwen3", "text-generation-with-past")),
    *(("gemma3_text", "text-generation-with-past"), ("phi3", "text-generation-with-past")),
    *(("mamba", "text-generation-with-past"), ("mixtral", "text-generation-with-past")),
    *(("qwen3_moe", "text-generation-with-past"), ("gpt_oss", "text-generation-with-past")),
    *(("t5", "text2text-generation-with-past"), ("bart", "text2text-generation-with-past")),
    *(("marian", "text2text-generation-with-past"), ("whisper", "automatic-speech-recognition-with-past")),
    *(("wav2vec2", "automatic-speech-recognition"), ("vit", "image-classification")),
    *(("convnext", "image-classification"), ("dinov2", "feature-extraction"), ("detr", "object-detection")),
    *(("clip", "zero-shot-image-classification"), ("llava", "image-to-text-with-past")),
    *(("qwen2_vl", "image-to-text-with-past"), ("smolvlm", "image-to-text-with-past")),
)
"""Encoders, decoders with and without grouped queries, mixtures of experts, encoder-decoders, vision, audio, both."""
FORMS = {
    "none": ("fp32", "fp16", "bf16", "q8", "int8", "uint8", "q4", "q4f16", "bnb4"),
    "cpu": ("fp32", "q4"),
    "cuda": ("fp16", "q4f16"),
}
"""Value of `--optimize` to that of `--dtype`."""


def run_variants(model_type: str, task: str, directory: Path) -> dict[str, Any]:
    """Export the tiny checkpoint of a pair in all of `FORMS`.

    Args:
        model_type: as in `config.json`.
        task: a task, with or without past.
        directory: directory of the checkpoints, and of outputs, which are removed again.

    Returns:
        `status`, `seconds`, `commit`, and `variants`: form and precision to the status of the export, the number of
        cases that its proof compared (0 where ONNX Runtime has no kernels), the error, and the measured losses.
    """
    start = time.perf_counter()
    checkpoint, _ = checkpoint_of(model_type, task, directory / "checkpoints")
    output = directory / "outputs" / f"{model_type}-{task}"
    output.parent.mkdir(parents=True, exist_ok=True)
    variants: dict[str, dict[str, Any]] = {}
    for form, dtypes in FORMS.items():
        options = ["--task", task, "--optimize", form]
        variants |= _export(checkpoint, output, options, dtypes) or {
            name: found for dtype in dtypes for name, found in _export(checkpoint, output, options, (dtype,)).items()
        }
    failed = {name: found["message"] for name, found in variants.items() if found["status"] == FAILED}
    found = {"status": FAILED if failed else PASSED, "variants": variants}
    if failed:
        found |= {"category": "variant", "message": "; ".join(f"{name}: {text}" for name, text in failed.items())[:400]}
    return {**found, "commit": commit(), "seconds": round(time.perf_counter() - start, 1)}


def _export(checkpoint: Path, output: Path, options: list[str], dtypes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return `form/dtype` to the outcome of each precision; empty if an export of several fails."""
    names = [f"{options[-1]}/{dtype}" for dtype in dtypes]
    try:
        code, text = command(
            ["export", str(checkpoint), str(output), *options, "--dtype", ",".join(dtypes), "--quiet", "--debug"]
        )
        if code != 0:
            return {names[0]: failure_of(text)} if len(names) == 1 else {}
        validation = json.loads((output / "onnxport.json").read_text())["validation"]
    finally:
        shutil.rmtree(output, ignore_errors=True)
    losses = {loss["precision"]: loss["measures"] for loss in validation["losses"]}
    components = [case["component"] for case in validation["cases"]]
    cases = [sum(name.endswith(f" {dtype}") or len(dtypes) == 1 for name in components) for dtype in dtypes]
    return {
        name: {"status": PASSED, "cases": count, "note": validation["note"], "losses": losses.get(dtype, {})}
        for name, dtype, count in zip(names, dtypes, cases, strict=True)
    }
