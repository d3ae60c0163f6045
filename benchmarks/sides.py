"""The measured commands: each side is a command line of a tool, in that tool's environment."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
WORK = REPOSITORY / ".cache" / "benchmarks"


@dataclass(frozen=True)
class Side:
    """Describe one side.

    Attributes:
        label: name in tables.
        arguments: arguments of the program; `{model}`, `{output}`, `{task}`, `{modules}` and `{prepared}` are replaced
            with paths and the task.
        program: a script of its environment, a Python module as `-m name`, or a system program.
        environment: one of `environments.REQUIREMENTS`; empty for this one.
        cache: `cold`, empty in each round; `warm`, filled by an export of the same checkpoint.
        prepare: side that runs before the first round without being measured; its output is kept as `{prepared}`.
        once: whether it is measured in the first round only.
    """

    label: str
    arguments: tuple[str, ...]
    program: str = "-m onnxport"
    environment: str = ""
    cache: str = "cold"
    prepare: str = ""
    once: bool = False


_EXPORT = ("export", "{model}", "{output}", "--task", "{task}", "--quiet")
_FAST = (*_EXPORT, "--validate", "none")
_BUILD = ("-i", "{model}", "-o", "{output}", "-e", "cpu", "-c", "{output}/cache")
_INT4 = ("--dtype", "q4", "--optimize", "cpu")
_COPY = 'mkdir "$2" && cp "$1"/*.safetensors "$2" && sync "$2"/*'
SIDES: dict[str, Side] = {
    "cold": Side("onnxport, cold cache, no validation", _FAST),
    "warm": Side("onnxport, warm cache, no validation", _FAST, cache="warm", prepare="warming"),
    "validated": Side("onnxport, cold cache, validation", _EXPORT),
    "fused": Side("onnxport, cold cache, `--optimize cpu`, no validation", (*_FAST, "--optimize", "cpu")),
    "int4": Side("onnxport, cold cache, `--dtype q4 --optimize cpu`, no validation", (*_FAST, *_INT4)),
    "linked": Side("onnxport, cold cache, weights linked, no validation", (*_FAST, "--weights", "link")),
    "copied-bf16": Side("onnxport, cold cache, bf16 copied, no validation", (*_FAST, "--dtype", "bf16")),
    "cast-fp16": Side("onnxport, cold cache, bf16 cast to fp16, no validation", (*_FAST, "--dtype", "fp16")),
    "linked-bf16": Side(
        "onnxport, cold cache, bf16 linked, no validation", (*_FAST, "--dtype", "bf16", "--weights", "link")
    ),
    "imports": Side("the export's imports alone", ("load", "{modules}"), "-m benchmarks.imports", prepare="recording"),
    "imports-bf16": Side(
        "the export's imports alone", ("load", "{modules}"), "-m benchmarks.imports", prepare="recording-bf16"
    ),
    "copy": Side("copying the weights, flushed to disk", ("-c", _COPY, "copy", "{model}", "{output}"), "sh"),
    "step-fp16": Side(
        "ONNX Runtime: load, one decode step, fp16",
        ("{prepared}",),
        "-m benchmarks.decode",
        prepare="cast-fp16",
        once=True,
    ),
    "step-linked": Side(
        "ONNX Runtime: load, one decode step, bf16 linked",
        ("{prepared}",),
        "-m benchmarks.decode",
        prepare="linked-bf16",
        once=True,
    ),
    "step": Side(
        "ONNX Runtime: load, one decode step, linked",
        ("{prepared}",),
        "-m benchmarks.decode",
        prepare="linked",
        once=True,
    ),
    "optimum": Side(
        "optimum-onnx, with its validation",
        ("export", "onnx", "--model", "{model}", "--task", "{task}", "{output}"),
        "optimum-cli",
        "optimum",
    ),
    "exporters": Side(
        "transformers.exporters", ("{model}", "{output}", "{task}"), "-m benchmarks.transformers_exporters"
    ),
    "mobius": Side("mobius-onnx", ("build", "--config", "{model}", "{output}"), "mobius", "mobius"),
    "genai": Side(
        "onnxruntime-genai's builder, fp32",
        (*_BUILD, "-p", "fp32"),
        "-m onnxruntime_genai.models.builder",
        "genai",
    ),
    "genai-int4": Side(
        "onnxruntime-genai's builder, int4",
        (*_BUILD, "-p", "int4"),
        "-m onnxruntime_genai.models.builder",
        "genai",
    ),
}
"""Name to side."""

PREPARATIONS: dict[str, Side] = {
    **SIDES,
    "warming": Side("", _FAST, cache="warm"),
    "recording": Side("", ("record", "{modules}", *_FAST), "-m benchmarks.imports"),
    "recording-bf16": Side("", ("record", "{modules}", *_FAST, "--dtype", "bf16"), "-m benchmarks.imports"),
}
"""Values of `Side.prepare` to the side."""

OTHERS = ("optimum", "exporters", "mobius", "genai", "genai-int4")
"""Sides that are other exporters."""


def command(side: Side, environments: Path, values: dict[str, str]) -> list[str]:
    """Return the command line of a side."""
    arguments = [part.format(**values) if "$" not in part else part for part in side.arguments]
    home = environments / side.environment / "bin"
    if side.program.startswith("-m "):
        python = str(home / "python") if side.environment else sys.executable
        return [python, *side.program.split(), *arguments]
    return [str(home / side.program) if side.environment else side.program, *arguments]


def variables(side: Side, cache: Path) -> dict[str, str]:
    """Return the environment variables of a side: no downloads, and onnxport from this checkout."""
    shared = {"HF_HUB_OFFLINE": "1", "ONNXPORT_CACHE": str(cache)}
    return shared if side.environment else {**shared, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
