"""The sizes at which a graph is compared with its original."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import transformers

from onnxport.validation.prove import ProofRequest, _plan


@pytest.mark.parametrize(
    ("traced", "limit", "names"),
    [
        (64, None, ["another branch"]),
        (64, 65, ["another branch"]),
        (64, 64, []),
        (5, None, ["another branch"]),
        (4, None, []),
    ],
)
def test_a_branch_beyond_the_limit_or_far_from_the_trace_is_not_tried(
    traced: int, limit: int | None, names: list[str]
) -> None:
    """The runtime refuses a size beyond the limit: Swin's windows change where the last stage is larger than one."""
    model: Any = torch.nn.Linear(1, 1)
    examples: Any = SimpleNamespace(config=SimpleNamespace(_config=transformers.SwinConfig()))
    request = ProofRequest(
        "model", Path("model.onnx"), model, examples, {"batch_size": 2, "frames": traced},
        max_sizes={} if limit is None else {"frames": limit}, branch_sizes={"frames": 65},
    )  # fmt: skip
    values = [SimpleNamespace(name="x", shape=["batch_size", "frames"])]
    session = cast("Any", SimpleNamespace(get_inputs=lambda: values))
    planned = [case for case in _plan(session, request) if case.name == "another branch"]
    assert [case.name for case in planned] == names
    assert all(case.sizes["frames"] == 65 for case in planned)
