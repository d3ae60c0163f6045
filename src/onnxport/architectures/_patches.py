"""Find the patches of a model: those of the families whose modeling files define its modules."""

from __future__ import annotations

import sys
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from onnxport.patching.patch import Patch

PATCHED: dict[str, str] = {
    "autoformer": "autoformer",
    "canine": "canine",
    "chmv2": "chmv2",
    "clap": "clap",
    "clvp": "clvp",
    "cpmant": "cpmant",
    "dbrx": "dbrx",
    "deepseek_v4": "deepseek_v4",
    "depth_anything": "depth_anything",
    "diffusion_gemma": "diffusion_gemma",
    "donut": "swin",
    "dpt": "dpt",
    "edgetam": "edgetam",
    "encodec": "encodec",
    "eomt": "eomt",
    "eomt_dinov3": "eomt",
    "ernie4_5_vl_moe": "ernie4_5_vl_moe",
    "evolla": "evolla",
    "fastspeech2_conformer": "fastspeech2_conformer",
    "focalnet": "focalnet",
    "fsmt": "fsmt",
    "granite_speech": "granite_speech",
    "granite_speech5": "granite_speech5",
    "granite_speech_plus": "granite_speech",
    "higgs_audio_v2": "higgs_audio_v2",
    "higgs_audio_v2_tokenizer": "xcodec",
    "informer": "autoformer",
    "kolibri1_1": "kolibri1_1",
    "led": "led",
    "lightglue": "lightglue",
    "llama4": "llama4",
    "longcat_flash": "longcat_flash",
    "longformer": "longformer",
    "longt5": "longt5",
    "maskformer": "swin",
    "minimax": "minimax",
    "mobilenet_v1": "mobilenet",
    "mobilenet_v2": "mobilenet",
    "mobilevit": "mobilevit",
    "moonshine": "moonshine",
    "muse_glimmer_assistant": "muse",
    "musicflamingo": "musicflamingo",
    "neucodec": "neucodec",
    "nllb_moe": "nllb_moe",
    "omdet_turbo": "omdet_turbo",
    "parakeet": "parakeet",
    "pe_audio": "pe",
    "pe_audio_video": "pe",
    "pe_video": "pe",
    "pegasus_x": "pegasus_x",
    "pix2struct": "pix2struct",
    "prompt_depth_anything": "dpt",
    "qwen4_exp": "qwen4_exp",
    "recurrent_gemma": "recurrent_gemma",
    "reformer": "reformer",
    "rwkv": "rwkv",
    "sam": "sam",
    "sam2": "sam2",
    "sam3": "sam3",
    "sam3_tracker": "sam",
    "sam_hq": "sam",
    "siglip2": "siglip2",
    "slanet": "slanet",
    "slanext": "slanet",
    "step3p7": "step3p7",
    "superpoint": "superpoint",
    "swin": "swin",
    "swin2sr": "swin",
    "swinv2": "swin",
    "switch_transformers": "switch_transformers",
    "tipsv2_dpt": "dpt",
    "udop": "udop",
    "vilt": "vilt",
    "visual_bert": "visual_bert",
    "vitdet": "vitdet",
    "vits": "vits",
    "xcodec": "xcodec",
    "xlstm": "xlstm",
    "zoedepth": "dpt",
}
"""Package in `transformers.models` to the module of `onnxport.architectures` that patches its code.

By package, not by model type, because models of other types may have a Swin backbone.
"""


def patches_of(model: torch.nn.Module) -> tuple[Patch, ...]:
    """Return the patches of the modeling files that define a model's modules.

    Args:
        model: the model, or a submodule.
    """
    modules = modeling_modules(model)
    packages = dict.fromkeys(name.split(".")[2] for name in modules)
    files = dict.fromkeys(PATCHED[package] for package in packages if package in PATCHED)
    return tuple(patch for file in files for patch in patches_in(file) if patch.module in modules)


def patches_in(file: str) -> tuple[Patch, ...]:
    """Return the patches of a family.

    Args:
        file: module of `onnxport.architectures`.
    """
    records = import_module(f"onnxport.architectures.{file}").ARCHITECTURES
    return tuple(patch for record in records for patch in record.patches)


def modeling_modules(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the Transformers modeling modules with a model's code.

    These are the modules that define the classes of its submodules and their base classes, and the modules that those
    import functions from. Other imported modeling modules don't count.
    """
    classes = dict.fromkeys(base for module in model.modules() for base in type(module).__mro__)
    names = dict.fromkeys(base.__module__ for base in classes if _is_modeling_file(base.__module__))
    functions = (value for name in names for value in vars(sys.modules[name]).values())
    imported = (value.__module__ for value in functions if isinstance(value, FunctionType))
    return tuple(dict.fromkeys((*names, *filter(_is_modeling_file, imported))))


def _is_modeling_file(name: str) -> bool:
    return name.startswith("transformers.models.") and ".modeling_" in name
