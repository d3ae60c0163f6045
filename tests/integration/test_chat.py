"""`onnxport chat` on a tiny exported GPT-2 that has a chat template."""

from __future__ import annotations

import io
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport.cli import main
from onnxport.runtime.light import LightModel
from tests.integration import tiny_models

TEMPLATE = (
    "{% for message in messages %}{{ message.role[0] }} {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}a {% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export a model that never generates the end-of-sequence token."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    parent = tmp_path_factory.mktemp("chat")
    checkpoint = parent / "checkpoint"
    config = GPT2Config(
        vocab_size=64, n_positions=20_000, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    randomize(model)
    model.save_pretrained(checkpoint)
    make_tokenizer("gpt2", 64, 0, "<|endoftext|>").save_pretrained(checkpoint)
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    onnxport.export(checkpoint, parent / "exported", ExportOptions(validate="none"))
    return parent / "exported"


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Record the prompt token ids of each answer."""
    seen: list[list[int]] = []
    stream = LightModel.stream

    def recorded(self: LightModel, inputs: Any, **settings: Any) -> Any:
        seen.append(inputs["input_ids"][0].tolist())
        return stream(self, inputs, **settings)

    monkeypatch.setattr(LightModel, "stream", recorded)
    return seen


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def tokens(directory: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    return list(AutoTokenizer.from_pretrained(directory)(text, add_special_tokens=False)["input_ids"])


def test_a_conversation(
    directory: Path, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "hi", "", "more", "/new", "hi")
    assert main(["chat", str(directory), "--system", "be", "--max-new-tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, _, again = captured.out.splitlines()
    assert first == again != ""
    texts = ["s be u hi a ", f"s be u hi a {first} u more a ", "s be u hi a "]
    assert prompts == [tokens(directory, text) for text in texts]


def test_an_answer_is_streamed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces: list[str] = []
    write = sys.stdout.write
    monkeypatch.setattr(sys.stdout, "write", lambda text: pieces.append(text) or write(text))
    say(monkeypatch, "hi")
    assert main(["chat", str(directory), "--max-new-tokens", "6"]) == 0
    assert len([piece for piece in pieces if piece.strip()]) > 2
    assert "".join(pieces) == capsys.readouterr().out


def test_errors_of_directories_that_cannot_chat(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(directory, plain, ignore=shutil.ignore_patterns("chat_template*"))
    assert main(["chat", str(plain)]) == 1
    assert "has no chat template: the model wasn't trained for conversations" in capsys.readouterr().err
    (plain / "chat_template.jinja").write_text("{{ raise_exception('no users here') }}")
    assert main(["chat", str(plain)]) == 1
    assert "rejects the conversation: no users here" in capsys.readouterr().err
    (plain / "tokenizer.json").unlink()
    assert main(["chat", str(plain)]) == 1
    assert "has no files that AutoTokenizer loads" in capsys.readouterr().err
    (plain / "tokenizer_config.json").unlink()
    assert main(["chat", str(plain)]) == 1
    assert "has no tokenizer.json" in capsys.readouterr().err
    checkpoint = make_checkpoint("gpt2", "sequence-classification", tmp_path)
    onnxport.export(checkpoint, tmp_path / "classifier", ExportOptions(validate="none"))
    assert main(["chat", str(tmp_path / "classifier")]) == 1
    assert "exported for text-classification: onnxport chat needs a decoder" in capsys.readouterr().err


class Terminal:
    """Run the command on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "onnxport", "chat", *arguments]
        self.fd, other = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, start_new_session=True, close_fds=True,
            preexec_fn=_make_controlling_terminal,
        )  # fmt: skip
        os.close(other)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text is printed, and discard the output up to its end."""
        self._read_until(lambda: text in self.shown)
        self.shown = self.shown.split(text, 1)[1]

    def wait_for_output(self) -> None:
        """Read until something is printed."""
        self._read_until(lambda: len(self.shown.strip()) > 5)

    def _read_until(self, enough: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not enough():
            assert time.monotonic() < end, f"only {self.shown!r} was shown"
            if select.select([self.fd], [], [], 0.1)[0]:
                self.shown += os.read(self.fd, 4096).decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)


def _make_controlling_terminal() -> None:
    """Make the pseudo-terminal the controlling terminal of the process."""
    import fcntl
    import signal
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell sets it to be ignored for background jobs
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_ctrl_c_stops_an_answer_and_ctrl_d_ends_the_conversation(directory: Path) -> None:
    terminal = Terminal(str(directory), "--max-new-tokens", "19000")
    try:
        terminal.wait_for("Ctrl-C stops an answer")
        terminal.wait_for("> ")
        for _ in range(2):
            terminal.type("hi\n")
            terminal.wait_for("hi")
            terminal.wait_for_output()
            terminal.type("\x03")
            terminal.wait_for("[stopped]")
            terminal.wait_for("> ")
        terminal.type("/image a.png\n")
        terminal.wait_for("/image: the model takes text only")  # an error doesn't end the conversation
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


@pytest.fixture(scope="module")
def with_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("images")
    tiny_models.image().save(parent / "a.png")
    checkpoint = tiny_models.image_text_model(parent, "Llava")
    return tiny_models.exported(checkpoint, "image-text-to-text-with-past")


def test_a_conversation_about_images(
    with_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import transformers

    image = tiny_models.image()
    say(monkeypatch, f"/image {with_images.parent / 'a.png'}", "what", "and now", "/new", "what")
    assert main(["chat", str(with_images), "--max-new-tokens", "6", "--greedy"]) == 0
    answers = capsys.readouterr().out.splitlines()
    checkpoint = with_images.parent / "image_text_model-Llava"
    original = transformers.pipeline("image-text-to-text", model=str(checkpoint), device="cpu")
    with_image = [{"type": "image", "image": image}, {"type": "text", "text": "what"}]
    turns: list[dict[str, Any]] = []
    for content, found in zip((with_image, [{"type": "text", "text": "and now"}]), answers, strict=False):
        turns.append({"role": "user", "content": content})
        kwargs = {"max_new_tokens": 6, "do_sample": False}
        (expected,) = original(text=list(turns), generate_kwargs=kwargs, return_full_text=False)
        assert found == expected["generated_text"].strip()
        turns.append({"role": "assistant", "content": [{"type": "text", "text": found}]})
    assert answers[2] != answers[0]  # the image belongs to the conversation that ended


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/image none.png", "none.png: No such file"),
        ("/image", "/image needs a file: /image FILE"),
        ("/audio a.wav", "/audio: the model takes /image"),
    ],
)
def test_files_that_cannot_be_added(
    line: str, error: str, with_images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, line, "what")
    assert main(["chat", str(with_images)]) == 2
    assert error in capsys.readouterr().err


def test_a_text_decoder_takes_no_files(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, "/image a.png")
    assert main(["chat", str(directory)]) == 2
    assert "/image: the model takes text only" in capsys.readouterr().err


def test_settings_that_need_transformers_are_applied(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "beams"
    shutil.copytree(directory, copy)
    (copy / "generation_config.json").write_text('{"num_beams": 3, "pad_token_id": 0}')
    say(monkeypatch, "hi")
    assert main(["chat", str(copy), "--max-new-tokens", "6"]) == 0
    import torch

    model = onnxport.load(copy)
    ids = torch.tensor([tokens(directory, "u hi a ")])
    new_ids = model.generate(ids, max_new_tokens=6, num_beams=3)[0, ids.shape[1] :]
    captured = capsys.readouterr()
    assert captured.err == ""
    assert tokens(directory, captured.out.strip()) == [index for index in new_ids.tolist() if index > 2]
