"""Generate text from prompts and conversations with Transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, TextStreamer

from onnxport._foreign_errors import translating
from onnxport.errors import CheckpointNotFoundError, OnnxportError, OptionError, UnsupportedError
from onnxport.runtime.generators import Generated, Prompt, Turn, Write
from onnxport.runtime.languages import Languages, language_settings, language_token_id
from onnxport.runtime.prompts import Inputs, PromptEncoder
from onnxport.runtime.torch_model import torch_model

if TYPE_CHECKING:
    from onnxport.runtime.directory import Directory


class TransformersGenerator:
    """Generate with Transformers' `generate`, which applies every setting of the checkpoint.

    Args:
        directory: the exported directory.
        languages: languages of a translation.

    Attributes:
        prompts: makes the inputs of prompts.

    Raises:
        UnsupportedError: the directory doesn't generate.
        OptionError: the tokenizer has no token for a language.
    """

    def __init__(self, directory: Directory, languages: Languages | None = None) -> None:
        self._directory = directory
        self._model: Any = torch_model(directory)
        if not self._model.can_generate():
            raise UnsupportedError(f"{directory.path} was exported for {directory.task}, which doesn't generate")
        self.prompts = PromptEncoder(directory, self._model.config)
        self._language_settings: dict[str, Any] = {}
        self._prefix = ""
        if languages is not None:
            self._language_settings, self._prefix = self._tell(languages)

    def _tell(self, languages: Languages) -> tuple[dict[str, Any], str]:
        """Set the tokenizer's source language; see `language_settings`."""
        tokenizer = self.prompts.tokenizer
        known = [*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]

        def token_id(token: str) -> int | None:
            index = tokenizer.convert_tokens_to_ids(token)
            return None if index is None or index == tokenizer.unk_token_id else int(index)

        if languages.source is not None:
            if not hasattr(tokenizer, "src_lang"):
                raise OptionError(
                    f"--source-language {languages.source}: a {type(tokenizer).__name__} takes none; leave it out"
                )
            language_token_id("--source-language", languages.source, token_id, known)
            tokenizer.src_lang = languages.source
        return language_settings(languages, token_id, known)

    @property
    def sampling_rate(self) -> int:
        """Samples per second of audio clips, in Hz; see `PromptEncoder.sampling_rate`."""
        return self.prompts.sampling_rate

    def encode(self, prompt: Prompt) -> Inputs:
        """Make the inputs of a prompt; see `PromptEncoder.encode`."""
        return self.prompts.encode(Prompt(self._prefix + prompt.text, prompt.images, prompt.audio))

    def encode_chat(self, turns: Sequence[Turn]) -> Inputs:
        """Make the inputs of a conversation; see `PromptEncoder.encode_chat`."""
        return self.prompts.encode_chat(turns)

    def generate(
        self, inputs: Mapping[str, Any], settings: Mapping[str, Any], write: Write | None = None
    ) -> list[Generated]:
        """Generate; see `Generator`. With beam search, the text is written when it is complete.

        Raises:
            OptionError: `generate` refuses a setting or an input.
        """
        options = {**self._language_settings, **settings}
        if (seed := options.pop("seed", None)) is not None:
            torch.manual_seed(seed)
        if self._model.config.is_encoder_decoder and self._model.generation_config.decoder_start_token_id is None:
            options.setdefault("decoder_start_token_id", self._directory.decoder_start_token_id)
        tensors = {name: torch.as_tensor(value) for name, value in inputs.items()}
        try:
            tokenizer = self.prompts.tokenizer
        except CheckpointNotFoundError:  # the prompt is token ids
            tokenizer = None
        config = self._model.generation_config
        if config.stop_strings and tokenizer is not None:
            options["tokenizer"] = tokenizer
        has_beams = (options.get("num_beams") or config.num_beams or 1) > 1
        is_single = (options.get("num_return_sequences") or config.num_return_sequences or 1) == 1
        streams = write is not None and tokenizer is not None and not has_beams and is_single
        start = _PromptLength()
        streamer = _Writer(tokenizer, write) if streams and write is not None else None
        with translating(self._refused):
            found = self._model.generate(
                **tensors, **options, streamer=streamer, logits_processor=LogitsProcessorList([start])
            )
        sequences = found if isinstance(found, torch.Tensor) else found.sequences
        generated = [self._decoded(row[start.length :].tolist(), tokenizer) for row in sequences]
        if write is not None and not streams:
            write("\n".join(one.text for one in generated))
        return generated

    def _decoded(self, token_ids: list[int], tokenizer: Any) -> Generated:
        ends = (i for i, index in enumerate(token_ids) if index in self._directory.eos_token_ids)
        new_ids = token_ids[: next(ends, None)]  # what follows is padding
        text = tokenizer.decode(new_ids, skip_special_tokens=True) if tokenizer is not None else ""
        return Generated(text, tuple(new_ids))

    def _refused(self, error: Exception) -> Exception | None:
        if isinstance(error, OnnxportError):
            return None
        reason = " ".join(str(error).split())[:300]
        return OptionError(f"Transformers' generate can't run {self._directory.path} with these settings: {reason}")


class _PromptLength(LogitsProcessor):  # type: ignore[misc]
    """Record the number of tokens before the first generated one; scores aren't changed."""

    def __init__(self) -> None:
        self.length = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.length = self.length or input_ids.shape[1]
        return scores


class _Writer(TextStreamer):  # type: ignore[misc]
    """Pass on generated text piece by piece."""

    def __init__(self, tokenizer: Any, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Write the new text."""
        self._write(text)
