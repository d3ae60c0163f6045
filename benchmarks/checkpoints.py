"""Seeded checkpoints with the configurations of well-known models and random weights.

python -m benchmarks.checkpoints NAME ROOT     # writes ROOT/NAME; --gigabytes N for the large one
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEED = 0
LARGE = "llama-large"
"""The checkpoint that is larger than memory, written by `benchmarks.large`."""


@dataclass(frozen=True)
class Shape:
    """Describe one checkpoint.

    Attributes:
        model_class: name of the model class.
        config: arguments of its configuration class that differ from the defaults.
        task: task of the export.
        preprocessor: (model type, feature) of a suitable tiny preprocessor.
    """

    model_class: str
    config: dict[str, Any]
    task: str
    preprocessor: tuple[str, str]


def _llama(layers: int, width: int, inner: int, heads: tuple[int, int], vocabulary: int, tied: bool) -> Shape:
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "tie_word_embeddings": tied,
    }
    return Shape("LlamaForCausalLM", config, "text-generation-with-past", ("gpt2", "causal-lm-with-past"))


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
    "smollm2": _llama(30, 576, 1536, (9, 3), 49_152, True),
    "llama-0.55b": _llama(28, 1024, 4096, (16, 4), 64_000, False),
    "llama-16": _llama(16, 512, 2048, (8, 4), 32_000, True),
    "llama-32": _llama(32, 512, 2048, (8, 4), 32_000, True),
    "llama-80": _llama(80, 512, 2048, (8, 4), 32_000, True),
    LARGE: _llama(46, 5120, 13_824, (40, 40), 32_000, False),
}
"""Name to shape. The number of layers of the large one depends on the requested size."""


def make(name: str, root: Path, gigabytes: float) -> Path:
    """Return the directory of a checkpoint, which is written if it doesn't exist.

    Another process writes it: the memory of this process would count for the child processes that it measures.

    Args:
        name: one of `SHAPES`.
        root: directory of all checkpoints.
        gigabytes: size of the large checkpoint.

    Raises:
        RuntimeError: the checkpoint can't be written.
    """
    directory = root / (f"{name}-{gigabytes:g}gb" if name == LARGE else name)
    if directory.is_dir():
        return directory
    command = [sys.executable, "-m", "benchmarks.checkpoints", name, str(directory), "--gigabytes", str(gigabytes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(_stage(directory), ignore_errors=True)
        raise RuntimeError(f"the checkpoint {name} can't be written: {' '.join(done.stderr.splitlines()[-1:])}")
    return directory


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint."""
    return sorted(directory.glob("*.safetensors"))


def largest_tensor(directory: Path) -> int:
    """Return the size of a checkpoint's largest tensor in bytes, from the headers."""
    largest = 0
    for file in weight_files(directory):
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        ends = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        largest = max(largest, *(end - start for start, end in ends))
    return largest


def main() -> None:
    """Write one checkpoint atomically."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--gigabytes", type=float, default=30.0)
    arguments = parser.parse_args()
    stage = _stage(arguments.directory)
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    shape = SHAPES[arguments.name]
    if arguments.name == LARGE:
        from benchmarks.large import write

        write(shape.config, stage, arguments.gigabytes)
    else:
        _write(shape, stage)
    stage.rename(arguments.directory)


def _stage(directory: Path) -> Path:
    return directory.with_name(directory.name + ".partial")


def _write(shape: Shape, directory: Path) -> None:
    import torch
    import transformers

    from conformance.preprocessors import make_preprocessor

    model_class = getattr(transformers, shape.model_class)
    torch.manual_seed(SEED)
    model = model_class(model_class.config_class(**shape.config))
    model.save_pretrained(directory)
    size = getattr(model.config, "image_size", None)
    make_preprocessor(*shape.preprocessor, model.config, image_size=size).save_pretrained(directory)
    _write_class_names_of_4(directory)


def _write_class_names_of_4(directory: Path) -> None:
    """Rename the classes of tokenizers and image processors to names that Transformers 4 has, too."""
    for file in directory.glob("*_config.json"):
        text = file.read_text(encoding="utf-8")
        for new, old in (("TokenizersBackend", "PreTrainedTokenizerFast"), ("ImageProcessorPil", "ImageProcessor")):
            text = text.replace(f'{new}"', f'{old}"')
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
