"""Build tokenizers, image processors and processors for tiny models from a configuration, without downloads.

A tokenizer splits text into characters; its vocabulary has the special tokens, with the ids of the model's
configuration, then letters and digits up to the vocabulary size.
"""

from __future__ import annotations

import string
from typing import Any

from conformance.pairs import table

_END_OF_TEXT = "<|endoftext|>"


def make_preprocessor(model_type: str, feature: str, config: Any, image_size: int | None = None) -> Any:
    """Build the preprocessor of a tiny model, of the class that 4.37.2 uses for it.

    Args:
        model_type: as in `FeaturesManager`, such as `big-bird`.
        feature: such as `masked-lm`; it only matters for a model type that takes text or images (perceiver).
        config: the tiny model's configuration, with the vocabulary size and the ids of special tokens.
        image_size: height and width of images; None for the recorded one.

    Returns:
        A fast tokenizer, image processor, or CLIP-, OWL-ViT-, LayoutLMv3- or Whisper processor. For
        vision-encoder-decoder, it is the image processor; `make_tokenizer_for` builds the decoder's tokenizer.
    """
    wanted = table()[model_type]["preprocessor"]
    name = wanted["class"]
    if model_type == "perceiver" and feature == "image-classification":
        name = wanted["image_class"]
    if name.endswith("ImageProcessor"):
        return make_image_processor(name, image_size or wanted["image_size"], config)
    if not name.endswith("Processor"):
        return make_tokenizer_for(model_type, config)
    return _make_processor(name, model_type, config)


def make_tokenizer_for(model_type: str, config: Any) -> Any:
    """Build the tokenizer of a tiny model, with the special tokens of `pairs.json` and `config`."""
    wanted = table()[model_type]["preprocessor"]
    text_config = getattr(config, "text_config", getattr(config, "decoder", config))
    return make_tokenizer(
        model_type,
        text_config.vocab_size,
        wanted["special"],
        wanted["unk"],
        special_pair=wanted.get("special_pair"),
        token_type_ids=wanted.get("token_type_ids", False),
        ids={token: getattr(text_config, f"{token}_token_id", None) for token in ("pad", "bos", "eos")},
    )


