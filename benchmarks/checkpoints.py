"""Seeded checkpoints of well-known shapes: their weights are random, their cost is that of the real ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0


@dataclass(frozen=True)
class Shape:
    """Describe one checkpoint.

    Attributes:
        model_class: class of Transformers.
        config: arguments of its configuration; those left out are its defaults.
        task: what it is exported for.
        preprocessor: (model type, feature) whose tiny preprocessor fits, None for none.
    """

    model_class: str
    config: dict[str, Any]
    task: str
    preprocessor: tuple[str, str] | None = None


_T5_SMALL = {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "decoder_start_token_id": 0}
_WHISPER_TINY = {
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
}
_LLAMA = {
    "vocab_size": 64_000,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
SHAPES: dict[str, Shape] = {
    "bert-base": Shape("BertForMaskedLM", {}, "fill-mask", ("bert", "masked-lm")),
    "gpt2": Shape("GPT2LMHeadModel", {}, "text-generation-with-past", ("gpt2", "causal-lm-with-past")),
    "t5-small": Shape(
        "T5ForConditionalGeneration", _T5_SMALL, "text2text-generation-with-past", ("t5", "seq2seq-lm-with-past")
    ),
    "vit-base": Shape("ViTForImageClassification", {}, "image-classification", ("vit", "image-classification")),
    "whisper-tiny": Shape(
        "WhisperForConditionalGeneration",
        _WHISPER_TINY,
        "automatic-speech-recognition-with-past",
        ("whisper", "speech2seq-lm-with-past"),
    ),
    "llama-0.55b": Shape("LlamaForCausalLM", _LLAMA, "text-generation-with-past"),
}
"""Name to shape, the smaller ones first."""


def make(name: str, root: Path) -> Path:
    """Return the directory of a checkpoint, which is written where it isn't there yet."""
    directory = root / name
    if directory.is_dir():
        return directory
    stage = root / f"{name}.partial"
    shutil.rmtree(stage, ignore_errors=True)
    _write(SHAPES[name], stage)
    stage.rename(directory)
    return directory


def _write(shape: Shape, directory: Path) -> None:
    import torch
    import transformers

    from conformance.preprocessors import make_preprocessor

    model_class = getattr(transformers, shape.model_class)
    torch.manual_seed(SEED)
    model = model_class(model_class.config_class(**shape.config))
    model.save_pretrained(directory)
    if shape.preprocessor is not None:
        size = getattr(model.config, "image_size", None)
        make_preprocessor(*shape.preprocessor, model.config, image_size=size).save_pretrained(directory)
