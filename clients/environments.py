"""Environments of the clients, in `.clients/`: their packages, beside PyTorch and ONNX Runtime of `.venv`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.environments import set_up_node
from clients.models import ROOT

PACKAGES = {
    "optimum": (
        *("transformers==4.57.6", "optimum==2.1.0", "optimum-onnx==0.1.0", "huggingface_hub==0.36.2"),
        *("tokenizers==0.22.2", "sentence-transformers==6.2.0"),
        *("scikit-learn", "joblib", "threadpoolctl", "cloudpickle", "narwhals", "httpx", "httpcore", "h11", "anyio"),
    ),
    "openvino": ("openvino==2026.4.1", "openvino-telemetry"),
    "fastembed": ("fastembed==0.9.1", "mmh3", "py_rust_stemmers", "loguru"),
    "genai": ("onnxruntime-genai==0.18.0",),
    "triton": ("tritonclient==2.73.0", "grpcio", "protobuf", "python-rapidjson"),
}
"""Environment to its packages; those that they need and `.venv` has, PyTorch among them, aren't installed again."""
NODE_PACKAGES = ("@huggingface/transformers@4.3.2", "playwright-core@1.64.1")
_READY = "installed"


def environment(name: str) -> dict[str, str]:
    """Install the packages of an environment once, and return the variables with which Python finds them first."""
    folder = ROOT / "environments" / name
    if not (folder / _READY).exists():
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *PACKAGES[name]], check=True)
        (folder / _READY).touch()
    return {**os.environ, "PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}


def node_modules() -> Path:
    """Install the packages for Node once, without their scripts, and return the folder that has them."""
    return set_up_node(ROOT / "environments" / "node", NODE_PACKAGES)


def browser() -> str:
    """Return the path of Chromium, which isn't an npm package: Debian's is `chromium`.

    Raises:
        FileNotFoundError: it isn't installed.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if (path := shutil.which(name)) is not None:
            return path
    raise FileNotFoundError("Chromium isn't installed: apt-get install chromium, or leave it out with --client")