def make_tokenizer(
    model_type: str,
    vocab_size: int,
    num_special: int,
    unk_token: str | None,
    *,
    special_pair: int | None = None,
    token_type_ids: bool = False,
    ids: dict[str, int | None] | None = None,
) -> Any:
    """Build a fast tokenizer of characters.

    Args:
        model_type: as in `FeaturesManager`; layoutlmv3 has its own class of tokenizer, which takes boxes.
        vocab_size: size of the model's vocabulary; all ids are less than it.
        num_special: special tokens around a sequence: 0, 1 (end), 2 (start, end) or 3 (start, task, end).
        unk_token: the unknown token; `None` for a tokenizer without one.
        special_pair: special tokens around a pair of sequences, 3 or 4; `None` derives it from `num_special`.
        token_type_ids: whether the tokenizer returns token type ids.
        ids: ids of `pad`, `bos` and `eos` in the model's configuration; if one is `None` or isn't less than
            `vocab_size`, a free id is used.

    Returns:
        A `PreTrainedTokenizerFast` whose `model_input_names` are its outputs.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = _special_tokens(unk_token, num_special, ids or {})
    vocabulary = _vocabulary(vocab_size, named, ids or {})
    if model_type == "layoutlmv3":
        return _layoutlmv3_tokenizer(vocab_size, named)
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk_token or "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    processor = _template(named, num_special, special_pair or max(num_special, 2 * num_special - 1), vocabulary)
    if processor is not None:
        tokenizer.post_processor = processor
    names = ["input_ids", "token_type_ids", "attention_mask"] if token_type_ids else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=names, **{f"{role}_token": token for role, token in named.items()}
    )


def make_image_processor(name: str, size: int, config: Any) -> Any:
    """Build an image processor that returns images of `size` x `size` pixels.

    Args:
        name: its class in 4.37.2; the class with the same name for Pillow is used.
        size: height and width of `pixel_values`.
        config: the model's configuration; ImageGPT's vocabulary size determines the number of colour clusters.
    """
    import transformers

    image_class = getattr(transformers, f"{name}Pil")
    square = {"height": size, "width": size}
    edges = {edge: size for edge in ("shortest_edge", "longest_edge") if edge in image_class.size}
    arguments: dict[str, Any] = {"size": edges or square}
    if getattr(image_class, "crop_size", None):
        arguments["crop_size"] = square
    if name == "ImageGPTImageProcessor":
        colours = config.vocab_size - 1
        arguments["clusters"] = [[2 * index / (colours - 1) - 1] * 3 for index in range(colours)]
    return image_class(**arguments)


def _make_processor(name: str, model_type: str, config: Any) -> Any:
    import transformers

    tokenizer = make_tokenizer_for(model_type, config)
    if name == "WhisperProcessor":
        extractor = transformers.WhisperFeatureExtractor(feature_size=config.num_mel_bins)
        return transformers.WhisperProcessor(feature_extractor=extractor, tokenizer=tokenizer)
    size = table()[model_type]["preprocessor"]["image_size"]
    images = make_image_processor(name.replace("Processor", "ImageProcessor"), size, config)
    return getattr(transformers, name)(image_processor=images, tokenizer=tokenizer)


def _special_tokens(unk: str | None, num_special: int, ids: dict[str, int | None]) -> dict[str, str]:
    """Return the special tokens by role, in the style of the model family, which the unknown token identifies."""
    if unk == _END_OF_TEXT:
        start = {0: _END_OF_TEXT, 2: "<|startoftext|>", 3: "<|startoftranscript|>"}[num_special]
        named = {"unk": unk, "bos": start, "eos": unk}
        return named if num_special == 0 else {**named, "pad": "!" if num_special == 2 else unk}
    if unk is not None and unk.startswith("["):
        return {"unk": unk, "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    named = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "mask": "<mask>"}
    if unk is not None:
        named["unk"] = unk
    if num_special == 2:
        named |= {"cls": "<s>", "sep": "</s>"}
    if num_special == 1 and ids.get("bos") is None:
        del named["bos"]
    return named


def _vocabulary(size: int, named: dict[str, str], ids: dict[str, int | None]) -> dict[str, int]:
    """Return token ids less than `size`: special tokens with their id in `ids`, all others in order."""
    found: dict[str, int] = {}
    for role, alternative in (("pad", "pad"), ("bos", "cls"), ("eos", "sep")):
        token, token_id = named.get(role, named.get(alternative)), ids.get(role)
        is_free = isinstance(token_id, int) and 0 <= token_id < size and token_id not in found.values()
        if token is not None and token not in found and is_free:
            found[token] = token_id
    free = (index for index in range(size) if index not in set(found.values()))
    for token in (*named.values(), "<|notimestamps|>", *string.ascii_lowercase, *string.digits):
        if token not in found and (index := next(free, None)) is not None:
            found[token] = index
    return found


def _template(named: dict[str, str], single: int, pair: int, vocabulary: dict[str, int]) -> Any:
    """Return the post-processor that adds special tokens to a sequence or a pair; `None` if there are none."""
    from tokenizers.processors import TemplateProcessing

    if single == 0:
        return None
    start, end = named.get("cls", named.get("bos")), named.get("sep", named.get("eos"))
    before = {1: "", 2: f"{start} ", 3: f"{start} <|notimestamps|> "}[single]
    between = " " + f"{end} " * (pair - single)
    used = {token: vocabulary[token] for token in (start, end, "<|notimestamps|>") if token in vocabulary}
    return TemplateProcessing(
        single=f"{before}$A {end}", pair=f"{before}$A{between}$B:1 {end}:1", special_tokens=list(used.items())
    )


def _layoutlmv3_tokenizer(size: int, named: dict[str, str]) -> Any:
    """Return LayoutLMv3's own tokenizer, which takes boxes: one token per byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import LayoutLMv3Tokenizer

    specials = [named[role] for role in ("bos", "pad", "eos", "unk", "mask")]
    tokens = [*specials, *sorted(ByteLevel.alphabet())][:size]
    return LayoutLMv3Tokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
