"""Continue a text token by token, always with the likeliest: with the graph's cache where it has one."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxport.cli._answers import Answer, shapes
from onnxport.cli._exported import PAST, Arrays, Exported
from onnxport.cli._feeds import Given, feed_of, text_feed, tokenizer_of


def continue_text(exported: Exported, given: Given) -> Answer:
    """Continue each text with a decoder."""
    tokenizer = tokenizer_of(exported, given)
    ends = _ends(exported, tokenizer)
    texts = given.texts or (None,)
    answers = []
    for text in texts:
        one = Given(texts=(text,) if text is not None else (), input_ids=given.input_ids)
        prompt = text_feed(one, tokenizer)["input_ids"]
        answers.append(_decoded(tokenizer, _generate(exported, prompt, (given.max_new_tokens, ends))))
    return _answer(answers)


def answer_sequence(exported: Exported, given: Given) -> Answer:
    """Generate with an encoder-decoder from its whole input at every step; shapes where the graph wants a cache."""
    takes_text = "input_ids" in exported.inputs
    tokenizer = tokenizer_of(exported, given) if takes_text else exported.load("AutoTokenizer")
    feed = feed_of(exported, given, tokenizer)
    cached = any(name.startswith(PAST) for name in exported.inputs)
    if "decoder_input_ids" not in exported.inputs or cached:
        return shapes(exported.run(feed))
    batch = len(next(iter(feed.values())))
    tokens = np.full((batch, 1), exported.first_token(), dtype=np.int64)
    ends, done = _ends(exported, tokenizer), np.zeros(batch, dtype=bool)
    for _ in range(given.max_new_tokens):
        new = exported.run({**feed, "decoder_input_ids": tokens})["logits"][:, -1].argmax(axis=-1)
        tokens = np.concatenate([tokens, new[:, None]], axis=1)
        done |= np.isin(new, list(ends))
        if done.all():
            break
    return _answer([_decoded(tokenizer, _until(row[1:].tolist(), ends)) for row in tokens])


def _generate(exported: Exported, prompt: Any, limits: tuple[int, set[int]]) -> list[int]:
    """Return tokens that follow a prompt, [1, length]: so many, or up to one of those that end a text."""
    count, ends = limits
    past = [name for name in exported.inputs if name.startswith(PAST)]
    step, done, made = prompt, 0, []
    cache: Arrays = {}
    for _ in range(count):
        length = done + step.shape[1]
        feed = {
            "input_ids": step,
            "attention_mask": np.ones((1, length), dtype=np.int64),
            "position_ids": np.arange(done, length)[None],
        }
        outputs = exported.run({**feed, **cache})
        token = int(outputs["logits"][0, -1].argmax())
        if token in ends:
            break
        made.append(token)
        new = np.array([[token]], dtype=np.int64)
        done, step = (length, new) if past else (0, np.concatenate([step, new], axis=1))
        cache = {name: outputs[name.replace(PAST, "present.")] for name in past}
    return made


def _ends(exported: Exported, tokenizer: Any) -> set[int]:
    """Return the tokens after which a text is complete."""
    ends = exported.setting("eos_token_id")
    found = set(ends if isinstance(ends, list) else [ends])
    return {int(end) for end in found | {getattr(tokenizer, "eos_token_id", None)} if end is not None}


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    return tokens[: next((index for index, token in enumerate(tokens) if token in ends), len(tokens))]


def _decoded(tokenizer: Any, tokens: list[int]) -> dict[str, Any]:
    text = tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else " ".join(map(str, tokens))
    return {"text": text, "tokens": tokens}


def _answer(values: list[dict[str, Any]]) -> Answer:
    return Answer([value["text"] or f"(no text, tokens {value['tokens']})" for value in values], values)
