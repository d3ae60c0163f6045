"""onnxruntime-genai: `Model(directory)`, with the layout genai."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from _results import arrays, main


def chat(directory: str, case: dict[str, Any]) -> str:
    model = genai.Model(directory)
    tokenizer = genai.Tokenizer(model)
    messages = json.dumps([{"role": "user", "content": case["question"]}])
    prompt = tokenizer.encode(tokenizer.apply_chat_template(messages, add_generation_prompt=True))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + 32)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(prompt)
    while not generator.is_done():
        generator.generate_next_token()
    answer = tokenizer.decode(generator.get_sequence(0)[len(prompt) :])
    assert answer == case["answer"], f"answer {answer}, PyTorch's is {case['answer']}"
    return "answer ="


def transcribe(directory: str, case: dict[str, Any]) -> str:
    features = {"input_features": arrays(case)["input_features"]}
    return same_tokens(directory, {**features, "input_ids": np.array([case["prompt"]], np.int32)}, case)


def describe(directory: str, case: dict[str, Any]) -> str:
    found = arrays(case)
    images = {name: found[name] for name in ("pixel_values", "image_grid_thw") if name in found}
    prompt = found["input_ids"].astype(np.int32)
    with open(f"{directory}/genai_config.json") as file:
        image_token = json.load(file)["model"]["image_token_id"]
    count = np.array([(prompt == image_token).sum()])
    return same_tokens(directory, {**images, "input_ids": prompt, "num_image_tokens": count}, case)


def same_tokens(directory: str, inputs: dict[str, Any], case: dict[str, Any]) -> str:
    """Generate as many tokens as PyTorch did; raise AssertionError if they are others."""
    model = genai.Model(directory)
    tensors = genai.NamedTensors()
    for name, value in inputs.items():
        tensors[name] = value
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(case["tokens"]), min_length=len(case["tokens"]))
    generator = genai.Generator(model, parameters)
    generator.set_inputs(tensors)
    while not generator.is_done():
        generator.generate_next_token()
    tokens = generator.get_sequence(0).tolist()
    assert tokens == case["tokens"], f"tokens {tokens}, PyTorch's are {case['tokens']}"
    return "tokens ="


main({"smollm2": chat, "whisper": transcribe, "qwen2_vl": describe, "qwen3_vl": describe, "gemma3": describe})
