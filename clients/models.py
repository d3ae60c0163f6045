"""The models that every client is tried with, and what PyTorch makes of their inputs.

Trained ones are those of `scripts/fetch_real_models.py`; the others are tiny, with random weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from conformance.checkpoints import make_checkpoint, randomize
from conformance.matrix.tiny import checkpoint_of
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from scripts.fetch_real_models import model_directory
from tests.integration.test_multimodal import checkpoint as multimodal_checkpoint
from tests.integration.test_multimodal import inputs_for
from tests.integration.tiny_models import whisper as make_whisper

ROOT = Path(__file__).parent.parent / ".clients"
SENTENCES = ("A man is eating food.", "Someone is having a meal at a large wooden table.", "Shares fell sharply.")
QUESTION = "What is the capital of France? Answer in one short sentence."
NEW_TOKENS = 12
VISION_START = 91
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Hold a model, and how it is exported and compared.

    Attributes:
        name: its name in the table.
        make: writes the checkpoint into a directory, and returns its path.
        refer: returns inputs, and the outputs of PyTorch, for a checkpoint.
        options: of the export.
    """

    name: str
    make: Callable[[Path], Path]
    refer: Callable[[Path], dict[str, Any]]
    options: ExportOptions = field(default_factory=ExportOptions)


def _trained(name: str) -> Callable[[Path], Path]:
    return lambda directory: model_directory(name)


def _tiny(model_type: str, feature: str) -> Callable[[Path], Path]:
    return lambda directory: make_checkpoint(model_type, feature, directory)


def _sam(directory: Path) -> Path:
    return checkpoint_of("sam", "mask-generation", directory)[0]


def _t5(directory: Path) -> Path:
    """Write a T5 with weights large enough that greedy tokens vary."""
    if not (directory / "t5").exists():
        sizes = {"vocab_size": 64, "d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4}
        config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        model = transformers.T5ForConditionalGeneration(config)
        randomize(model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(6)
        model.save_pretrained(directory / "t5")
        make_tokenizer("bart", 60, 0, "<unk>").save_pretrained(directory / "t5")
    return directory / "t5"


def _multimodal(name: str) -> Callable[[Path], Path]:
    def make(directory: Path) -> Path:
        if not (directory / name).exists():
            multimodal_checkpoint(name, directory / name)
            file = directory / name / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "vision_start_token_id": VISION_START}))
        return directory / name

    return make


def _embeddings(directory: Path) -> dict[str, Any]:
    """Return the embeddings of sentences: the mean of all tokens, of length 1."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    feed = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**feed).last_hidden_state
    mask = feed["attention_mask"][..., None]
    mean = (states * mask).sum(1) / mask.sum(1)
    return {"sentences": SENTENCES, "embeddings": torch.nn.functional.normalize(mean).tolist()}


def _labels(directory: Path) -> dict[str, Any]:
    """Return the most probable label of a text, and all logits."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = model(**tokenizer(REACTION, return_tensors="pt")).logits
    return {
        "text": REACTION,
        "label": model.config.id2label[int(logits.argmax())],
        "outputs": _lists({"logits": logits}),
    }


REACTION = "CC(=O)O.OCC>>CC(=O)OCC"


def _chat(directory: Path) -> dict[str, Any]:
    """Return the answer of a chat model, as 32 greedy tokens."""
    file = next(directory.glob("*.gguf")).name
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, gguf_file=file)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, gguf_file=file, dtype=torch.float32).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    return {
        "question": QUESTION,
        "inputs": tensors_as_json({"input_ids": prompt["input_ids"]}),
        "tokens": tokens.tolist(),
        "answer": tokenizer.decode(tokens, skip_special_tokens=True),
    }


def _outputs(auto: str, make_inputs: Callable[[Any, Any], Tensors]) -> Callable[[Path], dict[str, Any]]:
    """Return a function that returns the outputs of a model."""

    def refer(directory: Path) -> dict[str, Any]:
        model = getattr(transformers, auto).from_pretrained(directory).eval()
        inputs = make_inputs(model, directory)
        with torch.no_grad():
            outputs = model(**inputs)
        found = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
        return {"inputs": tensors_as_json(inputs), "outputs": _lists(found)}

    return refer


def _tokens(auto: str, make_inputs: Callable[[Any, Any], Tensors], **settings: Any) -> Callable[[Path], dict[str, Any]]:
    """Return a function that returns the tokens that a model generates."""

    def refer(directory: Path) -> dict[str, Any]:
        model = getattr(transformers, auto).from_pretrained(directory).eval()
        inputs = make_inputs(model, directory)
        greedy = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, **settings}
        tokens = model.generate(**inputs, **greedy)
        return {"inputs": tensors_as_json(inputs), "settings": settings, "tokens": tokens[0].tolist()}

    return refer


