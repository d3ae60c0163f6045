"""Pipelines over exported directories return the same results as Transformers' pipelines over the original models."""

from __future__ import annotations

import json
import logging
import shutil
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_image_processor, make_tokenizer
from onnxport import ExportOptions, OnnxportError
from onnxport.cli import main
from onnxport.runtime.models import OnnxSpeechSeq2Seq
from tests.breadth import sampled


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipelines")


def exported(checkpoint: Path, task: str) -> Path:
    """Export a checkpoint once; all of its few layers are traced, which is faster than stamping."""
    output = checkpoint.with_name(f"{checkpoint.name}-{task}-onnx")
    if not output.exists():
        onnxport.export(checkpoint, output, ExportOptions(task=task, validate="none", stamping=False))
    return output


def pipelines(task: str, checkpoint: Path, export_task: str | None = None) -> tuple[Any, Any]:
    """Return the pipeline over the exported directory, and Transformers' pipeline over the checkpoint."""
    return (
        onnxport.pipeline(task, exported(checkpoint, export_task or task)),
        transformers.pipeline(task, model=str(checkpoint), device="cpu"),
    )


def assert_same(found: Any, expected: Any) -> None:
    """Compare results: texts and token ids exactly, scores and hidden states within 0.001."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, Image.Image):
        assert found.size == expected.size
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), atol=1)
    elif isinstance(expected, float | np.floating | torch.Tensor | np.ndarray):
        np.testing.assert_allclose(found, expected, atol=1e-3)
    else:
        assert found == expected


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


TEXT = "a tiny text 12"


@pytest.mark.parametrize(
    ("task", "model_type", "feature", "text"),
    [
        ("fill-mask", "bert", "masked-lm", "ab [MASK] cd"),
        ("text-classification", "roberta", "sequence-classification", TEXT),
        ("sentiment-analysis", "roberta", "sequence-classification", TEXT),
        ("token-classification", "bert", "token-classification", TEXT),
        ("feature-extraction", "distilbert", "default", TEXT),
    ],
)
def test_text_tasks(task: str, model_type: str, feature: str, text: str, parent: Path) -> None:
    ours, original = pipelines(task, make_checkpoint(model_type, feature, parent), feature)
    assert_same(ours(text), original(text))
    several = [text, f"{text} and {text}"]
    assert_same(ours(several, batch_size=2), original(several, batch_size=2))


def test_all_classes(parent: Path) -> None:
    checkpoint = make_checkpoint("roberta", "sequence-classification", parent)
    ours, original = pipelines("text-classification", checkpoint, "sequence-classification")
    assert_same(ours(TEXT, top_k=None), original(TEXT, top_k=None))


def zero_shot(parent: Path) -> Path:
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        max_position_embeddings=128, id2label=labels, label2id={name: index for index, name in labels.items()},
    )  # fmt: skip
    tokenizer = make_tokenizer("bert", 64, 2, "[UNK]", token_type_ids=True)
    torch.manual_seed(0)
    return saved(parent, "zero-shot", transformers.BertForSequenceClassification(config), tokenizer)


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(multi_label: bool, parent: Path) -> None:
    ours, original = pipelines("zero-shot-classification", zero_shot(parent), "text-classification")
    labels = ["sport", "politics", "food"]
    assert_same(ours(TEXT, labels, multi_label=multi_label), original(TEXT, labels, multi_label=multi_label))


def test_text_generation(parent: Path) -> None:
    feature = "causal-lm-with-past"
    ours, original = pipelines("text-generation", make_checkpoint("gpt2", feature, parent), feature)
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert_same(ours(TEXT, **settings), original(TEXT, **settings))
    several = [TEXT, "ab"]
    assert_same(ours(several, num_beams=2, **settings), original(several, num_beams=2, **settings))


@pytest.mark.parametrize(
    ("task", "model_type", "feature"),
    [
        ("image-classification", "vit", "image-classification"),
        ("image-feature-extraction", "vit", "default"),
        ("image-segmentation", "segformer", "semantic-segmentation"),
        ("object-detection", "yolos", "object-detection"),
        pytest.param("image-segmentation", "detr", "image-segmentation", marks=pytest.mark.wide),
    ],
)
def test_image_tasks(task: str, model_type: str, feature: str, parent: Path) -> None:
    ours, original = pipelines(task, make_checkpoint(model_type, feature, parent), feature)
    settings = {"threshold": 0.1} if "detection" in task else {}
    if model_type == "detr":
        settings = {"threshold": 0.01, "mask_threshold": 0.1, "overlap_mask_area_threshold": 0.0}
    expected = original(image(), **settings)
    assert expected
    assert_same(ours(image(), **settings), expected)


def dpt(parent: Path) -> Path:
    config = transformers.DPTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=37, image_size=32, patch_size=8,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8, is_hybrid=False,
    )  # fmt: skip
    torch.manual_seed(0)
    processor = make_image_processor("DPTImageProcessor", 32, config)
    return saved(parent, "dpt", transformers.DPTForDepthEstimation(config), processor)


@pytest.mark.wide
def test_depth(parent: Path) -> None:
    ours, original = pipelines("depth-estimation", dpt(parent))
    expected = original(image())
    assert np.asarray(expected["depth"]).std() > 1
    assert_same(ours(image()), expected)


@pytest.mark.parametrize("feature", ["default", "zero-shot-image-classification"])
def test_zero_shot_image_classification(feature: str, parent: Path) -> None:
    ours, original = pipelines("zero-shot-image-classification", make_checkpoint("clip", "default", parent), feature)
    labels = {"candidate_labels": ["a cat", "a dog", "x"], "hypothesis_template": "a {}"}
    assert_same(ours(image(), **labels), original(image(), **labels))
    assert_same(ours([image()] * 2, **labels), original([image()] * 2, **labels))


def owlvit(parent: Path) -> Path:
    checkpoint = make_checkpoint("owlvit", "default", parent)
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    torch.manual_seed(0)
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    return saved(parent, "owlvit-detection", transformers.OwlViTForObjectDetection(config), processor)


def test_zero_shot_object_detection(parent: Path) -> None:
    ours, original = pipelines("zero-shot-object-detection", owlvit(parent))
    labels = {"candidate_labels": ["cat", "dog"], "threshold": 0.0}
    expected = original(image(), **labels)
    assert expected
    assert_same(ours(image(), **labels), expected)


def captioner(parent: Path) -> Path:
    """Write a vision-encoder-decoder, and a processor like Donut's."""
    checkpoint = make_checkpoint("vision-encoder-decoder", "vision2seq-lm", parent)
    images = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    transformers.DonutProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(checkpoint)
    return checkpoint


