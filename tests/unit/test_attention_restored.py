"""A submodel whose configuration has lost its attention implementation masks padding all the same."""

from __future__ import annotations

import torch
import transformers

from onnxport.description.arguments import attention_restored
from onnxport.patching.scope import patching


def test_a_submodel_without_an_attention_implementation_gets_its_default() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=16, **sizes)).eval()
    model.config._attn_implementation_internal = None  # as reading PE-AV's configuration does to its text model's
    padded = {"input_ids": torch.tensor([[1, 2, 3, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 0]])}
    with torch.no_grad(), patching(*attention_restored(model)):
        assert model.config._attn_implementation == "sdpa"
        found = model(**padded).last_hidden_state[:, :3]
        expected = model(torch.tensor([[1, 2, 3]])).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert model.config._attn_implementation is None
