"""Build a tokenizer for dummy inputs of checkpoints without a tokenizer. Each word is a token id."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


def plain_tokenizer(
    config: PreTrainedConfig, *, ends_with_eos: bool = False, placeholders: Collection[int] = ()
) -> PreTrainedTokenizerFast:
    """Build a tokenizer whose words are token ids.

    Args:
        config: the model's configuration, whose `bos_token_id`, `eos_token_id` and `pad_token_id` are special tokens.
        ends_with_eos: whether it appends `eos_token_id`, as tokenizers of encoder-decoders do; BART's classifier takes
            the hidden state of that token.
        placeholders: ids of the placeholder tokens of images and audio, which no word is.

    Returns:
        A fast tokenizer that adds no other special tokens.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    size = min(int(getattr(config, "vocab_size", None) or 2), 1000)
    unknown = str(next((index for index in reversed(range(size)) if index not in placeholders), size - 1))
    tokenizer = Tokenizer(models.WordLevel({str(index): index for index in range(size)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(unknown), "isolated")
    special = {
        f"{name}_token": str(index)
        for name in ("bos", "eos", "pad")
        if isinstance(index := getattr(config, f"{name}_token_id", None), int) and 0 <= index < size
    }
    if ends_with_eos and "eos_token" in special:
        eos = special["eos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, int(eos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=unknown,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )
