"""Build tokenizers, image processors and processors for tiny models, from nothing but a configuration.

They need no download: a text is split into letters, and the vocabulary holds the special tokens at the ids that the
model's configuration gives them, then letters and digits, as many as fit.
"""

from __future__ import annotations

import string
from typing import Any

from conformance.pairs import table

_END_OF_TEXT = "<|endoftext|>"


def make_preprocessor(model_type: str, feature: str, config: Any, image_size: int | None = None) -> Any:
    """Build what makes a tiny model's inputs, of the kind that 4.37.2 uses for it.

    Args:
        model_type: as in `FeaturesManager`, such as `big-bird`.
        feature: such as `masked-lm`; it matters where one model type reads texts or pictures (perceiver).
        config: the tiny model's configuration, for the vocabulary's size and the special tokens' ids.
        image_size: height and width of pictures, the recorded one without.

    Returns:
        A fast tokenizer, image processor, or CLIP-, OWL-ViT-, LayoutLMv3- or Whisper processor. For
        vision-encoder-decoder it's the image processor; `make_tokenizer` gives the decoder's tokenizer.
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
    """Build the tokenizer of a tiny model, with the special tokens that `pairs.json` and `config` say."""
    wanted = table()[model_type]["preprocessor"]
    text_config = getattr(config, "text_config", getattr(config, "decoder", config))
    return make_tokenizer(
        model_type,
        text_config.vocab_size,
        wanted["special"],
        wanted["unk"],
        special_pair=wanted.get("special_pair"),
        token_type_ids=wanted.get("token_type_ids", False),
        ids={kind: getattr(text_config, f"{kind}_token_id", None) for kind in ("pad", "bos", "eos")},
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
    """Build a fast tokenizer of letters.

    Args:
        model_type: as in `FeaturesManager`; layoutlmv3 gets a tokenizer of its own class, which takes boxes.
        vocab_size: size of the model's vocabulary; every id is below it.
        num_special: special tokens around one text: 0, 1 (end), 2 (start, end) or 3 (start, task, end).
        unk_token: the unknown token; `None` for a tokenizer without one.
        special_pair: special tokens around a pair of texts, 3 or 4; `None` for what goes with `num_special`.
        token_type_ids: make token type ids, too.
        ids: ids of `pad`, `bos` and `eos`, as the model's configuration has them; those that are `None` or not
            below `vocab_size` are chosen here.

    Returns:
        A `PreTrainedTokenizerFast` whose `model_input_names` say what it makes.
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
        tokenizer_object=tokenizer, model_input_names=names, **{f"{kind}_token": token for kind, token in named.items()}
    )


def make_image_processor(name: str, size: int, config: Any) -> Any:
    """Build an image processor that makes pictures of `size` x `size` pixels.

    Args:
        name: its class in 4.37.2; the class of the same name that works with Pillow alone is taken.
        size: height and width of the pixels that the model gets.
        config: the model's configuration; ImageGPT's vocabulary says how many colours there are.
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
    """Return the special tokens by kind, spelled as in the family that the unknown token tells."""
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
    """Return token ids below `size`: special tokens where `ids` wants them, everything else in order."""
    found: dict[str, int] = {}
    for kind, other in (("pad", "pad"), ("bos", "cls"), ("eos", "sep")):
        token, wanted = named.get(kind, named.get(other)), ids.get(kind)
        is_free = isinstance(wanted, int) and 0 <= wanted < size and wanted not in found.values()
        if token is not None and token not in found and is_free:
            found[token] = wanted
    free = (index for index in range(size) if index not in set(found.values()))
    for token in (*named.values(), "<|notimestamps|>", *string.ascii_lowercase, *string.digits):
        if token not in found and (index := next(free, None)) is not None:
            found[token] = index
    return found


def _template(named: dict[str, str], single: int, pair: int, vocabulary: dict[str, int]) -> Any:
    """Return the post-processor that puts special tokens around one text, or two; `None` where there are none."""
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

    specials = [named[kind] for kind in ("bos", "pad", "eos", "unk", "mask")]
    tokens = [*specials, *sorted(ByteLevel.alphabet())][:size]
    return LayoutLMv3Tokenizer(vocab={token: index for index, token in enumerate(tokens)}, merges=[])
