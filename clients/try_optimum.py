"""optimum-onnx: `ORTModelForX.from_pretrained(directory)`, in place of the model class."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from _results import arrays, main, same, same_outputs, same_tokens
from optimum import onnxruntime as optimum

GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def _inputs(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays(case).items()}


def embeddings(directory: str, case: dict[str, Any]) -> str:
    model = optimum.ORTModelForFeatureExtraction.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    feed = tokenizer(case["sentences"], padding=True, return_tensors="pt")
    mask = feed["attention_mask"][..., None]
    mean = (model(**feed).last_hidden_state * mask).sum(1) / mask.sum(1)
    return same(torch.nn.functional.normalize(mean), case["embeddings"])


def labels(directory: str, case: dict[str, Any]) -> str:
    model = optimum.ORTModelForSequenceClassification.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    found = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer)(case["text"])
    assert found[0]["label"] == case["label"], found
    return "label ="


def chat(directory: str, case: dict[str, Any]) -> str:
    model = optimum.ORTModelForCausalLM.from_pretrained(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": case["question"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return same_tokens(tokens.tolist(), case["tokens"])


def translation(directory: str, case: dict[str, Any]) -> str:
    model = optimum.ORTModelForSeq2SeqLM.from_pretrained(directory)
    return same_tokens(model.generate(**_inputs(case), **GREEDY)[0].tolist(), case["tokens"])


def transcript(directory: str, case: dict[str, Any]) -> str:
    model = optimum.ORTModelForSpeechSeq2Seq.from_pretrained(directory)
    prompt = torch.tensor([case["prompt"]])
    generate = transformers.GenerationMixin.generate
    tokens = generate(model, **_inputs(case), decoder_input_ids=prompt, **GREEDY)
    return same_tokens(tokens[0].tolist(), case["tokens"])


def image_labels(directory: str, case: dict[str, Any]) -> str:
    outputs = optimum.ORTModelForImageClassification.from_pretrained(directory)(**_inputs(case))
    return same_outputs(dict(outputs), case)


def image_and_text(directory: str, case: dict[str, Any]) -> str:
    outputs = optimum.ORTModelForZeroShotImageClassification.from_pretrained(directory)(**_inputs(case))
    return same_outputs(dict(outputs), case)


main(
    {
        **{"minilm": embeddings, "classifier": labels, "smollm2": chat, "t5": translation, "whisper": transcript},
        **{"vit": image_labels, "clip": image_and_text},
    }
)
