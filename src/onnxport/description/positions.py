"""What generation needs to know of a decoder's code: the position ids that it counts, and the tokens of each step."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOKENS = "tokens"
"""All tokens, padding included: 0, 1, 2 and so on, beginning after the cache."""
MASK = "attention_mask"
"""The tokens that aren't masked."""
INPUT_IDS = "input_ids"
"""The tokens that aren't the padding token, beginning after its id (RoBERTa)."""

_ADDS_TOKENS = re.compile(r"\binput_ids = torch\.cat\(")


def counted_positions(model: torch.nn.Module) -> str:
    """Return what a model's forward counts: `TOKENS`, `MASK` or `INPUT_IDS`.

    Args:
        model: the model.
    """
    classes = {type(module) for module in model.modules()}
    if any(hasattr(each, "create_position_ids_from_input_ids") for each in classes):
        return INPUT_IDS
    return MASK if any(each.__name__ in _COUNT_MASK for each in classes) else TOKENS


_LIMIT = "original_max_position_embeddings"


def reread_length(model: PreTrainedModel) -> int:
    """Return the number of tokens beyond which `generate` reads all tokens again, without the cache; 0 for none.

    Phi-3's rotary embeddings of all tokens change there (`longrope`), and its `prepare_inputs_for_generation` compares
    the number of tokens with this field of its configuration.

    Args:
        model: the model.
    """
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    reads_limit = _LIMIT in inspect.unwrap(prepare).__code__.co_names if prepare is not None else False
    return int(getattr(model.config, _LIMIT, None) or 0) if reads_limit else 0


def adds_tokens(model: PreTrainedModel) -> bool:
    """Return whether the model's class adds tokens to those that `generate` passes to each step (XLM's mask token).

    Args:
        model: the model.
    """
    prepare = getattr(type(model), "prepare_inputs_for_generation", None)
    return prepare is not None and _ADDS_TOKENS.search(inspect.getsource(prepare)) is not None


def end_token(model: PreTrainedModel) -> str:
    """Return the setting with the token that ends a sequence: the separator if the class's own `generate` reads it.

    BLIP's passes `sep_token_id` of its text configuration to that of its text decoder.

    Args:
        model: the model.
    """
    generate = getattr(type(model), "generate", None)
    names = inspect.unwrap(generate).__code__.co_names if generate is not None else ()
    return _SEPARATOR if _SEPARATOR in names else END_TOKEN


END_TOKEN, _SEPARATOR = "eos_token_id", "sep_token_id"
_COUNT_MASK = ("OPTLearnedPositionalEmbedding",)
"""Classes of position embeddings whose models compute position ids from the attention mask."""
