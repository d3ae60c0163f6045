"""onnxruntime-genai: `Model(directory)`, with the layout genai."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from _results import main


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
    model = genai.Model(directory)
    features = case["inputs"]["input_features"]
    inputs = genai.NamedTensors()
    inputs["input_features"] = np.array(features["data"], np.float32).reshape(features["shape"])
    inputs["input_ids"] = np.array([case["prompt"]], np.int32)
    parameters = genai.GeneratorParams(model)
    length = len(case["tokens"])
    parameters.set_search_options(max_length=length, min_length=length)
    generator = genai.Generator(model, parameters)
    generator.set_inputs(inputs)
    while not generator.is_done():
        generator.generate_next_token()
    tokens = generator.get_sequence(0).tolist()
    assert tokens == case["tokens"], f"tokens {tokens}, PyTorch's are {case['tokens']}"
    return "tokens ="


def describe(directory: str, case: dict[str, Any]) -> str:
    model = genai.Model(directory)
    inputs = genai.NamedTensors()
    for name in ("pixel_values", "image_grid_thw"):
        if name in case["inputs"]:
            value = case["inputs"][name]
            inputs[name] = np.array(value["data"], value["type"]).reshape(value["shape"])
    prompt = np.array(case["inputs"]["input_ids"]["data"], np.int32)[None]
    inputs["input_ids"] = prompt
    with open(f"{directory}/genai_config.json") as file:
        image_token = json.load(file)["model"]["image_token_id"]
    inputs["num_image_tokens"] = np.array([(prompt == image_token).sum()])
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(case["tokens"]), min_length=len(case["tokens"]))
    generator = genai.Generator(model, parameters)
    generator.set_inputs(inputs)
    while not generator.is_done():
        generator.generate_next_token()
    tokens = generator.get_sequence(0).tolist()
    assert tokens == case["tokens"], f"tokens {tokens}, PyTorch's are {case['tokens']}"
    return "tokens ="


main({"smollm2": chat, "whisper": transcribe, "qwen2_vl": describe, "qwen3_vl": describe, "gemma3": describe})