def test_image_to_text(parent: Path) -> None:
    checkpoint = captioner(parent)
    ours = onnxport.pipeline("image-to-text", exported(checkpoint, "image-to-text-with-past"))
    original = transformers.pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    settings = {"text": "ab", "return_tensors": True, "generate_kwargs": {"max_new_tokens": 6, "do_sample": False}}
    assert_same(ours(image(), **settings), original(image(), **settings))


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


@pytest.mark.parametrize("name", sampled(("Llava", "LlavaNext", "Idefics3"), ("LlavaNext",)))
def test_image_text_to_text(name: str, parent: Path) -> None:
    ours, original = pipelines("image-text-to-text", image_text_model(parent, name), "image-text-to-text-with-past")
    greedy = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    settings = {"generate_kwargs": greedy, "skip_special_tokens": False}
    one, several = (image(), image().rotate(90, expand=True)), ("ab <image> cd", "a <image>")
    expected = original(one[0], several[0], return_full_text=False, **settings)
    assert expected[0]["generated_text"]
    assert_same(ours(one[0], several[0], return_full_text=False, **settings), expected)
    lists = [[part] for part in one]
    assert_same(ours(lists, several, **settings), original(lists, several, **settings))
    chat = [{"role": "user", "content": [{"type": "image", "image": one[1]}, {"type": "text", "text": "what"}]}]
    found, expected = ours(text=chat, **settings), original(text=chat, **settings)
    assert_same(found[0]["generated_text"][-1], expected[0]["generated_text"][-1])