def _transcript(directory: Path) -> dict[str, Any]:
    """Return the tokens of a transcript: greedy ones after those of the language and the task."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(directory).eval()
    inputs, known = _speech(model, directory), model.generation_config
    prompt = [known.decoder_start_token_id, known.lang_to_id["<|en|>"], known.task_to_id["transcribe"]]
    ids = torch.tensor([[*prompt, known.no_timestamps_token_id]])
    greedy = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
    tokens = transformers.GenerationMixin.generate(model, **inputs, decoder_input_ids=ids, **greedy)
    settings = {"language": "en", "task": "transcribe"}
    return {
        "inputs": tensors_as_json(inputs),
        "settings": settings,
        "prompt": ids[0].tolist(),
        "tokens": tokens[0].tolist(),
    }


def _words(directory: Path) -> dict[str, Any]:
    """Return audio whose words a client finds the times of; those of a random model aren't compared."""
    return {"seconds": 2}


def _halves(directory: Path) -> dict[str, Any]:
    """Return the embeddings of a text and an image before they are normalized, as each encoder returns them."""
    model = transformers.CLIPModel.from_pretrained(directory).eval()
    inputs = _image_and_text(model, directory)
    with torch.no_grad():
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        image = model.get_image_features(inputs["pixel_values"]).pooler_output
    return {"inputs": tensors_as_json(inputs), "outputs": _lists({"text_embeds": text, "image_embeds": image})}


def _text(model: Any, directory: Path) -> Tensors:
    torch.manual_seed(0)
    ids = torch.randint(5, min(60, model.config.get_text_config().vocab_size), (1, 9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _image(directory: Path, name: str = "image_processor") -> Tensors:
    processor = transformers.AutoImageProcessor.from_pretrained(directory, use_fast=False)
    return {"pixel_values": processor(picture(), return_tensors="pt")["pixel_values"]}


def _pixels(model: Any, directory: Path) -> Tensors:
    return _image(directory)


def _image_and_text(model: Any, directory: Path) -> Tensors:
    return {**_text(model, directory), **_image(directory)}


def _points(model: Any, directory: Path) -> Tensors:
    points = torch.tensor([[[[10.0, 12.0]]]])
    return {**_image(directory), "input_points": points, "input_labels": torch.ones(1, 1, 1, dtype=torch.int64)}


def _speech(model: Any, directory: Path) -> Tensors:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(directory)
    time = np.arange(16_000 * 2) / 16_000
    audio = (0.5 * np.sin(440 * time * (1 + 0.1 * time))).astype(np.float32)
    return {"input_features": extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features}


def _prompt_with_image(name: str) -> Callable[[Any, Any], Tensors]:
    def make_inputs(model: Any, directory: Path) -> Tensors:
        inputs = inputs_for(name, model, 1)
        inputs["input_ids"][0, 3] = VISION_START  # transformers.js counts Qwen's positions from this token
        return inputs

    return make_inputs


def picture() -> Image.Image:
    """Return an image of 60 x 80 pixels, smooth enough that its pixels still differ after resizing."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((80, 60))


def tensors_as_json(values: Tensors) -> dict[str, Any]:
    """Return tensors as JSON: element type, shape and flat data."""
    return {
        name: {
            "type": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "data": value.flatten().tolist(),
        }
        for name, value in values.items()
    }


def _lists(values: Tensors) -> dict[str, Any]:
    return {name: value.flatten().tolist() for name, value in values.items()}


CASES = (
    Case("minilm", _trained("minilm"), _embeddings),
    Case("classifier", _trained("rxnfp"), _labels),
    Case("smollm2", _trained("smollm2"), _chat),
    Case("t5", _t5, _tokens("AutoModelForSeq2SeqLM", _text)),
    Case("whisper", make_whisper, _transcript),
    Case("whisper_words", make_whisper, _words, ExportOptions(outputs=("cross_attentions",))),
    Case("vit", _tiny("vit", "image-classification"), _outputs("AutoModelForImageClassification", _pixels)),
    Case("clip", _tiny("clip", "default"), _outputs("CLIPModel", _image_and_text)),
    Case("clip_split", _tiny("clip", "default"), _halves, ExportOptions(split_encoders=True)),
    Case("sam", _sam, _outputs("SamModel", _points), ExportOptions(split_encoders=True)),
    Case("smolvlm", _multimodal("SmolVLM"), _tokens("SmolVLMForConditionalGeneration", _prompt_with_image("SmolVLM"))),
    Case("qwen2_vl", _multimodal("Qwen2VL"), _tokens("Qwen2VLForConditionalGeneration", _prompt_with_image("Qwen2VL"))),
    Case("qwen3_vl", _multimodal("Qwen3VL"), _tokens("Qwen3VLForConditionalGeneration", _prompt_with_image("Qwen3VL"))),
    Case(
        "paligemma",
        _multimodal("PaliGemma"),
        _tokens("PaliGemmaForConditionalGeneration", _prompt_with_image("PaliGemma")),
    ),
    Case("gemma3", _multimodal("Gemma3"), _tokens("Gemma3ForConditionalGeneration", _prompt_with_image("Gemma3"))),
)


def reference(case: Case, directory: Path) -> Path:
    """Write the checkpoint of a case and PyTorch's results, once; return the checkpoint."""
    checkpoint = case.make(directory / "checkpoints")
    file = directory / case.name / "case.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"name": case.name, **case.refer(checkpoint)}))
    return checkpoint
