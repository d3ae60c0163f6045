"""Make the tiny TensorFlow checkpoints in tests/fixtures/tensorflow, with TensorFlow's outputs.

Run it in a separate environment, since Transformers 5 has no TensorFlow models:

    pip install "transformers==4.37.2" "tensorflow-cpu==2.15.1" "numpy<2"
    python scripts/make_tensorflow_fixtures.py tests/fixtures/tensorflow

Each directory gets config.json, tf_model.h5, preprocessor files and reference.npz, whose arrays are named
`input.<name>` and `output.<name>`. All weights are random with a fixed seed, including biases and scales, so that
a missing or exchanged parameter changes the outputs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SEED = 20240131
VOCABULARY_SIZE = 60
WORDS = (
    "the",
    "a",
    "an",
    "of",
    "to",
    "and",
    "in",
    "on",
    "at",
    "is",
    "was",
    "it",
    "this",
    "that",
    "dog",
    "cat",
    "bird",
    "fish",
    "tree",
    "house",
    "red",
    "blue",
    "green",
    "big",
    "small",
    "old",
    "new",
)


def vocabulary(specials: list[str]) -> dict[str, int]:
    """Return token to id: special tokens first, and unused tokens at the end, up to VOCABULARY_SIZE."""
    tokens = [*specials, *WORDS]
    tokens += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"][: VOCABULARY_SIZE - len(tokens)]
    tokens += [f"[unused{index}]" for index in range(VOCABULARY_SIZE - len(tokens))]
    return {token: index for index, token in enumerate(tokens)}


def wordpiece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a BERT-like tokenizer: lower case, WordPiece, [CLS] … [SEP]."""
    vocab = vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=32,
    )


def wordlevel_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Return a tokenizer that splits at whitespace and ends each sequence with </s>."""
    vocab = vocabulary(["<pad>", "</s>", "<unk>"])
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", vocab["</s>"])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=32,
        model_input_names=["input_ids", "attention_mask"],
    )


def token_inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return `input_ids` and `attention_mask` [2, 7]; the second sequence has two padding tokens at the end."""
    mask = np.ones((2, 7), dtype=np.int64)
    mask[1, 5:] = 0
    return {"input_ids": rng.integers(5, VOCABULARY_SIZE, (2, 7)), "attention_mask": mask}


def make_bert(rng: np.random.Generator) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return a BERT for fill-mask, its tokenizer and inputs."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    inputs = token_inputs(rng)
    inputs["token_type_ids"] = (np.arange(7) > 3).astype(np.int64)[None].repeat(2, axis=0)
    return transformers.TFBertForMaskedLM(config), wordpiece_tokenizer(), inputs


def make_gpt2(rng: np.random.Generator) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return a GPT-2 with language-model head, its tokenizer and inputs."""
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_positions=32,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    return transformers.TFGPT2LMHeadModel(config), wordlevel_tokenizer(), token_inputs(rng)


def make_t5(rng: np.random.Generator) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return a T5 for conditional generation, its tokenizer and inputs."""
    config = transformers.T5Config(
        vocab_size=VOCABULARY_SIZE,
        d_model=16,
        d_kv=8,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        decoder_start_token_id=0,
    )
    inputs = token_inputs(rng) | {"decoder_input_ids": rng.integers(3, VOCABULARY_SIZE, (2, 5))}
    return transformers.TFT5ForConditionalGeneration(config), wordlevel_tokenizer(), inputs


def make_vit(rng: np.random.Generator) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """Return a ViT for image classification, its image processor and inputs."""
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        id2label={0: "cat", 1: "dog", 2: "bird"},
        label2id={"cat": 0, "dog": 1, "bird": 2},
    )
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    inputs = {"pixel_values": rng.standard_normal((2, 3, 16, 16)).astype(np.float32)}
    return transformers.TFViTForImageClassification(config), processor, inputs


MAKERS: dict[str, Callable[[np.random.Generator], tuple[Any, Any, dict[str, np.ndarray]]]] = {
    "bert": make_bert,
    "gpt2": make_gpt2,
    "t5": make_t5,
    "vit": make_vit,
}


def randomize(model: Any, rng: np.random.Generator) -> None:
    """Overwrite every weight with seeded noise: scales around 1, everything else around 0."""
    for weight in model.weights:
        centre = 1.0 if "gamma" in weight.name or "layer_norm/weight" in weight.name else 0.0
        weight.assign(centre + 0.2 * rng.standard_normal(weight.shape).astype(np.float32))


def write_fixture(name: str, root: Path) -> None:
    """Write the checkpoint `root/name` and its reference outputs."""
    rng = np.random.default_rng([SEED, sum(name.encode())])
    model, preprocessor, inputs = MAKERS[name](rng)
    model(inputs)
    randomize(model, rng)
    outputs = {key: value.numpy() for key, value in model(inputs, training=False).items() if hasattr(value, "numpy")}
    directory = root / name
    model.save_pretrained(directory)
    preprocessor.save_pretrained(directory)
    arrays = {f"input.{key}": value for key, value in inputs.items()}
    arrays |= {f"output.{key}": value for key, value in outputs.items()}
    np.savez_compressed(directory / "reference.npz", **arrays)


def main() -> None:
    """Write every fixture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="parent directory of the checkpoints")
    root = parser.parse_args().root
    for name in MAKERS:
        write_fixture(name, root)


if __name__ == "__main__":
    main()
