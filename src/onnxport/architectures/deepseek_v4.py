"""DeepSeek V4: attention to compressed windows of tokens, whose number decides which code runs.

Transformers branches on whether a text has a complete window, several, and as many as the indexer selects. A graph has
one branch: windows of padding are added, so that there are always several; no query attends to them, since they end
after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from onnxport.architectures._architecture import Architecture
from onnxport.architectures._symbolic import symbolic_min
from onnxport.patching.patch import EAGER, Patch, Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    from torch import nn

_MODULE = "transformers.models.deepseek_v4.modeling_deepseek_v4"
_WINDOWS = 2
"""Windows of padding: the code for one differs from that for several."""


def _with_padding(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compressor's forward that projects windows of padding after the tokens."""

    def padded_forward(self: nn.Module, *arguments: Any, **named: Any) -> Any:
        import torch

        def padded(projection: nn.Module) -> Replacement:
            project = projection.forward
            after = (0, 0, 0, _WINDOWS * int(self.compress_rate))  # type: ignore[arg-type]  # an attribute, not a module
            return Replacement(projection, "forward", lambda states: torch.nn.functional.pad(project(states), after))

        with patching(padded(self.kv_proj), padded(self.gate_proj)):  # type: ignore[arg-type]  # modules
            return forward(self, *arguments, **named)

    return padded_forward


def _patch(name: str) -> Patch:
    return Patch(
        f"{_MODULE}:{name}.forward",
        _with_padding,
        "branches on the number of complete windows limit the sequence length to fewer than are traced",
        EAGER,
        "Transformers computes texts of any length by the same operations",
    )


ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        ("deepseek_v4",),
        patches=(
            *(_patch(f"DeepseekV4{name}") for name in ("HCACompressor", "CSACompressor", "Indexer")),
            Patch(
                f"{_MODULE}:min",
                symbolic_min,
                "the number of windows that the indexer selects, at most `index_topk`, limits the sequence length",
                EAGER,
                "as above",
            ),
        ),
    ),
)
