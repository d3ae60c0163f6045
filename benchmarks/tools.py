"""The exporters that are measured, each in an environment of its own, with the command that a user of it types."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """Describe an exporter.

    Attributes:
        command: its arguments after the program; `{model}`, `{output}` and `{task}` are filled in.
        program: name of its script, or a module of this environment's Python as `-m name`.
        requirements: what its own environment gets; empty for this environment.
        note: what its figures include.
    """

    command: tuple[str, ...]
    program: str
    requirements: tuple[str, ...] = ()
    note: str = ""


_EXPORT = ("export", "{model}", "{output}", "--task", "{task}", "--quiet")
TOOLS: dict[str, Tool] = {
    "onnxport": Tool(_EXPORT, "-m onnxport", note="validation included"),
    "onnxport-quick": Tool((*_EXPORT, "--validate", "none"), "-m onnxport", note="no validation"),
    "optimum": Tool(
        ("export", "onnx", "--model", "{model}", "--task", "{task}", "{output}"),
        "optimum-cli",
        ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", "torch==2.13.0", "accelerate", "pillow"),
        note="validation included",
    ),
    "mobius": Tool(
        ("build", "--config", "{model}", "{output}"),
        "mobius",
        ("mobius-onnx==0.1.0", "transformers==5.23.0", "torch==2.13.0"),
        note="no validation",
    ),
}
OURS = ("onnxport", "onnxport-quick")


def set_up(name: str, root: Path) -> None:
    """Make a tool's environment, unless it is there; it is the only step that needs a network."""
    tool, home = TOOLS[name], root / name
    if not tool.requirements or (home / "installed").is_file():
        return
    venv.create(home, with_pip=True, clear=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *tool.requirements], check=True)
    (home / "installed").touch()


def command(name: str, root: Path, values: dict[str, str]) -> list[str]:
    """Return the whole command of a tool."""
    tool = TOOLS[name]
    program = (
        [str(root / name / "bin" / tool.program)] if tool.requirements else [sys.executable, *tool.program.split()]
    )
    return [*program, *(part.format(**values) for part in tool.command)]
