"""Environments of the other exporters, with pinned versions, created on first use. Only this needs a network."""

from __future__ import annotations

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

_TORCH = "torch==2.13.0"
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "optimum": ("optimum-onnx[onnxruntime]==0.1.0", "transformers==4.57.6", "accelerate", "pillow"),
    "mobius": ("mobius-onnx==0.1.0", "transformers==5.23.0"),
    "genai": ("onnxruntime-genai==0.18.*", "onnxruntime", "onnx", "onnx-ir", "transformers==5.23.0"),
}
"""Requirements that are installed after PyTorch: it is first, so that an available build without CUDA is kept."""


def set_up(name: str, root: Path) -> None:
    """Create an environment, unless it exists.

    Raises:
        RuntimeError: the environment can't be created.
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
        raise RuntimeError(f"the environment {name} can't be created: {error}") from error
    (home / "installed").touch()


def set_up_node(folder: Path, packages: Sequence[str]) -> Path:
    """Install packages of npm once, without their scripts, and return the folder that has them in `node_modules`.

    Raises:
        subprocess.CalledProcessError: npm fails.
    """
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(folder), *packages]
        subprocess.run(install, check=True)
        (folder / "installed").touch()
    return folder


def versions(name: str, root: Path) -> dict[str, str]:
    """Return the versions of the relevant packages in an environment."""
    python = root / name / "bin" / "python"
    if not python.is_file():
        return {}
    listed = subprocess.run([str(python), "-m", "pip", "freeze"], capture_output=True, text=True).stdout
    pairs = [line.split("==") for line in listed.splitlines() if "==" in line]
    relevant = ("torch", "transformers", "onnxruntime", "onnx", "onnx-ir", "onnx_ir", "optimum-onnx", "mobius-onnx")
    return {key: value for key, value in pairs if key in (*relevant, "onnxruntime-genai", "accelerate")}