def test_run_generates_from_an_image_and_a_prompt(
    parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = image_text_model(parent, "Llava")
    directory = exported(checkpoint, "image-text-to-text-with-past")
    image().save(tmp_path / "a.png")
    arguments = ("run", str(directory), "--image", str(tmp_path / "a.png"), "--prompt", "what", "--max-new-tokens", "6")
    assert main([*arguments, "--greedy", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    chat = [{"role": "user", "content": [{"type": "image", "image": image()}, {"type": "text", "text": "what"}]}]
    original = transformers.pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    expected = original(text=chat, generate_kwargs={"max_new_tokens": 6, "do_sample": False}, return_full_text=False)
    assert found["text"] == expected[0]["generated_text"].strip()  # without the space before it
    assert main([*arguments, "--greedy", "--stream"]) == 0
    assert capsys.readouterr().out == f"{found['text']}\n"
    assert main(["run", str(directory), "--image", str(tmp_path / "a.png")]) == 2
    assert "pass one --prompt, with --image or --audio" in capsys.readouterr().err
    assert main(["bench", str(directory)]) == 1
    assert "multimodal" in capsys.readouterr().err


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


@pytest.mark.wide
def test_audio_text_to_text(parent: Path) -> None:
    directory = exported(audio_text_model(parent), "audio-text-to-text-with-past")
    ours = onnxport.pipeline("audio-text-to-text", directory)
    original = transformers.pipeline("any-to-any", model=str(audio_text_model(parent)), device="cpu")
    greedy = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    settings = {"generate_kwargs": greedy, "skip_special_tokens": False, "return_full_text": False}
    text = "ab <|audio_bos|><|AUDIO|><|audio_eos|> cd"
    expected = original(text=text, audio=audio(1.3), **settings)
    assert expected[0]["generated_text"]
    assert_same(ours(text=text, audio=audio(1.3), **settings), expected)


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


def test_audio_classification(parent: Path) -> None:
    ours, original = pipelines("audio-classification", wav2vec2(parent, "SequenceClassification"))
    assert_same(ours(audio(1)), original(audio(1)))


def test_speech_recognition_with_ctc(parent: Path) -> None:
    ours, original = pipelines("automatic-speech-recognition", wav2vec2(parent, "CTC"))
    expected = original(audio(1.3))
    assert expected["text"]
    assert_same(ours(audio(1.3)), expected)
    settings = {"chunk_length_s": 0.6, "return_timestamps": "char"}
    assert_same(ours(audio(1.3), **settings), original(audio(1.3), **settings))


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


def test_speech_recognition_with_whisper(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, original = pipelines(
        "automatic-speech-recognition", whisper(parent), "automatic-speech-recognition-with-past"
    )
    few = {"max_new_tokens": 10, "num_beams": 1}
    for seconds, settings in (
        (2, {"generate_kwargs": {"max_new_tokens": 4, "language": "de", "task": "translate"}}),
        (2, {"return_timestamps": True, "generate_kwargs": few}),
        (34, {"return_timestamps": True, "generate_kwargs": few}),
    ):
        expected = original(audio(seconds), **settings)
        assert expected["text"]
        assert_same(ours(audio(seconds), **settings), expected)
    with pytest.raises(OnnxportError, match="return_timestamps=True"):
        ours(audio(2), return_timestamps="word")
    monkeypatch.setattr(OnnxSpeechSeq2Seq, "can_generate", lambda self: False)
    with pytest.raises(OnnxportError, match="--task automatic-speech-recognition-with-past"):
        onnxport.pipeline("automatic-speech-recognition", ours.model.directory.path)


def test_half_precision(parent: Path) -> None:
    checkpoint = make_checkpoint("vit", "image-classification", parent)
    output = parent / "half"
    onnxport.export(checkpoint, output, ExportOptions(dtype="fp16", validate="none"))
    ours = onnxport.pipeline("image-classification", output, device=-1)
    original = transformers.pipeline("image-classification", model=str(checkpoint), device="cpu")
    assert ours.dtype == torch.float16
    expected = {entry["label"]: entry["score"] for entry in original(image(), top_k=None)}
    assert {entry["label"]: entry["score"] for entry in ours(image(), top_k=None)} == pytest.approx(expected, abs=0.01)


def test_another_task_than_that_of_the_export_is_an_error(parent: Path) -> None:
    directory = exported(make_checkpoint("roberta", "sequence-classification", parent), "sequence-classification")
    with pytest.raises(OnnxportError, match=r"exported for text-classification .*RobertaForSequenceClassification"):
        onnxport.pipeline("text-generation", directory)
    with pytest.raises(OnnxportError, match=r"pipelines for it: .*zero-shot-classification"):
        onnxport.pipeline("fill-mask", directory)
    with pytest.raises(OnnxportError, match="no pipeline for 'translation'; it has any-to-any"):
        onnxport.pipeline("translation", directory)


def test_a_directory_without_a_tokenizer(parent: Path) -> None:
    checkpoint = make_checkpoint("bert", "masked-lm", parent)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    directory = exported(checkpoint, "masked-lm")
    bare = directory.with_name("bare")
    shutil.copytree(directory, bare, ignore=shutil.ignore_patterns("*token*"))
    with pytest.raises(OnnxportError, match=r"has no tokenizer, which a pipeline for fill-mask needs.*pass tokenizer="):
        onnxport.pipeline("fill-mask", bare)
    pipe = onnxport.pipeline("fill-mask", bare, tokenizer=tokenizer)
    assert_same(pipe("ab [MASK]"), onnxport.pipeline("fill-mask", directory)("ab [MASK]"))


def test_there_are_no_warnings(parent: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = exported(make_checkpoint("roberta", "sequence-classification", parent), "sequence-classification")
    logging.getLogger("transformers").propagate = True
    onnxport.pipeline("text-classification", directory)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
