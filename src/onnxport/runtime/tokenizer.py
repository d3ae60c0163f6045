"""Tokenize and decode text, and apply the chat template, from the directory's own files and without Transformers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport._foreign_errors import translating
from onnxport.errors import CheckpointNotFoundError, CorruptCheckpointError, OnnxportError, UnsupportedError
from onnxport.runtime.directory import Directory
from onnxport.runtime.template_limits import limited_rendering

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Encoding

Message = dict[str, str]
"""One message of a conversation: `role` (system, user or assistant) and `content`."""


class DirectoryTokenizer:
    """Tokenize and decode with an exported directory's `tokenizer.json`.

    Args:
        directory: the exported directory.

    Raises:
        CheckpointNotFoundError: it has no `tokenizer.json`.
        CorruptCheckpointError: that file is damaged; or, later, the tokenizer fails.
    """

    def __init__(self, directory: Directory) -> None:
        from tokenizers import Tokenizer

        file = directory.path / "tokenizer.json"
        if not file.is_file():
            raise CheckpointNotFoundError(f"{directory.path} has no tokenizer.json: pass token ids instead of text")
        # tokenizers (as of 0.23) raises bare Exception for a bad file
        with translating(lambda error: CorruptCheckpointError(f"{file}: {error}; export the model again")):
            self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()  # `pad` does it
        self._directory = directory
        self._fixed_length = directory.fixed_length("input_ids")
        self._config = directory.read("tokenizer_config.json")
        self._chat_template = self._find_chat_template()

    @property
    def eos_token_id(self) -> int | None:
        """Id of the tokenizer's end-of-sequence token; None if it has none."""
        return self._special_token_id("eos_token")

    @property
    def added_tokens(self) -> list[str]:
        """Special tokens and other tokens that were added to the vocabulary."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> dict[str, NDArray[np.int64]]:
        """Tokenize texts as one batch.

        Args:
            texts: the texts.
            add_special_tokens: add the tokens that begin and end a sequence.

        Returns:
            `input_ids` and `attention_mask`, [batch, length] each, padded on the left; for a graph with a fixed number
            of tokens, padded to it on the tokenizer's side.
        """
        side = "left" if self._fixed_length is None else ""
        padded = self.pad(self._encodings(texts, add_special_tokens), side=side)
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def encode_each(self, texts: Sequence[str], max_length: int | None = None) -> list[Encoding]:
        """Tokenize texts with special tokens, each by itself.

        Args:
            texts: the texts.
            max_length: number of tokens to truncate longer texts to; None for what `tokenizer.json` says.
        """
        if max_length is not None:
            self._tokenizer.enable_truncation(max_length)
        return self._encodings(texts, True)

    def pad(self, rows: Sequence[Encoding], side: str = "") -> dict[str, NDArray[np.int64]]:
        """Make a batch of tokenized texts.

        Args:
            rows: the texts.
            side: `left` or `right`; that of `tokenizer_config.json` if it is empty.

        Returns:
            `input_ids`, `attention_mask` and `token_type_ids`, [batch, length] each; the length is at least that of a
            graph with a fixed number of tokens.
        """
        length = max(self._fixed_length or 0, *(len(row.ids) for row in rows))
        side = side or str(self._config.get("padding_side", "right"))
        found = (self._special_token_id("pad_token"), self.eos_token_id)
        pad = next((index for index in found if index is not None), 0)
        fills = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0}
        batch = {name: np.full((len(rows), length), fill, dtype=np.int64) for name, fill in fills.items()}
        for index, row in enumerate(rows):
            size = len(row.ids)
            tokens = slice(length - size, None) if side == "left" else slice(0, size)
            batch["input_ids"][index, tokens] = row.ids
            batch["attention_mask"][index, tokens] = 1
            batch["token_type_ids"][index, tokens] = row.type_ids
        return batch

    def _encodings(self, texts: Sequence[str], add_special_tokens: bool) -> list[Encoding]:
        with translating(self._failed):
            found: list[Encoding] = self._tokenizer.encode_batch_fast(
                list(texts), add_special_tokens=add_special_tokens
            )
            return found

    def decode(self, token_ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of tokens, without special tokens."""
        with translating(self._failed):
            return str(self._tokenizer.decode([int(token) for token in token_ids], skip_special_tokens=True))

    def _failed(self, error: Exception) -> CorruptCheckpointError:
        """Return the error for an exception of the tokenizer: tokenizers (as of 0.23) raises bare Exception."""
        return CorruptCheckpointError(
            f"{self._directory.path}: the tokenizer fails ({error}); save the checkpoint's tokenizer in it again"
        )

    def decode_stream(self, token_ids: Iterable[int]) -> Iterator[str]:
        """Decode tokens as they arrive: yield the new text after each, which ends at a complete character.

        Args:
            token_ids: the ids, one after another.
        """
        received: list[int] = []
        yielded = 0
        for token in token_ids:
            received.append(token)
            text = self.decode(received)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the token ends inside a character's bytes
                yield text[yielded:]
                yielded = len(text)
        yield self.decode(received)[yielded:]

    def apply_chat_template(self, messages: Sequence[Message]) -> str:
        """Return the prompt that the model continues with the next message of a conversation.

        Raises:
            UnsupportedError: the directory has no chat template, or the template rejects the conversation.
        """
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._chat_template is None:
            raise UnsupportedError(
                f"{self._directory.path} has no chat template: the model wasn't trained for conversations; use "
                "onnxport run --prompt, which continues a text"
            )
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        environment.filters["tojson"] = _to_json
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        special_tokens = {name: self._special_token(name) or "" for name in names}
        with limited_rendering(), translating(_rejected):
            prompt = environment.from_string(self._chat_template).render(
                messages=list(messages), add_generation_prompt=True, **special_tokens
            )
        return str(prompt)

    def _special_token(self, name: str) -> str | None:
        value = self._config.get(name) or self._directory.read("special_tokens_map.json").get(name)
        content = value.get("content") if isinstance(value, dict) else value
        return content if isinstance(content, str) else None

    def token_id(self, token: str) -> int | None:
        """Return the id of a token; None if the vocabulary doesn't have it."""
        index = self._tokenizer.token_to_id(token)
        return None if index is None else int(index)

    def _special_token_id(self, name: str) -> int | None:
        token = self._special_token(name)
        return self.token_id(token) if token else None

    def _find_chat_template(self) -> str | None:
        file: Path = self._directory.path / "chat_template.jinja"
        if file.is_file():
            try:
                return file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise CorruptCheckpointError(f"{file} isn't UTF-8 text ({error}); save the tokenizer again") from error
        found = self._config.get("chat_template") or self._directory.read("chat_template.json").get("chat_template")
        if isinstance(found, list):  # several templates by name
            named = {str(item.get("name")): item.get("template") for item in found if isinstance(item, dict)}
            found = named.get("default") or next(iter(named.values()), None)
        return found if isinstance(found, str) else None


def _rejected(error: Exception) -> Exception | None:
    """Return the error for an exception of a template, which may raise any; None for this package's own."""
    from jinja2 import TemplateError

    if isinstance(error, OnnxportError):
        return None
    reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    return UnsupportedError(f"the chat template rejects the conversation: {reason}")


def _raise_exception(reason: str) -> None:
    """Reject a conversation; chat templates call it `raise_exception`."""
    from jinja2 import TemplateError

    raise TemplateError(reason)


def _strftime_now(pattern: str) -> str:
    """Format the current time; chat templates call it `strftime_now`."""
    return datetime.datetime.now().strftime(pattern)


def _to_json(value: object, indent: int | None = None) -> str:
    """Return JSON that isn't escaped for HTML, unlike jinja2's own filter `tojson`."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
