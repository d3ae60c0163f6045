"""Every patch has a target that exists, once, and a reason; the table of patched modeling files is complete."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import transformers

from onnxport.architectures._patches import PATCHED, patches_in
from onnxport.binding.bind import _LIMITED_INITIALIZATION
from onnxport.loading.quantized import RECORDED_MXFP4
from onnxport.passes.cleanup import _PATCHES
from onnxport.patching.patch import Patch
from onnxport.tracing.engine_patches import ENGINE_PATCHES, FAKE_PATCHES
from tests.policy.source import FILES, SOURCE, label

FAMILIES = {
    path.stem: patches_in(path.stem)
    for path in sorted((SOURCE / "architectures").glob("[!_]*.py"))
    if "\nARCHITECTURES" in path.read_text(encoding="utf-8")
}
OF_MODELS = [patch for patches in FAMILIES.values() for patch in patches]
ALL: list[Patch] = [*OF_MODELS, *ENGINE_PATCHES, *FAKE_PATCHES, *_PATCHES, _LIMITED_INITIALIZATION, RECORDED_MXFP4]
_REQUIRED = {"higgs_audio_v2_tokenizer": "torchaudio"}
"""Package in `transformers.models` to a package that its modeling file imports, and the tests do without."""


_NEW = {"kolibri1_1"}
"""Packages in `transformers.models` that only the next Transformers has."""


def _is_importable(patch: Patch) -> bool:
    package = ".".join(patch.module.split(".")[:3])
    if package.rpartition(".")[2] in _NEW and find_spec(package) is None:
        return False
    required = next((name for package, name in _REQUIRED.items() if f".{package}." in patch.module), None)
    return required is None or find_spec(required) is not None


def test_every_target_resolves() -> None:
    for patch in filter(_is_importable, ALL):
        assert callable(patch.resolve().value) or patch.resolve().value is not None, patch.target


def test_a_replacement_takes_further_arguments_if_the_original_does() -> None:
    """Models pass **kwargs on to more and more of their modules: Transformers 5.25 to an indexer of Qwen4."""
    for patch in filter(_is_importable, OF_MODELS):
        owner, name = patch._find()
        original = getattr(owner, name, None)
        if inspect.isfunction(original) and _takes_any(original):
            assert _takes_any(patch.resolve().value), patch.target


def _takes_any(function: Callable[..., object]) -> bool:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    return inspect.Parameter.VAR_KEYWORD in kinds


def test_every_target_is_patched_once() -> None:
    together = [patch.target for patch in (*OF_MODELS, *ENGINE_PATCHES)]
    assert sorted(together) == sorted(set(together))
    assert len({patch.target for patch in FAKE_PATCHES}) == len(FAKE_PATCHES)
    assert not {patch.target for patch in FAKE_PATCHES} & {patch.target for patch in OF_MODELS}


def test_every_patch_has_a_reason() -> None:
    for patch in ALL:
        assert patch.reason and patch.until, patch.target
        assert patch.issue.startswith(("https://github.com/", "none: ", "none known: ")), patch.target


def test_patches_of_models_are_in_the_table() -> None:
    found = {patch.module.split(".")[2]: file for file, patches in FAMILIES.items() for patch in patches}
    assert found == PATCHED
    assert list(PATCHED) == sorted(PATCHED)


def test_families_only_patch_modeling_files() -> None:
    for patch in filter(_is_importable, OF_MODELS):
        assert patch.module.startswith("transformers.models.") and ".modeling_" in patch.module, patch.target
        assert find_spec(patch.module) is not None


def test_modeling_files_that_branch_on_infinite_values_are_patched() -> None:
    """Such a branch, of float16 alone, depends on values; `torch.isfinite` is replaced in all of them."""
    branching = {
        f"transformers.models.{path.parent.name}.{path.stem}:torch"
        for path in Path(str(transformers.__file__)).parent.glob("models/*/modeling_*.py")
        if re.search(r"^ +if .*torch\.isinf\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert "transformers.models.longt5.modeling_longt5:torch" in branching
    assert branching <= {patch.target for patch in OF_MODELS}


def test_no_other_module_replaces_attributes() -> None:
    """Attributes of classes and modules of other packages are only assigned by `patching`."""
    allowed = {"patching/scope.py", "compat.py", "tracing/layer_indices.py"}  # their own modules and class
    found = [
        f"{label(path)}:{node.lineno}"
        for path in FILES
        if label(path) not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr"
        if not _is_own(node)
    ]
    assert not found


def _is_own(call: ast.Call) -> bool:
    return isinstance(call.args[0], ast.Name) and call.args[0].id == "self"
