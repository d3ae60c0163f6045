"""Write tiny checkpoints with seeded random weights, in the format of `save_pretrained`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from conformance.pairs import pairs, table
from conformance.preprocessors import make_preprocessor, make_tokenizer_for

AUTO_CLASSES = {
    "default": "AutoModel",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "multiple-choice": "AutoModelForMultipleChoice",
    "object-detection": "AutoModelForObjectDetection",
    "question-answering": "AutoModelForQuestionAnswering",
    "image-classification": "AutoModelForImageClassification",
    "image-segmentation": "AutoModelForImageSegmentation",
    "semantic-segmentation": "AutoModelForSemanticSegmentation",
    "vision2seq-lm": "AutoModelForImageTextToText",
    "speech2seq-lm": "AutoModelForSpeechSeq2Seq",
}

MODEL_CLASSES = {
    # AutoModelForCausalLM doesn't know Flaubert; its language model head is this one, as for masked-lm.
    ("flaubert", "causal-lm"): "FlaubertWithLMHeadModel",
    # Several classes have this task. The Auto class chooses by `architectures`, which a new configuration lacks.
    ("deit", "image-classification"): "DeiTForImageClassification",
    ("levit", "image-classification"): "LevitForImageClassification",
    ("perceiver", "image-classification"): "PerceiverForImageClassificationLearned",
}

_TINY_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 12, 16, 20],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}

ADAPTED: dict[str, dict[str, Any]] = {
    # Transformers 5 builds the segmentation head from the backbone's stages, and the default backbone isn't tiny.
    "detr": {"backbone_config": _TINY_BACKBONE},
    # The masked-LM head has hidden_size - embedding_size additional columns: without any, it is an empty matrix.
    "mobilebert": {"embedding_size": 16},
    # A classifier needs the padding token to find the last token of each sequence in a batch; 4.37.2 set it only for
    # GPT-2, GPT-J and Bloom.
    "gpt-neo": {"pad_token_id": 1},
}
"""Arguments of tiny configurations that differ from those recorded with 4.37.2, each with its reason."""

IMAGE_SIZES = {
    # An image of 32 pixels results in a feature map of 1 x 1, and torch.export specializes axes of size 1.
    "mobilevit": 128,
    "segformer": 64,
}
"""Model type to the image size, in pixels, of its image processor, where it differs from the recorded one."""

_TOKEN_IDS = ("pad", "bos", "eos", "sep", "cls", "decoder_start", "forced_eos", "forced_bos")
_MARKER = "conformance.json"


def make_config(model_type: str, feature: str) -> Any:
    """Return the tiny configuration of a pair, with token ids that are in its vocabulary."""
    import transformers

    entry = table()[model_type]
    name, arguments = entry["config"]
    arguments = arguments | entry.get("config_for", {}).get(feature, {}) | ADAPTED.get(model_type, {})
    if model_type == "vision-encoder-decoder":
        subconfigs = [getattr(transformers, subclass)(**values) for subclass, values in arguments.values()]
        config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(*subconfigs)
        config.decoder_start_token_id = config.decoder.bos_token_id
        config.pad_token_id = config.decoder.eos_token_id
        return config
    config = getattr(transformers, name)(**arguments)
    if "unk" in entry["preprocessor"]:
        _move_token_ids(config, model_type)
    return config


def make_checkpoint(model_type: str, feature: str, directory: str | Path) -> Path:
    """Write the tiny checkpoint of a pair, unless it exists.

    Args:
        model_type: as in `FeaturesManager`, such as `gpt-neo`.
        feature: such as `causal-lm-with-past`; a feature with and without past has one checkpoint.
        directory: directory of all checkpoints, with one subdirectory for each.

    Returns:
        The checkpoint's directory: `config.json`, `model.safetensors` and the preprocessor's files.
    """
    import torch
    import transformers

    task = feature.removesuffix("-with-past")
    target = Path(directory) / f"{model_type}-{task}"
    if (target / _MARKER).is_file():
        return target
    config = make_config(model_type, task)
    torch.manual_seed(0)
    if (model_type, task) in MODEL_CLASSES:
        model = getattr(transformers, MODEL_CLASSES[model_type, task])(config)
    else:
        model = getattr(transformers, AUTO_CLASSES[task]).from_config(config)
    randomize(model)
    model.save_pretrained(target)
    make_preprocessor(model_type, feature, config, IMAGE_SIZES.get(model_type)).save_pretrained(target)
    if model_type == "vision-encoder-decoder":
        make_tokenizer_for(model_type, config).save_pretrained(target)
    (target / _MARKER).write_text(json.dumps({"model_type": model_type, "task": task}))
    return target


def make_all(directory: str | Path) -> int:
    """Write every checkpoint of the table, and return their number."""
    return len({make_checkpoint(model_type, feature, directory) for model_type, feature in pairs()})


def randomize(model: Any) -> None:
    """Set every parameter to random values that keep activations and outputs near one.

    Transformers initializes weights with a standard deviation of 0.02, biases with zeros and scales with ones: outputs
    are almost constant, and a graph that confused two of them would still be validated.
    """
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad or parameter.ndim == 0 or parameter.numel() == 0:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in embeddings:
                parameter.copy_(0.5 * noise)
            elif parameter.ndim > 1 and not name.endswith(
                "alpha"
            ):  # the alpha of a Snake activation, [1, size, 1], is a scale
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.copy_((0.0 if name.endswith("bias") else 1.0) + 0.1 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                noise = torch.randn(buffer.shape, generator=generator)
                buffer.copy_(noise / 10 if name.endswith("mean") else 1 + noise.abs() / 10)


def _move_token_ids(config: Any, model_type: str) -> None:
    """Replace token ids outside of the tiny vocabulary, such as 50256, with those of the tiny tokenizer."""
    text_config = getattr(config, "text_config", config)
    tokenizer = make_tokenizer_for(model_type, config)
    for token in _TOKEN_IDS:
        name = f"{token}_token_id"
        value = getattr(text_config, name, None)
        if isinstance(value, int) and not 0 <= value < text_config.vocab_size:
            token_id = getattr(tokenizer, name, None)
            setattr(text_config, name, tokenizer.eos_token_id if token_id is None else token_id)
