"""sentence-transformers: `SentenceTransformer(directory, backend="onnx")`."""

from __future__ import annotations

from typing import Any

from _results import main, same
from sentence_transformers import SentenceTransformer


def embeddings(directory: str, case: dict[str, Any]) -> str:
    model = SentenceTransformer(directory, backend="onnx")
    return same(model.encode(case["sentences"]), case["embeddings"])


main({"minilm": embeddings})
