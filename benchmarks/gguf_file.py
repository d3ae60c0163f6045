"""Write a Llama checkpoint as a GGUF file for llama.cpp, with all matrices in one precision.

The values are for measurements of speed alone: the rows of queries and keys keep Transformers' order.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.checkpoints import weight_files

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"},
    **{"self_attn.o_proj": "attn_output", **{f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}},
}


def write_gguf(checkpoint: Path, file: Path) -> None:
    """Write the file, with Q4_0 matrices and a vocabulary of numbers."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    stage = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(stage, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"<{number}>" for number in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["< 0"])
    for weights in weight_files(checkpoint):
        for name, tensor in load_file(weights).items():
            if tensor.ndim == 1:
                writer.add_tensor(_name(name), tensor.astype(np.float32))
                continue
            quantized = gguf.quants.quantize(tensor, gguf.GGMLQuantizationType.Q4_0)
            writer.add_tensor(_name(name), quantized, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stage.replace(file)


def _name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    assert found is not None, name
    return f"blk.{found[1]}.{_LAYER[found[2]]}.weight"
