"""Turn texts into tokens and back, and a conversation into a prompt, with nothing but the directory's own files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError
from onnxport.runtime.directory import Directory

if TYPE_CHECKING:
    from numpy.typing import NDArray

Message = dict[str, str]
"""`role` (system, user, assistant) and `content`."""


class Text:
    """Read and write a model's tokens.

    Args:
        directory: what an export wrote.

    Raises:
        CheckpointNotFoundError: it has no `tokenizer.json`.
        CorruptCheckpointError: that file is damaged.
    """

    def __init__(self, directory: Directory) -> None:
        from tokenizers import Tokenizer

        file = directory.path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointNotFoundError(f"{directory.path} has no tokenizer.json: give tokens instead of a text")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises plain Exception
            raise CorruptCheckpointError(f"{file}: {error}; export the model again") from error
        self._directory = directory
        self._settings = directory.read("tokenizer_config.json")
        self._template = self._find_template()

    @property
    def end(self) -> int | None:
        """The token that ends a text for the tokenizer, None where it has none."""
        name = self._special("eos_token")
        token = self._tokenizer.token_to_id(name) if name else None
        return None if token is None else int(token)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> dict[str, NDArray[Any]]:
        """Return `input_ids` and `attention_mask`, [texts, length], padded on the left.

        Args:
            texts: the texts.
            special: add the tokens that begin and end a text.
        """
        rows = [self._tokenizer.encode(text, add_special_tokens=special).ids for text in texts]
        length = max(map(len, rows))
        name = self._special("pad_token")
        pad = (self._tokenizer.token_to_id(name) if name else None) or self.end or 0
        ids = np.array([[pad] * (length - len(row)) + row for row in rows], dtype=np.int64)
        mask = np.array([[0] * (length - len(row)) + [1] * len(row) for row in rows], dtype=np.int64)
        return {"input_ids": ids, "attention_mask": mask}

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without the special ones."""
        return str(self._tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    def prompt(self, messages: Sequence[Message]) -> str:
        """Return the prompt that asks for the next message of a conversation.

        Raises:
            UnsupportedError: the directory has no chat template, or it refuses the conversation.
        """
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._template is None:
            raise UnsupportedError(
                f"{self._directory.path} has no chat template: the model wasn't made for conversations; onnxport run "
                "continues a text"
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _now
        environment.filters["tojson"] = _as_json
        special = {name: self._special(name) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        try:
            made = environment.from_string(self._template).render(
                messages=list(messages), add_generation_prompt=True, **special
            )
        except TemplateError as error:
            raise UnsupportedError(f"the chat template refuses the conversation: {error}") from error
        return str(made)

    def _special(self, name: str) -> str | None:
        value = self._settings.get(name) or self._directory.read("special_tokens_map.json").get(name)
        return value.get("content") if isinstance(value, dict) else value

    def _find_template(self) -> str | None:
        file: Path = self._directory.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        found = self._settings.get("chat_template") or self._directory.read("chat_template.json").get("chat_template")
        if isinstance(found, list):  # several by name
            named = {item.get("name"): item.get("template") for item in found}
            return named.get("default") or next(iter(named.values()), None)
        return found


def _refuse(reason: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(reason)


def _now(form: str) -> str:
    import datetime

    return datetime.datetime.now().strftime(form)


def _as_json(value: Any, indent: int | None = None) -> str:
    import json

    return json.dumps(value, ensure_ascii=False, indent=indent)


class Printer:
    """Give a text piece by piece while its tokens come in, never half a character.

    Args:
        text: decodes the tokens.
    """

    def __init__(self, text: Text) -> None:
        self._text = text
        self._tokens: list[int] = []
        self._given = 0

    def add(self, token: int) -> str:
        """Take a token; return what can be shown of the text that hasn't been."""
        self._tokens.append(token)
        known = self._text.decode(self._tokens)
        if known.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        piece, self._given = known[self._given :], len(known)
        return piece

    def rest(self) -> str:
        """Return what hasn't been shown."""
        return self._text.decode(self._tokens)[self._given :]
