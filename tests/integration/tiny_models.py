"""Tiny seeded models with images or audio, with their processors, and what to run them on."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions


def exported(checkpoint: Path, task: str) -> Path:
    """Export a checkpoint once; all of its few layers are traced, which is faster than stamping."""
    output = checkpoint.with_name(f"{checkpoint.name}-{task}-onnx")
    if not output.exists():
        onnxport.export(checkpoint, output, ExportOptions(task=task, validate="none", stamping=False))
    return output


def saved(parent: Path, name: str, *parts: Any) -> Path:
    """Write a model with random weights, and its preprocessors."""
    if not (parent / name).exists():
        randomize(parts[0])
        for part in parts:
            part.save_pretrained(parent / name)
    return parent / name


def image() -> Image.Image:
    """Return an image of 60 x 80 pixels, smooth enough that its pixels still differ after resizing."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 60))


def audio(seconds: float, rate: int = 16_000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(440 * time * (1 + 0.1 * time))).astype(np.float32)


def image_text_model(parent: Path, name: str) -> Path:
    """Write a tiny image-text model, with its processor."""
    layers = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = make_tokenizer("bart", 60, 0, "<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<fake_token_around_image>"]})
    tokenizer.padding_side = "left"
    text = {"model_type": "llama", "vocab_size": 64, **layers, "eos_token_id": 2, "pad_token_id": 1}
    square, cut = {"height": 32, "width": 32}, {"image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]}
    settings = {
        "text_config": text,
        "vision_config": {**layers, "image_size": 32, "patch_size": 8},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
    }
    template = "{% for m in messages %}{% for c in m['content'] %}{{ c['text'] if c['type'] == 'text' else '<image>' }}"
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "chat_template": template + "{% endfor %}{% endfor %}",
    }
    if name == "Idefics3":
        settings |= {"scale_factor": 2, "pad_token_id": 1}
        sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
        parts |= {"image_processor": transformers.Idefics3ImageProcessorPil(**sizes), "image_seq_len": 4}
    else:
        settings["vision_config"] |= {"model_type": "clip_vision_model"}
        settings |= cut if name == "LlavaNext" else {}
        sizes = {"size": {"shortest_edge": 32}, "crop_size": square, **(cut if name == "LlavaNext" else {})}
        maker = transformers.LlavaNextImageProcessorPil if name == "LlavaNext" else transformers.CLIPImageProcessorPil
        parts |= {"image_processor": maker(**sizes), "patch_size": 8, "num_additional_image_tokens": 1}
        parts |= {"vision_feature_select_strategy": "default"}
    torch.manual_seed(0)
    model_class = getattr(transformers, f"{name}ForConditionalGeneration")
    model = model_class(getattr(transformers, f"{name}Config")(**settings))
    return saved(parent, f"image_text_model-{name}", model, getattr(transformers, f"{name}Processor")(**parts))


def audio_text_model(parent: Path) -> Path:
    """Write a tiny Qwen2-Audio with its processor."""
    tokenizer = make_tokenizer("bart", 60, 0, "<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    tokenizer.padding_side = "left"
    config = transformers.Qwen2AudioConfig(
        text_config={
            **{"model_type": "qwen2", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 37},
            **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"eos_token_id": 2, "pad_token_id": 1},
        },
        audio_config={
            **{"model_type": "qwen2_audio_encoder", "d_model": 32, "encoder_layers": 2, "encoder_ffn_dim": 37},
            **{"encoder_attention_heads": 4, "num_mel_bins": 16, "max_source_positions": 100},
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    torch.manual_seed(0)
    model = transformers.Qwen2AudioForConditionalGeneration(config)
    return saved(parent, "audio_text_model", model, transformers.Qwen2AudioProcessor(extractor, tokenizer))


def wav2vec2(parent: Path, head: str) -> Path:
    config = transformers.Wav2Vec2Config(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        conv_dim=(16, 16, 16), conv_stride=(4, 4, 4), conv_kernel=(8, 8, 8), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, classifier_proj_size=16, num_labels=4,
    )  # fmt: skip
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_lowercase, "'"]
    vocabulary = parent / "letters.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    torch.manual_seed(0)
    model = getattr(transformers, f"Wav2Vec2For{head}")(config)
    return saved(parent, f"wav2vec2-{head}", model, transformers.Wav2Vec2FeatureExtractor(), tokenizer)


def whisper(parent: Path) -> Path:
    """Write a Whisper with a byte tokenizer, its special tokens, and one timestamp token for every 20 ms of 30 s."""
    from tokenizers import AddedToken
    from tokenizers.pre_tokenizers import ByteLevel

    names = ["en", "de", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    special = [f"<|{name}|>" for name in ("endoftext", "startoftranscript", *names)]
    times = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    known = {token: index for index, token in enumerate([*sorted(ByteLevel.alphabet()), *special, *times])}
    tokenizer = transformers.WhisperTokenizer(vocab=known, merges=[], language="en", task="transcribe")
    tokenizer.add_tokens(special[1:], special_tokens=True)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in times])
    end, start = known["<|endoftext|>"], known["<|startoftranscript|>"]
    ends = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    config = transformers.WhisperConfig(
        vocab_size=len(known), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, num_mel_bins=20, suppress_tokens=None,
        begin_suppress_tokens=None, **ends,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        is_multilingual=True, lang_to_id={f"<|{name}|>": known[f"<|{name}|>"] for name in ("en", "de")},
        task_to_id={name: known[f"<|{name}|>"] for name in ("translate", "transcribe")}, return_timestamps=False,
        no_timestamps_token_id=known["<|notimestamps|>"], prev_sot_token_id=known["<|startofprev|>"], max_length=448,
        max_initial_timestamp_index=50, alignment_heads=[[0, 0], [1, 1]], **ends,
    )  # fmt: skip
    return saved(parent, "whisper", model, transformers.WhisperFeatureExtractor(feature_size=20), tokenizer)


def captioner(parent: Path) -> Path:
    """Write a vision-encoder-decoder, and a processor like Donut's."""
    checkpoint = make_checkpoint("vision-encoder-decoder", "vision2seq-lm", parent)
    images = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    transformers.DonutProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(checkpoint)
    return checkpoint


def translator(parent: Path) -> Path:
    """Write a tiny NLLB, whose tokenizer has a token for each of 202 languages."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "▁"]
    vocabulary = {token: index for index, token in enumerate([*special, *string.ascii_lowercase])}
    tokenizer = transformers.NllbTokenizer(vocab=vocabulary, merges=[], src_lang="eng_Latn")
    config = transformers.M2M100Config(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=37, decoder_ffn_dim=37, max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    return saved(parent, "translator", transformers.M2M100ForConditionalGeneration(config), tokenizer)
