"""Write a Llama checkpoint of any size, with seeded bf16 weights in shards, in constant memory.

The safetensors format is written here, since its library requires a whole shard in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARD = 5 * 10**9
_PIECE = 1 << 26
"""Bytes that are generated at a time."""
_ONE = b"\x80\x3f"
"""1.0 in bf16."""


@dataclass(frozen=True)
class Tensor:
    """Name and shape of a tensor in bf16."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = 2
        for length in self.shape:
            size *= length
        return size


def write(config: dict[str, Any], directory: Path, gigabytes: float) -> None:
    """Write a checkpoint.

    Args:
        config: arguments of a `LlamaConfig`; the number of layers is set to reach the size.
        directory: an existing directory.
        gigabytes: size of the weights; at least the embeddings and two layers are written.

    Raises:
        OSError: there isn't enough disk space.
    """
    outside = sum(tensor.nbytes for tensor in _tensors({**config, "num_hidden_layers": 0}))
    layer = sum(tensor.nbytes for tensor in _tensors({**config, "num_hidden_layers": 1})) - outside
    config = {**config, "num_hidden_layers": max(2, round((gigabytes * 1e9 - outside) / layer))}
    tensors = list(_tensors(config))
    total, free = sum(tensor.nbytes for tensor in tensors), shutil.disk_usage(directory).free
    if free < 2.1 * total:
        raise OSError(
            f"{total / 1e9:.1f} GB and the export need {2.1 * total / 1e9:.1f} GB on disk, {free / 1e9:.1f} are free"
        )
    shards = list(_shards(tensors))
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    for seed, (name, shard) in enumerate(zip(names, shards, strict=True)):
        _write_shard(directory / name, shard, seed)
    weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    config_json = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", **config}
    (directory / "config.json").write_text(json.dumps(config_json, indent=2), encoding="utf-8")


def _tensors(config: dict[str, Any]) -> Iterator[Tensor]:
    width, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    key_size = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield Tensor("model.embed_tokens.weight", (vocabulary, width))
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        for name, rows, columns in (
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", key_size, width),
            ("self_attn.v_proj", key_size, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):
            yield Tensor(f"{prefix}{name}.weight", (rows, columns))
        yield Tensor(f"{prefix}input_layernorm.weight", (width,))
        yield Tensor(f"{prefix}post_attention_layernorm.weight", (width,))
    yield Tensor("model.norm.weight", (width,))
    yield Tensor("lm_head.weight", (vocabulary, width))


def _shards(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    for tensor in tensors:
        if shard and sum(other.nbytes for other in shard) + tensor.nbytes > SHARD:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard


def _write_shard(file: Path, tensors: list[Tensor], seed: int) -> None:
    """Write one file: the header's length, the header, the tensors in order."""
    import numpy

    random = numpy.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        offsets = [position, position + tensor.nbytes]
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for start in range(0, tensor.nbytes, _PIECE):
                size = min(_PIECE, tensor.nbytes - start)
                opened.write(_ONE * (size // 2) if len(tensor.shape) == 1 else _weights(random, size))


def _weights(random: Any, size: int) -> bytes:
    """Return random bf16 values of either sign between 2**-10 and 2**-6, by fixing the high bits of the exponent."""
    import numpy

    bits = numpy.frombuffer(random.bytes(size), dtype="<u2")
    return bytes((bits & 0x81FF) + numpy.uint16(117 << 7))
