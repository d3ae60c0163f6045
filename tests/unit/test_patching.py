"""The scope of patches: applied in order, restored exactly, in one thread at a time, with cleared caches."""

from __future__ import annotations

import threading
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import sympy
import torch
from torch.utils._sympy.functions import FloorDiv
from transformers import AttentionInterface, BertConfig, GPT2Config, LlavaConfig
from transformers.models.bert.modeling_bert import BertModel

from onnxport.architectures._patches import modeling_modules, patches_of
from onnxport.description._packed_patch_tracing import PackedPatchTracing
from onnxport.description.arguments import overridden
from onnxport.patching.caches import clear_symbolic_caches
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import evaluating, exclusive, patching
from onnxport.tracing.engine_patches import ENGINE_PATCHES
from onnxport.tracing.scope import capturing, quiet_engine

TINY = BertConfig(
    vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
)  # fmt: skip


def made(target: str, make: Any) -> Patch:
    return Patch(target, make, "a reason", EAGER, "a time")


class Base:
    def inherited(self) -> int:
        return 1


class Owner(Base):
    value = 1

    @staticmethod
    def static() -> int:
        return 1

    @classmethod
    def class_method(cls) -> int:
        return 1


@pytest.mark.parametrize("name", ["value", "static", "class_method"])
def test_an_attribute_of_a_class_is_restored(name: str) -> None:
    before = vars(Owner)[name]
    with patching(Replacement(Owner, name, 2)):
        assert getattr(Owner, name) == 2
    assert vars(Owner)[name] is before


def test_an_inherited_attribute_is_restored() -> None:
    with patching(Replacement(Owner, "inherited", lambda _: 2)):
        assert Owner().inherited() == 2
    assert "inherited" not in vars(Owner)
    assert Owner().inherited() == 1


def test_a_property_and_an_attribute_map_are_restored() -> None:
    config = GPT2Config(n_embd=8, attn_implementation="eager")
    with patching(Replacement(config, "hidden_size", 16), Replacement(config, "_attn_implementation", "sdpa")):
        assert (config.n_embd, config._attn_implementation) == (16, "sdpa")
    assert (config.n_embd, config._attn_implementation) == (8, "eager")
    assert "hidden_size" not in vars(config)


def test_a_builtin_is_replaced_for_one_module_only() -> None:
    module = ModuleType("onnxport_test_module")
    with pytest.MonkeyPatch.context() as monkey:
        monkey.setitem(__import__("sys").modules, module.__name__, module)
        with patching(made(f"{module.__name__}:len", lambda original: lambda held: original(held) + 1)):
            assert module.len("abc") == 4
            assert len("abc") == 3
    assert not hasattr(module, "len")


def test_two_changes_of_one_attribute_are_nested() -> None:
    owner = SimpleNamespace(value=1)
    with patching(Replacement(owner, "value", 2), Replacement(owner, "value", 3)):
        assert owner.value == 3
        with patching(Replacement(owner, "value", 4)):
            assert owner.value == 4
        assert owner.value == 3
    assert owner.value == 1


def test_an_error_restores_what_was_applied() -> None:
    before = torch.isfinite
    with pytest.raises(AttributeError), patching(made("torch:isfinite", lambda _: None), made("torch:no_such", id)):
        pass
    assert torch.isfinite is before
    with pytest.raises(ValueError), patching(made("torch:isfinite", lambda _: None)):
        raise ValueError
    assert torch.isfinite is before


def test_one_thread_at_a_time() -> None:
    inside, order = threading.Event(), []

    def other() -> None:
        inside.wait()
        with exclusive():
            order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    with patching(), patching():  # re-entrant
        inside.set()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_other_threads_can_still_print(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_engine():
        print("hidden")
        thread = threading.Thread(target=print, args=("shown",))
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "shown\n"


def test_the_training_mode_of_each_submodule_is_restored() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2)).train()
    model[1].eval()
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False]


def test_subconfigurations_keep_their_attention_implementation() -> None:
    config = LlavaConfig(attn_implementation={"text_config": "eager", "vision_config": "sdpa"})
    parts = [config, config.text_config, config.vision_config]
    before = [part._attn_implementation for part in parts]
    described: Any = SimpleNamespace(model_values={"_attn_implementation": "eager"})
    with overridden(SimpleNamespace(config=config, modules=list), described):
        assert {part._attn_implementation for part in parts} == {"eager"}
    assert [part._attn_implementation for part in parts] == before


def test_the_attention_function_for_packed_patches_is_unregistered() -> None:
    before = AttentionInterface._global_mapping
    model = BertModel(TINY)
    with PackedPatchTracing(model).replaced(None, None):
        assert set(AttentionInterface._global_mapping) > set(before)
    assert AttentionInterface._global_mapping is before
    assert not {"onnxport_flash_numbers"} & set(AttentionInterface._global_mapping)


def test_patches_depend_on_the_modules_of_a_model_not_on_imports() -> None:
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation
    from transformers.models.swin import modeling_swin  # imported, and not a part of BERT

    assert modeling_swin.__name__ not in modeling_modules(BertModel(TINY))
    assert patches_of(BertModel(TINY)) == ()
    small = {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 2, "image_size": 8, "patch_size": 2}
    backbone = SwinConfig(**small, out_features=["stage1"])
    config = UperNetConfig(backbone_config=backbone, hidden_size=8, pool_scales=[1], use_auxiliary_head=False)
    with torch.device("meta"):
        model = UperNetForSemanticSegmentation(config)
    assert any(":SwinLayer." in found.target for found in patches_of(model))


def test_tracing_leaves_no_symbolic_expressions_in_caches() -> None:
    size = sympy.Symbol("s0", integer=True, positive=True)
    clear_symbolic_caches()
    plain = FloorDiv(FloorDiv(size, 2) + 1, 2)
    with capturing(BertModel(TINY)):
        flat = FloorDiv(FloorDiv(size, 2) + 1, 2)
    assert str(flat) != str(plain)
    assert str(FloorDiv(FloorDiv(size, 2) + 1, 2)) == str(plain)


def test_caches_of_symbolic_operations_are_cleared() -> None:
    from torch.fx.experimental import symbolic_shapes
    from torch.fx.experimental.sym_node import SymNode

    symbolic_shapes.safe_expand(sympy.Symbol("s0") * 2)
    assert symbolic_shapes.safe_expand.cache_info().currsize
    clear_symbolic_caches()
    assert not symbolic_shapes.safe_expand.cache_info().currsize
    assert SymNode._int_floordiv.__wrapped__.__closure__ is not None  # where torch keeps the cache of an operation


def test_the_engines_patches_are_applied_and_restored() -> None:
    found = [patch.resolve() for patch in ENGINE_PATCHES]
    before = [(change.owner, change.name) for change in found]
    originals = [vars(owner).get(name) for owner, name in before]
    with capturing(BertModel(TINY)):
        assert [vars(owner).get(name) for owner, name in before] != originals
    for (owner, name), value in zip(before, originals, strict=True):
        assert vars(owner).get(name) is value


def test_a_condition_on_sizes_may_simplify_to_a_truth_value() -> None:
    (patch,) = (one for one in ENGINE_PATCHES if one.target.endswith("_canonicalize_bool_expr_impl"))
    canonicalize = patch.resolve().value
    size = sympy.Symbol("size", integer=True, positive=True)
    assert canonicalize(sympy.true) is sympy.true  # type: ignore[operator]
    assert canonicalize(size > 3) == sympy.Lt(3, size)  # type: ignore[operator]
