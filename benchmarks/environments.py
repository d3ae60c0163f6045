"""The other exporters' environments: one each, pinned, made on the first use. Nothing else here needs a network."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

_TORCH = "torch==2.13.0"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "optimum": ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", "accelerate", "pillow"),
    "mobius": ("mobius-onnx==0.1.0", "transformers==5.23.0"),
    "genai": ("onnxruntime-genai==0.18.*", "onnxruntime", "onnx", "onnx-ir", "transformers==5.23.0"),
}
"""What each gets after PyTorch, which comes first: a build without CUDA stays where there is one."""


def set_up(name: str, root: Path) -> None:
    """Make an environment, unless it is there.

    Raises:
        RuntimeError: it can't be made.
    """
    home = root / name
    if (home / "installed").is_file():
        return
    try:
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _TORCH]
        subprocess.run(pip, check=True)
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RuntimeError(f"the environment {name} can't be made: {error}") from error
    (home / "installed").touch()


def versions(name: str, root: Path) -> dict[str, str]:
    """Return the versions of what an environment holds, of the packages that matter here."""
    python = root / name / "bin" / "python"
    if not python.is_file():
        return {}
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    pairs = [line.split("==") for line in listed.splitlines() if "==" in line]
    wanted = ("torch", "transformers", "onnxruntime", "onnx", "onnx-ir", "onnx_ir", "optimum-onnx", "mobius-onnx")
    return {key: value for key, value in pairs if key in (*wanted, "onnxruntime-genai", "accelerate")}
