"""Make the tiny sentence-transformers directories in tests/fixtures/sentence_transformers, with the library's outputs.

sentence-transformers isn't a dependency of the tests. Run this beside Transformers 5.23 in a separate environment:

    pip install "sentence-transformers==6.2.0"
    python scripts/make_sentence_fixtures.py tests/fixtures/sentence_transformers

Each directory is one that sentence-transformers 6.2.0 saved, with reference.npz: `input.<name>` are the features that
the library makes of texts (or token ids with padding on both sides), `output.<name>` what its modules compute of them,
both of the model that it loaded from the directory. A second batch has `query.<name>` instead of `output.<name>`, and
its inputs are `query_input.<name>`. All weights are random with a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from sentence_transformers import CrossEncoder, MultiVectorEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import (
    CNN,
    LSTM,
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
    WeightedLayerPooling,
    WordEmbeddings,
    WordWeights,
)
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from sentence_transformers.sparse_encoder.modules import (
    MLMTransformer,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn

SIZE, VOCABULARY_SIZE = 8, 32
WORDS = ("a", "b", "c", "d", "e", "f", "g", "yes", "no", ".", ",", "!")
TEXTS = ["a b c d", "e . f", "g", "b b , a ! c d e"]
PAIRS = [("a b", "c d ."), ("e", "f g a b"), ("c !", "d")]
PROMPT = "g f "
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
BERT = {
    "hidden_size": SIZE,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": VOCABULARY_SIZE,
    "max_position_embeddings": 24,
}
QWEN = {
    "hidden_size": SIZE,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "vocab_size": VOCABULARY_SIZE,
    "max_position_embeddings": 24,
    "tie_word_embeddings": False,
}
Batch = dict[str, Any]
Made = tuple[Any, Callable[[Any], Iterable[tuple[str, Batch, dict[str, Any]]]]]
"""A model, and a function that returns the prefixes of its batches, the batches, and arguments of the model."""


def tokenizer(**settings: Any) -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: index for index, token in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **names, **settings)


def randomize(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and not name.endswith("bias")
            parameter.copy_(1 + 0.1 * noise if is_scale else 0.5 * noise)
    return module


def base(root: Path, model_class: Any, config: Any, **settings: Any) -> str:
    directory = root / "base"
    shutil.rmtree(directory, ignore_errors=True)
    randomize(model_class(config)).save_pretrained(directory)
    tokenizer(**settings).save_pretrained(directory)
    return str(directory)


def bert(root: Path, model_class: Any = transformers.BertModel, **config: Any) -> str:
    return base(root, model_class, transformers.BertConfig(**BERT, **config))


def texts(model: Any) -> Iterable[tuple[str, Batch, dict[str, Any]]]:
    yield "output", model.preprocess(TEXTS), {}


def pairs(model: Any) -> Iterable[tuple[str, Batch, dict[str, Any]]]:
    yield "output", model.preprocess(PAIRS), {}


def with_prompt(model: Any) -> Iterable[tuple[str, Batch, dict[str, Any]]]:
    yield "output", model.preprocess([PROMPT + text for text in TEXTS], prompt=PROMPT), {}


def both_tasks(model: Any) -> Iterable[tuple[str, Batch, dict[str, Any]]]:
    yield "output", model.preprocess(TEXTS, task="document"), {"task": "document"}
    yield "query", model.preprocess(TEXTS, task="query"), {"task": "query"}


def padded(model: Any) -> Iterable[tuple[str, Batch, dict[str, Any]]]:
    ids = [[5, 6, 7, 8, 9, 10], [11, 12, 13, 0, 0, 0], [0, 0, 6, 9, 10, 11], [0, 5, 6, 0, 7, 0]]
    mask = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0]]
    yield "output", {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, {}


def pooling(root: Path) -> Made:
    return SentenceTransformer(modules=[Transformer(bert(root)), Pooling(SIZE, MODES)]), padded


def pooling_without_prompt(root: Path) -> Made:
    modules = [Transformer(bert(root)), Pooling(SIZE, MODES, include_prompt=False)]
    return SentenceTransformer(modules=modules), with_prompt


def dense(root: Path) -> Made:
    modules = [
        Transformer(bert(root)),
        Dense(SIZE, SIZE, use_residual=True, module_input_name="token_embeddings"),
        Pooling(SIZE, ("mean", "cls")),
        LayerNorm(2 * SIZE),
        Dense(2 * SIZE, 6, activation_function=nn.GELU(), use_residual=True),
        Dropout(0.5),
        Dense(6, 3, bias=False, activation_function=None, module_output_name="projection"),
        Normalize("projection", "sentence_embedding"),
    ]
    return SentenceTransformer(modules=[modules[0], *map(randomize, modules[1:])]), texts


def word_weights(root: Path) -> Made:
    vocabulary = [f"w{index}" for index in range(VOCABULARY_SIZE)]
    weights = {word: 0.25 + index / 8 for index, word in enumerate(vocabulary) if index % 3}
    convolutions = randomize(CNN(SIZE, 5, [1, 3]))
    weighted = WordWeights(vocabulary, weights, unknown_word_weight=0.5)
    pooled = Pooling(10, ("mean", "mean_sqrt_len_tokens", "weightedmean"))
    return SentenceTransformer(modules=[Transformer(bert(root)), weighted, convolutions, pooled]), texts


def layer_pooling(root: Path) -> Made:
    weighted = WeightedLayerPooling(SIZE, num_hidden_layers=2, layer_start=1)
    with torch.no_grad():
        weighted.layer_weights.copy_(torch.tensor([0.5, 2.0]))
    transformer = Transformer(bert(root, output_hidden_states=True))
    return SentenceTransformer(modules=[transformer, weighted, Pooling(SIZE, "max")]), texts


def splade(root: Path) -> Made:
    transformer = Transformer(bert(root, transformers.BertForMaskedLM), transformer_task="fill-mask")
    return SparseEncoder(modules=[transformer, SpladePooling("max", "log1p_relu")]), texts


def mlm_transformer(root: Path) -> Made:
    transformer = MLMTransformer(bert(root, transformers.BertForMaskedLM))
    return SparseEncoder(modules=[transformer, SpladePooling("sum", "relu")]), texts


def sparse_auto_encoder(root: Path) -> Made:
    encoder = randomize(SparseAutoEncoder(SIZE, 16, k=4, k_aux=2, normalize=True))
    return SparseEncoder(modules=[Transformer(bert(root)), Pooling(SIZE, "mean"), encoder]), texts


def cross_encoder(root: Path) -> Made:
    return CrossEncoder(bert(root, transformers.BertForSequenceClassification, num_labels=1)), pairs


def cross_encoder_of_modules(root: Path) -> Made:
    head = Dense(SIZE, 2, activation_function=nn.Identity(), module_output_name="scores")
    modules = [Transformer(bert(root)), Pooling(SIZE, "cls"), randomize(head)]
    return CrossEncoder(modules=modules, activation_fn=nn.Tanh()), pairs


def logit_score(root: Path) -> Made:
    settings = {"padding_side": "left"}
    path = base(root, transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**QWEN), **settings)
    transformer = Transformer(path, transformer_task="text-generation")
    return CrossEncoder(modules=[transformer, LogitScore(12, 13)]), pairs


def multi_vector(root: Path) -> Made:
    expansion = {"strategy": "min", "attend": False, "length": 6, "token": None}
    modules = [
        Transformer(bert(root), query_expansion=expansion),
        randomize(Dense(SIZE, 5, bias=False, activation_function=None, module_input_name="token_embeddings")),
        MultiVectorMask(skiplist_words=[".", ",", "!", "absent"]),
        Normalize("token_embeddings"),
    ]
    return MultiVectorEncoder(modules=modules), both_tasks


def static_embedding(root: Path) -> Made:
    weights = torch.randn(VOCABULARY_SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    module = StaticEmbedding(tokenizer(), embedding_weights=weights)
    return SentenceTransformer(modules=[module, Normalize()]), texts


def word_embeddings(root: Path) -> Made:
    weights = torch.randn(VOCABULARY_SIZE, SIZE, generator=torch.Generator().manual_seed(0)).numpy()
    words = [*WORDS, *(f"w{index}" for index in range(VOCABULARY_SIZE - len(WORDS)))]
    module = WordEmbeddings(WhitespaceTokenizer(words, stop_words=[]), weights)
    return SentenceTransformer(modules=[module, Pooling(SIZE, ("mean", "max"))]), texts


def lstm(root: Path) -> Made:
    weights = torch.randn(VOCABULARY_SIZE, SIZE, generator=torch.Generator().manual_seed(0)).numpy()
    words = [*WORDS, *(f"w{index}" for index in range(VOCABULARY_SIZE - len(WORDS)))]
    module = WordEmbeddings(WhitespaceTokenizer(words, stop_words=[]), weights)
    recurrent = randomize(LSTM(SIZE, 5, num_layers=2))
    return SentenceTransformer(modules=[module, recurrent, Pooling(10, ("mean", "max"))]), texts


def sparse_static_embedding(root: Path) -> Made:
    weights = torch.rand(len(tokenizer()), generator=torch.Generator().manual_seed(0))
    return SparseEncoder(modules=[SparseStaticEmbedding(tokenizer(), weights)]), texts


def router(root: Path) -> Made:
    routes = [[randomize(Dense(SIZE, size, activation_function=None))] for size in (4, 4)]
    with torch.no_grad():
        routes[0][0].linear.weight.mul_(2)
    chosen = Router.for_query_document(*routes)
    return SentenceTransformer(modules=[Transformer(bert(root)), Pooling(SIZE), chosen, Normalize()]), both_tasks


def router_of_models(root: Path) -> Made:
    document = Transformer(bert(root, transformers.BertForMaskedLM, is_decoder=False), transformer_task="fill-mask")
    weights = torch.rand(len(tokenizer()), generator=torch.Generator().manual_seed(0))
    chosen = Router.for_query_document([SparseStaticEmbedding(tokenizer(), weights)], [document, SpladePooling()])
    return SparseEncoder(modules=[chosen]), both_tasks


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text())), indent=1))


def make_pylate(root: Path, source: Path) -> None:
    """Write the directory of `multi_vector` as PyLate 3 saved it: without its last modules and names of features."""
    target = root / "pylate"
    shutil.copytree(source, target)
    for name in ("2_MultiVectorMask", "3_Normalize"):
        shutil.rmtree(target / name, ignore_errors=True)
    settings = {"model_type": "ColBERT", "query_length": 6, "do_query_expansion": True, "skiplist_words": [",", "."]}
    edit(target / "config_sentence_transformers.json", lambda old: {**old, **settings})
    keys = ("module_input_name", "module_output_name")
    edit(target / "1_Dense" / "config.json", lambda old: {k: v for k, v in old.items() if k not in keys})
    edit(target / "sentence_bert_config.json", lambda old: {"max_seq_length": 24, "do_lower_case": False})
    edit(target / "modules.json", lambda old: [old[0], {**old[1], "type": "pylate.models.Dense.Dense"}])
    write_reference(MultiVectorEncoder(str(target)), both_tasks, target)


def make_model2vec(root: Path) -> None:
    """Write a directory as model2vec does, with a row for several tokens and a weight for each token."""
    target = root / "model2vec"
    target.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "embeddings": torch.randn(10, SIZE, generator=generator),
        "mapping": torch.randint(10, (VOCABULARY_SIZE,), generator=generator),
        "weights": torch.rand(VOCABULARY_SIZE, generator=generator, dtype=torch.float64),
    }
    save_file(tensors, target / "model.safetensors")
    tokenizer().backend_tokenizer.save(str(target / "tokenizer.json"))
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True, "hidden_dim": SIZE}
    (target / "config.json").write_text(json.dumps(config))
    types = {".": "StaticEmbedding", "1_Normalize": "Normalize"}
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(types.items())
    ]
    (target / "modules.json").write_text(json.dumps(listed))
    write_reference(SentenceTransformer(str(target)), texts, target)


def write_reference(model: Any, batches: Callable[[Any], Iterable[Any]], target: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    model.eval()
    for prefix, batch, arguments in batches(model):
        inputs = {name: torch.as_tensor(value) for name, value in batch.items() if not isinstance(value, str)}
        source = "input" if prefix == "output" else f"{prefix}_input"
        arrays |= {f"{source}.{name}": value.numpy() for name, value in inputs.items()}
        with torch.inference_mode():
            outputs = model({name: value for name, value in batch.items()}, **arguments)
        if "scores" in outputs:
            outputs["scores"] = model.activation_fn(outputs["scores"])
        for name in ("token_embeddings", "sentence_embedding", "scores", "attention_mask"):
            if name in outputs:
                arrays[f"{prefix}.{name}"] = outputs[name].to_dense().numpy()
    np.savez_compressed(target / "reference.npz", **arrays)


MODELS = (
    pooling, pooling_without_prompt, dense, word_weights, layer_pooling, splade, mlm_transformer, sparse_auto_encoder,
    cross_encoder, cross_encoder_of_modules, logit_score, multi_vector, static_embedding, word_embeddings, lstm,
    sparse_static_embedding, router, router_of_models,
)  # fmt: skip


def main() -> None:
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path)
    root: Path = parser.parse_args().target
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for make in MODELS:
        torch.manual_seed(0)
        model, batches = make(root)
        target = root / make.__name__
        model.save_pretrained(str(target), create_model_card=False)
        write_reference(type(model)(str(target)), batches, target)
    make_pylate(root, root / "multi_vector")
    make_model2vec(root)
    shutil.rmtree(root / "base")


if __name__ == "__main__":
    main()
