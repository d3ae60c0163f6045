"""OpenVINO: `Core().compile_model(directory + "/model.onnx")`."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
from _results import arrays, main, same, same_outputs
from tokenizers import Tokenizer


def _run(directory: str, feed: dict[str, Any]) -> dict[str, Any]:
    precise = {"INFERENCE_PRECISION_HINT": "f32"}  # the default is bf16 on processors that multiply it
    model = openvino.Core().compile_model(f"{directory}/model.onnx", "CPU", precise)
    names = {value.get_any_name() for value in model.inputs}
    found = model({name: value for name, value in feed.items() if name in names})
    return {output.get_any_name(): found[output] for output in model.outputs}


def _encoded(directory: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(f"{directory}/tokenizer.json")
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(texts)
    ids, mask = (np.array([getattr(item, name) for item in encoded]) for name in ("ids", "attention_mask"))
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def embeddings(directory: str, case: dict[str, Any]) -> str:
    return same(_run(directory, _encoded(directory, case["sentences"]))["sentence_embedding"], case["embeddings"])


def labels(directory: str, case: dict[str, Any]) -> str:
    return same_outputs(_run(directory, _encoded(directory, [case["text"]])), case)


def outputs(directory: str, case: dict[str, Any]) -> str:
    return same_outputs(_run(directory, arrays(case)), case)


main({"minilm": embeddings, "classifier": labels, "vit": outputs, "clip": outputs})
