"""Export all-MiniLM-L6-v2, validate it, and compare sentences with the exported model.

make demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from fetch_real_models import model_directory
from tokenizers import Tokenizer

from onnxport.cli import main

OUTPUT = Path("out/all-MiniLM-L6-v2")
SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell sharply today.",
    "Shares lost much of their value.",
)


def embed(directory: Path, sentences: tuple[str, ...]) -> np.ndarray:
    """Return normalized embeddings [sentences, size]; the graph includes pooling and normalization."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    ids = np.array([item.ids for item in encoded], dtype=np.int64)
    mask = np.array([item.attention_mask for item in encoded], dtype=np.int64)
    session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (embeddings,) = session.run(["sentence_embedding"], feed)
    return embeddings


def show_similarities() -> None:
    vectors = embed(OUTPUT, SENTENCES)
    print("cosine similarities, computed by ONNX Runtime:")
    for i, j in ((0, 1), (2, 3), (0, 2), (1, 3)):
        print(f"  {vectors[i] @ vectors[j]:6.3f}  {SENTENCES[i]}  |  {SENTENCES[j]}")


if __name__ == "__main__":
    code = main(["export", str(model_directory("minilm")), str(OUTPUT), "--force"])
    if code:
        sys.exit(code)
    show_similarities()
