"""Build a tokenizer for dummy inputs of checkpoints without a tokenizer. Each word is a token id."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


def plain_tokenizer(config: PreTrainedConfig, *, token_type_ids: bool = False) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose words are token ids.

    Args:
        config: the model's configuration, whose `bos_token_id`, `eos_token_id` and `pad_token_id` are special tokens.
        token_type_ids: whether it makes `token_type_ids`, too.

    Returns:
        A fast tokenizer that adds no special tokens.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    size = min(int(getattr(config, "vocab_size", 2)), 1000)
    tokenizer = Tokenizer(models.WordLevel({str(index): index for index in range(size)}, unk_token=str(size - 1)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(str(size - 1)), "isolated")
    special = {
        f"{name}_token": str(index)
        for name in ("bos", "eos", "pad")
        if isinstance(index := getattr(config, f"{name}_token_id", None), int) and 0 <= index < size
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=str(size - 1),
        model_input_names=["input_ids", *(["token_type_ids"] if token_type_ids else []), "attention_mask"],
        **special,
    )
