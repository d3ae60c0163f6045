"""Bark's fine model says of any codebook what the original says."""

from __future__ import annotations

import pytest
import torch
from transformers.models.bark.configuration_bark import BarkFineConfig
from transformers.models.bark.modeling_bark import BarkFineModel

from onnxport.architectures.bark import FineOnnxConfig


@pytest.mark.parametrize("wanted", [1, 3])
def test_any_codebook_is_chosen_by_a_number(wanted: int) -> None:
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_size": 8, "input_vocab_size": 16, "output_vocab_size": 16}
    model = BarkFineModel(BarkFineConfig(**sizes, n_codes_total=4, n_codes_given=1, block_size=16)).eval()
    config, codes = FineOnnxConfig(model.config), torch.randint(16, (2, 5, 4))
    number = torch.tensor([wanted])
    with torch.no_grad():
        expected = config.run(model, {"codebook_idx": number, "input_ids": codes})["logits"]
        torch.testing.assert_close(config._forward_any_codebook(model, number, codes), expected)
