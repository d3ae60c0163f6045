"""Experts without a loop over the selected ones return the outputs of Transformers' loops."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.dbrx.modeling_dbrx import DbrxExperts
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashExperts
from transformers.models.step3p7.modeling_step3p7 import Step3p7Experts
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersExperts,
    SwitchTransformersTop1Router,
)

from onnxport.architectures._patches import patches_in
from onnxport.patching.scope import patching

SIZE, INNER, COUNT = 8, 16, 4
CONFIG = SimpleNamespace(
    **{name: SIZE for name in ("hidden_size", "d_model")},
    **{name: INNER for name in ("ffn_hidden_size", "moe_intermediate_size", "expert_ffn_hidden_size", "d_ff")},
    **{name: COUNT for name in ("moe_num_experts", "n_routed_experts", "num_local_experts", "num_experts")},
    ffn_act_fn={"name": "silu"},
    hidden_act="silu",
    dense_act_fn="relu",
    activation_function="relu",
    zero_expert_num=2,
    dropout_rate=0.0,
    activation_dropout=0.0,
    dropout=0.0,
    moe_token_dropout=0.2,
    router_bias=True,
    router_dtype="float32",
    router_jitter_noise=0.0,
    router_ignore_padding_tokens=False,
    expert_capacity=3,
)


def choose_two(experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Select two of the first experts for each of seven tokens; the last expert isn't selected."""
    weights, indices = torch.rand(7, experts - 1).topk(2)
    return indices, weights


def choose_one() -> tuple[torch.Tensor, torch.Tensor]:
    """Select one expert for each token, and none for the last token, as a router with limited capacity."""
    mask = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 3, 0, 3, 1]), COUNT)[:, None]
    mask[-1] = 0
    return mask, torch.rand(7, 1)


def initialized(module: torch.nn.Module) -> torch.nn.Module:
    """Initialize the parameters of a module."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.mark.parametrize(
    "experts_class, arguments",
    [
        (DbrxExperts, lambda: choose_two(COUNT)),
        (LongcatFlashExperts, lambda: choose_two(COUNT + 2)),
        (Step3p7Experts, lambda: choose_two(COUNT)),
        (SwitchTransformersExperts, choose_one),
    ],
)
def test_outputs_equal_those_of_the_loop(experts_class: Any, arguments: Any) -> None:
    module = initialized(experts_class(CONFIG))
    tokens, routed = torch.randn(7, SIZE), arguments()
    shaped = tokens.view(1, 7, SIZE) if experts_class is DbrxExperts else tokens
    with torch.no_grad():
        expected = module(shaped, *routed)
        with patching(*patches_in(experts_class.__module__.split(".")[2])):
            found = module(shaped, *routed)
    torch.testing.assert_close(found, expected)


def test_the_router_returns_its_weights() -> None:
    router = initialized(SwitchTransformersTop1Router(CONFIG))
    tokens = torch.randn(2, 9, SIZE)
    with torch.no_grad(), patching(*patches_in("switch_transformers")):
        found = router(tokens)
    with torch.no_grad():
        expected = router(tokens)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
