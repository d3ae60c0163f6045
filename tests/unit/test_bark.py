"""Bark's fine model returns the logits of the original for any codebook."""

from __future__ import annotations

import pytest
import torch
from transformers.models.bark.configuration_bark import BarkFineConfig
from transformers.models.bark.modeling_bark import BarkFineModel

from onnxport.architectures.bark import FineOnnxConfig


@pytest.mark.parametrize("codebook", [1, 3])
def test_the_codebook_index_is_an_input(codebook: int) -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "input_vocab_size": 16, "output_vocab_size": 16}
    model = BarkFineModel(BarkFineConfig(**sizes, n_codes_total=4, n_codes_given=1, block_size=16)).eval()
    config, codes = FineOnnxConfig(model.config), torch.randint(16, (2, 5, 4))
    index = torch.tensor([codebook])
    with torch.no_grad():
        expected = config.run(model, {"codebook_idx": index, "input_ids": codes})["logits"]
        torch.testing.assert_close(config._forward_any_codebook(model, index, codes), expected)
