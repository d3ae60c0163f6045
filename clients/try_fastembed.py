"""fastembed: the directory as a custom model."""

from __future__ import annotations

from typing import Any

import numpy as np
from _results import main, same
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType


def embeddings(directory: str, case: dict[str, Any]) -> str:
    TextEmbedding.add_custom_model(
        model="minilm",
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="minilm"),
        dim=384,
        model_file="model.onnx",
    )
    model = TextEmbedding("minilm", specific_model_path=directory)
    return same(np.array(list(model.embed(case["sentences"]))), case["embeddings"])


main({"minilm": embeddings})
