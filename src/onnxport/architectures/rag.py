"""RAG: the retriever isn't part of the model, so what it returns is an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from onnxport.architectures._architecture import Architecture, always
from onnxport.description.derived import DerivedOnnxConfig
from onnxport.description.dummy_inputs import DummyInput, InputContext

if TYPE_CHECKING:
    import torch

_LENGTH = 7
_RETRIEVED = "read by the retriever, which isn't part of the graph: context_input_ids are what it returns"


def _context(context: InputContext) -> torch.Tensor:
    import torch

    return torch.ones(context.batch * context.config.n_docs, _LENGTH, dtype=torch.int64)


def _scores(context: InputContext) -> torch.Tensor:
    import torch

    return torch.zeros(context.batch, context.config.n_docs)


class RagOnnxConfig(DerivedOnnxConfig):
    """Describe a generator that takes a question's retrieved documents, each as a sequence of its own."""

    dummy_inputs: ClassVar = {
        "context_input_ids": DummyInput({0: "batch", 1: "context_sequence"}, _context),
        "context_attention_mask": DummyInput({0: "batch", 1: "context_sequence"}, _context),
        "doc_scores": DummyInput({0: "batch"}, _scores),
    }

    def run(self, forward: Any, arguments: Mapping[str, Any]) -> Any:
        """Run the model, and drop its output (None,) in place of the retriever's; see `OnnxConfig`."""
        result = super().run(forward, arguments)
        return {name: value for name, value in result.items() if not (isinstance(value, tuple) and None in value[:1])}

    def fit_inputs(self, inputs: dict[str, Any]) -> None:
        """Drop the question, which only the retriever reads."""
        for name in ("input_ids", "attention_mask"):
            inputs.pop(name, None)


ARCHITECTURES = (
    Architecture(
        ("rag",), model=always(RagOnnxConfig), left_out={"input_ids": _RETRIEVED, "attention_mask": _RETRIEVED}
    ),
)
