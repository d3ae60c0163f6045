"""`onnxport run`, `inspect` and `validate` on directories that `onnxport export` wrote, from tiny seeded models."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers
from PIL import Image

from conformance.checkpoints import make_checkpoint
from onnxport.cli import main
from onnxport.cli._audio import read_audio
from tests.breadth import sampled
from tests.integration import tiny_models


def exported(model_type: str, feature: str, parent: Path, *more: str) -> Path:
    checkpoint = make_checkpoint(model_type, feature, parent / "checkpoints")
    output = parent / f"{model_type}-{feature}"
    arguments = ["export", str(checkpoint), str(output), "--task", feature, "--validate", "none", "--quiet", *more]
    assert main(arguments) == 0
    return output


def answer(capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["run", str(directory), "--json", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("gpt2", "causal-lm-with-past", tmp_path_factory.mktemp("decoder"))


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with two images and audio files in several formats."""
    parent = tmp_path_factory.mktemp("media")
    tiny_models.image().save(parent / "a.png")
    tiny_models.image().rotate(90, expand=True).save(parent / "b.png")
    for name in ("a.wav", "a.flac", "a.ogg", "a.mp3"):
        soundfile.write(parent / name, tiny_models.audio(2, 44_100), 44_100)
    soundfile.write(parent / "float.wav", tiny_models.audio(2), 16_000, subtype="FLOAT")
    soundfile.write(parent / "long.wav", tiny_models.audio(34), 16_000, subtype="FLOAT")
    return parent


