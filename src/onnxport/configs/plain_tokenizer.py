"""A tokenizer for checkpoints that ship none: words are token numbers. Only ever used to make example inputs."""

from __future__ import annotations

from typing import Any


def plain_tokenizer(config: Any) -> Any:
    """Build a tokenizer whose words are the numbers of a model's tokens.

    Args:
        config: the model's configuration; its `bos_token_id`, `eos_token_id` and `pad_token_id` are kept special.

    Returns:
        A fast tokenizer that adds no special tokens.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    size = min(int(getattr(config, "vocab_size", 2)), 1000)
    tokenizer = Tokenizer(models.WordLevel({str(index): index for index in range(size)}, unk_token=str(size - 1)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(str(size - 1)), "isolated")
    special = {
        f"{kind}_token": str(index)
        for kind in ("bos", "eos", "pad")
        if isinstance(index := getattr(config, f"{kind}_token_id", None), int) and 0 <= index < size
    }
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=str(size - 1),
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
    return plain
