"""Each run of OmDet-Turbo embeds its classes and prompts anew, however many there were before."""

from __future__ import annotations

import torch
import transformers

from conformance.matrix.shrink import tiny_config
from onnxport.architectures.omdet_turbo import OmDetTurboOnnxConfig


def test_more_runs_than_the_cache_of_embeddings_holds() -> None:
    config = tiny_config("omdet-turbo")
    config.cache_size = 2
    model = transformers.OmDetTurboForObjectDetection(config).eval()
    described = OmDetTurboOnnxConfig(model, transformers.ViTImageProcessor(size={"height": 64, "width": 64}))
    arguments = {
        "pixel_values": torch.zeros(1, 3, 64, 64),
        "tasks_input_ids": torch.ones(1, 5, dtype=torch.int64),
        "tasks_attention_mask": torch.ones(1, 5, dtype=torch.int64),
        "classes_structure": torch.tensor([2]),
    }
    for token in range(1, 5):
        classes = torch.tensor([[token] * 4, [token + 10] * 4])
        with torch.no_grad():
            result = described.run(model.forward, {**arguments, "classes_input_ids": classes})
        assert result["decoder_coord_logits"].shape[0] == 1
