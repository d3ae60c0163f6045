"""onnxruntime-genai: `Model(directory)`, with the layout genai."""

from __future__ import annotations

import json
from typing import Any

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


main({"smollm2": chat})
