"""`onnxport run`, `inspect` and `validate` on directories that `onnxport export` wrote, from tiny seeded models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from conformance.checkpoints import make_checkpoint
from onnxport.cli import main


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
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("whisper", "speech2seq-lm-with-past", tmp_path_factory.mktemp("whisper"))


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


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_audio_is_resampled(suffix: str, whisper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / f"audio.{suffix}"
    soundfile.write(file, np.sin(np.arange(44_100) / 16) * 0.6, 44_100)
    (found,) = answer(capsys, whisper, "--audio", str(file), "--max-new-tokens", "3")
    assert len(found["tokens"]) <= 3