def test_a_decoder_with_cache_generates_the_models_tokens(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    found = answer(capsys, decoder, "--input-ids", "5,6,7,8", "--max-new-tokens", "6")
    model = AutoModelForCausalLM.from_pretrained(decoder.parent / "checkpoints" / "gpt2-causal-lm")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        for _ in range(6):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert found[0]["tokens"] == ids[0, 4:].tolist()


def test_prompts_are_continued(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, decoder, "--text", "ab", "--text", "abcd", "--max-new-tokens", "3")
    assert [len(entry["tokens"]) for entry in found] == [3, 3]
    assert main(["run", str(decoder), "--input-ids", "99999999"]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "ONNX Runtime can't run model.onnx" in captured.err


def test_text_is_streamed(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = answer(capsys, decoder, "--prompt", "ab", "--max-new-tokens", "8")
    assert main(["run", str(decoder), "--prompt", "ab", "--prompt", "ab", "--max-new-tokens", "8", "--stream"]) == 0
    assert capsys.readouterr().out == f"{found['text']}\n" * 2
    assert main(["run", str(decoder), "--prompt", "ab", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == f"{found['text']}\n"


def test_sampling(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--input-ids", "5,6,7", "--max-new-tokens", "12")
    greedy = answer(capsys, decoder, *arguments)
    hot = [answer(capsys, decoder, *arguments, "--temperature", "50", "--seed", str(seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1]
    assert hot[0] != hot[2]
    assert answer(capsys, decoder, *arguments, "--temperature", "50", "--greedy") == greedy
    assert answer(capsys, decoder, *arguments, "--temperature", "50", "--top-k", "1") == greedy
    assert answer(capsys, decoder, *arguments, "--seed", "1", "--top-p", "0.000001") == greedy
    assert len(set(answer(capsys, decoder, *arguments, "--repetition-penalty", "1000")[0]["tokens"])) > 3
    for wrong in (("--top-p", "2"), ("--temperature", "0"), ("--max-new-tokens", "0")):
        assert main(["run", str(decoder), *arguments, *wrong]) == 2
    assert "--max-new-tokens" in capsys.readouterr().err


def test_text_requires_a_tokenizer(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(decoder, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    assert main(["run", str(bare), "--prompt", "ab"]) == 1
    assert "has no tokenizer.json: pass token ids" in capsys.readouterr().err
    (found,) = answer(capsys, bare, "--input-ids", "5,6", "--max-new-tokens", "2")
    assert found["text"] == ""
    assert len(found["tokens"]) == 2
    assert main(["run", str(bare), "--input-ids", "5,6", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out == f"(no text, token ids {found['tokens']})\n"
    assert main(["run", str(decoder)]) == 2
    assert "--text" in capsys.readouterr().err


def test_an_encoder_decoder_generates_the_models_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    directory = exported("t5", "seq2seq-lm-with-past", tmp_path)
    texts = ["abc", "a longer text"]
    arguments = [argument for text in texts for argument in ("--text", text)]
    found = answer(capsys, directory, *arguments, "--max-new-tokens", "7")
    checkpoint = tmp_path / "checkpoints" / "t5-seq2seq-lm"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    settings = {"max_new_tokens": 7, "do_sample": False, "decoder_start_token_id": tokenizer.pad_token_id}
    for text, entry in zip(texts, found, strict=True):
        expected = model.generate(**tokenizer(text, return_tensors="pt"), **settings)[0, 1:]
        assert entry["tokens"] == [token for token in expected.tolist() if token != tokenizer.eos_token_id]
        assert entry["text"] == tokenizer.decode(expected, skip_special_tokens=True)


def test_inspect_and_validate(decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(decoder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "text-generation-with-past"
    assert found["graphs"][0]["component"] == "model"
    assert main(["validate", str(decoder), "--json", "--validate", "quick"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "passed"
    assert "onnxport: validate model" in captured.err
    assert main(["validate", str(decoder), "--quiet", "--validate", "quick", "--atol", "0", "--rtol", "0"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("onnxport: error: ")
    assert captured.err.count("\n") == 1


def test_an_image_in_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = exported("vit", "image-classification", tmp_path, "--dtype", "fp16")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (shares,) = answer(capsys, directory, "--image", str(tmp_path / "image.png"))
    assert sum(entry["score"] for entry in shares) == pytest.approx(1, abs=1e-3)
    assert main(["run", str(directory), "--text", "a"]) == 2
    assert main(["run", str(directory), "--image", str(directory / "config.json")]) == 2
    assert "--image" in capsys.readouterr().err.splitlines()[-1]


FEW = ("--max-new-tokens", "6", "--greedy")
GREEDY = {"max_new_tokens": 6, "do_sample": False}


def message(images: list[Image.Image], text: str) -> list[dict[str, Any]]:
    """Return a conversation of one message with images and text."""
    content = [{"type": "image", "image": item} for item in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("name", sampled(("Llava", "LlavaNext", "Idefics3"), ("Idefics3",)))
def test_images_and_a_prompt(name: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_models.image_text_model(tmp_path, name)
    directory = tiny_models.exported(checkpoint, "image-text-to-text-with-past")
    original = transformers.pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    files = [str(media / file) for file in ("a.png", "b.png")]
    images = [Image.open(file).convert("RGB") for file in files]
    for count in (1, 2):
        expected = original(text=message(images[:count], "what"), generate_kwargs=GREEDY, return_full_text=False)
        options = [option for file in files[:count] for option in ("--image", file)]
        (found,) = answer(capsys, directory, *options, "--prompt", "what", *FEW)
        assert found["text"] == expected[0]["generated_text"].strip()  # without the space before it
    placeholders = answer(capsys, directory, *options, "--prompt", "<image><image>what", *FEW)
    assert placeholders == [found]  # what the template makes of the message
    assert main(["run", str(directory), *options, "--prompt", "what", *FEW, "--stream"]) == 0
    assert capsys.readouterr().out == f"{found['text']}\n"
    several = answer(capsys, directory, *options, "--prompt", "what", "--prompt", "is it", *FEW)
    assert several[0] == found
    assert len(several) == 2
    (text_only,) = answer(capsys, directory, "--prompt", "what", *FEW)
    assert text_only != found
    assert main(["run", str(directory), *options, "--prompt", "one <image>", *FEW]) == 2
    assert "a prompt has <image> for each image" in capsys.readouterr().err


def test_images_without_a_chat_template(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_models.image_text_model(tmp_path, "Llava")
    directory = tiny_models.exported(checkpoint, "image-text-to-text-with-past")
    with_template = answer(capsys, directory, "--image", str(media / "a.png"), "--prompt", "<image>what", *FEW)
    (directory / "chat_template.jinja").unlink()
    assert answer(capsys, directory, "--image", str(media / "a.png"), "--prompt", "what", *FEW) == with_template


def test_images_are_turned_as_exif_says(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = exported("vit", "image-classification", tmp_path)
    turned = Image.open(media / "a.png")
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    upright = answer(capsys, directory, "--image", str(media / "a.png"))
    assert answer(capsys, directory, "--image", str(tmp_path / "turned.png")) == upright
    assert answer(capsys, directory, "--image", str(media / "b.png")) != upright


@pytest.mark.parametrize(
    ("task", "model_type", "labels"),
    [
        ("zero-shot-image-classification", "clip", ("a cat", "a dog")),
        pytest.param("semantic-segmentation", "segformer", (), marks=pytest.mark.wide),
        pytest.param("object-detection", "yolos", (), marks=pytest.mark.wide),
    ],
)
def test_image_tasks_print_what_the_pipeline_returns(
    task: str, model_type: str, labels: tuple[str, ...], media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feature = "default" if model_type == "clip" else task
    checkpoint = make_checkpoint(model_type, feature, tmp_path)
    directory = tiny_models.exported(checkpoint, task)
    name = task.replace("semantic", "image")
    original = transformers.pipeline(name, model=str(checkpoint), device="cpu")
    images = [Image.open(media / file).convert("RGB") for file in ("a.png", "b.png")]
    options = {"candidate_labels": list(labels)} if labels else {}
    arguments = [f"--text={label}" for label in labels]
    arguments += [option for file in ("a.png", "b.png") for option in ("--image", str(media / file))]
    found = answer(capsys, directory, *arguments)
    for values, expected in zip(found, (original(image, **options) for image in images), strict=True):
        assert [value["label"] for value in values] == [value["label"] for value in expected]
        for value, other in zip(values, expected, strict=True):
            if other["score"] is not None:
                assert value["score"] == pytest.approx(other["score"], abs=1e-3)
            if "mask" in other:
                assert value["share"] == pytest.approx((np.asarray(other["mask"]) > 0).mean(), abs=1e-2)
    assert main(["run", str(directory), *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert labels or all(re.match(r"image \d: (\(nothing detected\)|\w+)", line) for line in lines)


def test_an_image_that_a_text_model_takes_too(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = make_checkpoint("clip", "default", tmp_path)
    directory = tiny_models.exported(checkpoint, "default")
    image = ("--image", str(media / "a.png"))
    values = answer(capsys, directory, *image, "--text", "a cat", "--text", "dogs")
    assert values["logits_per_image"]["shape"] == [2, 2]
    assert main(["run", str(directory), *image]) == 2
    assert "pass --text, too" in capsys.readouterr().err
    assert main(["run", str(directory), "--text", "a cat"]) == 2
    assert "pass --image, too" in capsys.readouterr().err


def test_a_prompt_beside_an_image(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

    checkpoint = tiny_models.captioner(tmp_path)
    directory = tiny_models.exported(checkpoint, "image-to-text-with-past")
    model = VisionEncoderDecoderModel.from_pretrained(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    image = Image.open(media / "a.png").convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(checkpoint)(image, return_tensors="pt")["pixel_values"]
    prompt = tokenizer("ab", add_special_tokens=False, return_tensors="pt")["input_ids"]
    for options, inputs in (((), {}), (("--prompt", "ab"), {"decoder_input_ids": prompt})):
        sequence = model.generate(pixels, **inputs, **GREEDY)[0]
        (found,) = answer(capsys, directory, "--image", str(media / "a.png"), *options, *FEW)
        ends = {tokenizer.eos_token_id, model.generation_config.eos_token_id, model.generation_config.pad_token_id}
        start = 1 + prompt.shape[1] * bool(options)
        assert found["tokens"] == [token for token in sequence[start:].tolist() if token not in ends]
    both = answer(capsys, directory, "--image", str(media / "a.png"), "--image", str(media / "b.png"), *FEW)
    assert len(both) == 2
    assert main(["run", str(directory), "--prompt", "ab"]) == 2
    assert "the encoder takes no text: pass --image" in capsys.readouterr().err


@pytest.mark.wide
def test_audio_and_a_prompt(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_models.audio_text_model(tmp_path)
    directory = tiny_models.exported(checkpoint, "audio-text-to-text-with-past")
    original = transformers.pipeline("any-to-any", model=str(checkpoint), device="cpu")
    clip = soundfile.read(media / "float.wav", dtype="float32")[0]
    text = "<|audio_bos|><|AUDIO|><|audio_eos|>what"
    expected = original(text=text, audio=clip, generate_kwargs=GREEDY, return_full_text=False)
    (found,) = answer(capsys, directory, "--audio", str(media / "float.wav"), "--prompt", text, *FEW)
    assert found["text"] == expected[0]["generated_text"].strip()
    (found,) = answer(capsys, directory, "--audio", str(media / "float.wav"), "--prompt", "what", *FEW)
    assert found["tokens"]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tiny_models.whisper(tmp_path_factory.mktemp("whisper"))
    return tiny_models.exported(checkpoint, "automatic-speech-recognition-with-past")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "float.wav"])
def test_speech_in_audio_files(name: str, whisper: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = transformers.pipeline(
        "automatic-speech-recognition", model=str(whisper.parent / "whisper"), device="cpu"
    )
    found = answer(capsys, whisper, "--audio", str(media / name), "--max-new-tokens", "3")
    assert found == [original(read_audio(media / name, 16_000), generate_kwargs={"max_new_tokens": 3})]


def test_speech_as_the_pipeline_transcribes_it(whisper: Path, media: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = whisper.parent / "whisper"
    original = transformers.pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu")
    clip, long = (soundfile.read(media / name, dtype="float32")[0] for name in ("float.wav", "long.wav"))
    kwargs = {"max_new_tokens": 5, "language": "de", "task": "translate"}
    options = ("--language", "de", "--task", "translate", "--max-new-tokens", "5")
    expected = [original(clip, generate_kwargs=kwargs)]
    assert answer(capsys, whisper, "--audio", str(media / "float.wav"), *options) == expected
    (found,) = answer(capsys, whisper, "--audio", str(media / "long.wav"), "--max-new-tokens", "5")
    timestamped = original(long, return_timestamps=True, generate_kwargs={"max_new_tokens": 5})
    assert found == json.loads(json.dumps(timestamped))
    assert main(["run", str(whisper), "--audio", str(media / "float.wav"), "--language", "xx"]) == 2
    assert "xx" in capsys.readouterr().err
    for options in (["--prompt", "a"], ["--audio", str(media / "float.wav"), "--question", "a"]):
        assert main(["run", str(whisper), *options]) == 2
        assert "speech recognition takes audio alone: pass it with --audio" in capsys.readouterr().err


def test_speech_with_ctc(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tiny_models.wav2vec2(tmp_path, "CTC")
    directory = tiny_models.exported(checkpoint, "automatic-speech-recognition")
    original = transformers.pipeline("automatic-speech-recognition", model=str(checkpoint), device="cpu")
    clip = soundfile.read(media / "float.wav", dtype="float32")[0]
    assert answer(capsys, directory, "--audio", str(media / "float.wav")) == [original(clip)]
    assert main(["run", str(directory), "--audio", str(media / "float.wav"), "--language", "de", "--top-k", "3"]) == 2
    assert "--language, --top-k can't be used with an export for automatic-speech-rec" in capsys.readouterr().err


@pytest.mark.wide
def test_a_translator_is_told_its_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    checkpoint = tiny_models.translator(tmp_path)
    directory = tiny_models.exported(checkpoint, "text2text-generation-with-past")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.src_lang = "deu_Latn"
    french = tokenizer.convert_tokens_to_ids("fra_Latn")
    expected = model.generate(**tokenizer("abc", return_tensors="pt"), **GREEDY, forced_bos_token_id=french)[0, 1:]
    languages = ("--source-language", "deu_Latn", "--target-language", "fra_Latn")
    (found,) = answer(capsys, directory, "--text", "abc", *languages, *FEW)
    assert found["tokens"] == expected.tolist()
    assert found["tokens"][0] == french
    for option in ("--source-language", "--target-language"):
        assert main(["run", str(directory), "--text", "abc", option, "fra"]) == 2
        error = capsys.readouterr().err
        assert f"{option} fra: the tokenizer has no token for this language; pass one of its 20" in error
        assert "fra_Latn" in error


def test_settings_of_the_checkpoint_are_applied(
    decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint = decoder.parent / "checkpoints" / "gpt2-causal-lm"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer("abcd", return_tensors="pt")["input_ids"]
    greedy = answer(capsys, decoder, "--prompt", "abcd")
    for number, settings in enumerate(
        ({"num_beams": 3, "max_new_tokens": 9}, {"max_length": 11, "no_repeat_ngram_size": 1, "suppress_tokens": [4]})
    ):
        directory = tmp_path / str(number)
        shutil.copytree(decoder, directory)
        config = json.loads((directory / "generation_config.json").read_text())
        (directory / "generation_config.json").write_text(json.dumps({**config, **settings}))
        expected = model.generate(ids, **settings)[0, ids.shape[1] :].tolist()
        (found,) = answer(capsys, directory, "--prompt", "abcd")
        assert found["tokens"] == [token for token in expected if token != model.generation_config.eos_token_id]
        assert [found] != greedy


def test_a_target_language_without_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tiny_models.exported(tiny_models.translator(tmp_path), "text2text-generation-with-past")
    options = ["--text", "abc", "--target-language", "fra_Latn", *FEW]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "import onnxport.runtime.generators as generators; generators.find_spec = lambda name: None\n"
        f"from onnxport.cli import main; sys.exit(main(['run', {str(directory)!r}, '--json', *{options!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == answer(capsys, directory, *options)
    for option, error in (("--source-language", "needs torch"), ("--target-language", "such as fra_Latn")):
        failed = [sys.executable, "-c", code.replace("'--target-language', 'fra_Latn'", f"'{option}', 'fra'")]
        assert error in subprocess.run(failed, capture_output=True, text=True, check=False).stderr
