"""Architectures whose stamped graph must equal the graph with all layers traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxport import ExportOptions
from onnxport.blueprints.blueprint import Blueprint, at_full_depth
from onnxport.blueprints.find import BlueprintSource
from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.weights.parameters import ParameterTensor

_TEXT = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
_GROUPED = {**_TEXT, "num_key_value_heads": 2}
_WITH_PAST = "text-generation-with-past"
_VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_ENCODER_DECODER = {
    **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 3), ("ffn_dim", 64))},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32, "vocab_size": 128},
}

ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Bert": ("BertForMaskedLM", "fill-mask", _TEXT),
    "Roberta": ("RobertaForSequenceClassification", "text-classification", _TEXT),
    "Electra": ("ElectraForTokenClassification", "token-classification", {**_TEXT, "embedding_size": 32}),
    "MPNet": ("MPNetForMaskedLM", "fill-mask", _TEXT),
    "DebertaV2": (
        "DebertaV2ForMaskedLM",
        "fill-mask",
        {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    ),
    "DistilBert": (
        "DistilBertForQuestionAnswering",
        "question-answering",
        {"vocab_size": 128, "dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4},
    ),
    "XLM": ("XLMWithLMHeadModel", "fill-mask", {"vocab_size": 128, "emb_dim": 32, "n_layers": 3, "n_heads": 4}),
    "ModernBert": (
        "ModernBertForMaskedLM",
        "fill-mask",
        {
            **_TEXT,
            **{"num_hidden_layers": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            **{"cls_token_id": 1, "sep_token_id": 2},
        },
    ),
    "GPT2": ("GPT2LMHeadModel", _WITH_PAST, {"vocab_size": 128, "n_embd": 32, "n_layer": 3, "n_head": 4}),
    "GPTNeoX": ("GPTNeoXForCausalLM", _WITH_PAST, _TEXT),
    "OPT": (
        "OPTForCausalLM",
        _WITH_PAST,
        {
            **{"vocab_size": 128, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
            "word_embed_proj_dim": 32,
        },
    ),
    "Bloom": ("BloomForCausalLM", _WITH_PAST, {"vocab_size": 128, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "Falcon": (
        "FalconForCausalLM",
        _WITH_PAST,
        {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4},
    ),
    "Llama": ("LlamaForCausalLM", _WITH_PAST, _GROUPED),
    "Mistral": ("MistralForCausalLM", _WITH_PAST, _GROUPED),
    "Qwen2": ("Qwen2ForCausalLM", _WITH_PAST, _GROUPED),
    "Qwen3": ("Qwen3ForCausalLM", _WITH_PAST, {**_GROUPED, "head_dim": 8}),
    "Phi": ("PhiForCausalLM", _WITH_PAST, _TEXT),
    "Olmo2": ("Olmo2ForCausalLM", _WITH_PAST, _GROUPED),
    "Gemma2": ("Gemma2ForCausalLM", _WITH_PAST, {**_GROUPED, "head_dim": 8, "num_hidden_layers": 5}),
    "Gemma3Text": (
        "Gemma3ForCausalLM",
        _WITH_PAST,
        {
            **_GROUPED,
            "head_dim": 8,
            "num_hidden_layers": 7,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2 + ["sliding_attention"],
        },
    ),
    "Mixtral": ("MixtralForCausalLM", _WITH_PAST, {**_GROUPED, "num_local_experts": 3}),
    "DeepseekV3": (
        "DeepseekV3ForCausalLM",
        _WITH_PAST,
        {
            **{**_TEXT, "num_hidden_layers": 6, "num_key_value_heads": 4, "first_k_dense_replace": 2},
            **{"n_routed_experts": 4, "moe_intermediate_size": 32, "n_group": 2, "topk_group": 1},
            **{"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
            "num_experts_per_tok": 2,
        },
    ),
    "T5": (
        "T5ForConditionalGeneration",
        "text2text-generation-with-past",
        {"vocab_size": 128, "d_model": 32, "d_ff": 64, "num_layers": 4, "num_heads": 4, "d_kv": 8},
    ),
    "Bart": ("BartForConditionalGeneration", "text2text-generation", _ENCODER_DECODER),
    "Marian": ("MarianMTModel", "text2text-generation-with-past", {**_ENCODER_DECODER, "pad_token_id": 0}),
    "ViT": ("ViTForImageClassification", "image-classification", {**_VISION, "image_size": 16, "patch_size": 4}),
    "ConvNext": (
        "ConvNextForImageClassification",
        "image-classification",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [2, 2, 5, 2], "image_size": 64},
    ),
}
"""Name of the configuration class without `Config` to the model class, the task and the configuration's arguments."""


def save(name: str, directory: Path) -> Path:
    """Save a seeded checkpoint of an architecture of the table."""
    import torch
    import transformers

    class_name, task, arguments = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**arguments)
    getattr(transformers, class_name)(config).save_pretrained(directory)
    if task.startswith("image"):
        size = arguments["image_size"]
        transformers.ViTImageProcessor(size={"height": size, "width": size}).save_pretrained(directory)
    return directory


def blueprint(name: str, directory: Path, *, stamping: bool) -> Blueprint:
    """Return a new blueprint of a saved checkpoint, without the cache."""
    options = ExportOptions(task=ARCHITECTURES[name][1], cache=False, stamping=stamping)
    return BlueprintSource(open_checkpoint(directory, options), options, lambda stage, share: None).blueprint()


def structure(made: Blueprint) -> list[Any]:
    """Return the structure of a blueprint's graphs, without value names and the order of nodes.

    A node is represented by its operator, its attributes and, recursively, its inputs, down to the graph's inputs,
    constants and parameters.
    """
    return [_structure(at_full_depth(*pair).graph) for pair in zip(made.trace.graphs, made.trace.depths, strict=True)]


def _structure(graph: ir.Graph) -> tuple[Any, ...]:
    known: dict[ir.Value, Hashable] = {value: ("input", value.name) for value in graph.inputs}
    known |= {value: _initializer(value) for value in graph.initializers.values()}
    nodes: Counter[Hashable] = Counter()
    for node in graph:
        attributes = tuple(sorted((name, _attribute(value)) for name, value in node.attributes.items()))
        inputs = tuple(None if value is None else known[value] for value in node.inputs)
        key = hash((node.op_identifier(), attributes, inputs))
        nodes[key] += 1
        known |= {value: (key, index) for index, value in enumerate(node.outputs)}
    parameters = sorted(name for name, v in graph.initializers.items() if isinstance(v.const_value, ParameterTensor))
    axes = [(value.name, str(value.shape)) for value in (*graph.inputs, *graph.outputs)]
    return nodes, [known[value] for value in graph.outputs], axes, parameters


def _initializer(value: ir.Value) -> Hashable:
    tensor = value.const_value
    assert tensor is not None
    shape = tuple(tensor.shape.numpy())
    if isinstance(tensor, ParameterTensor):
        return ("parameter", value.name, tensor.dtype, shape)
    return ("constant", tensor.dtype, shape, tensor.tobytes())


def _attribute(value: ir.Attr) -> Hashable:
    return value.as_tensor().tobytes() if value.type is ir.AttributeType.TENSOR else str(value.value)
