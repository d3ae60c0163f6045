"""Choose the next token from logits: greedy decoding, or sampling, with the settings of Transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np

from onnxport.checkpoint.typed_values import field_of, typed
from onnxport.errors import OptionError
from onnxport.runtime import logits as processors

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DEFAULT_NEW_TOKENS = 256
_PARTS = ("decoder", "generator", "text_config")
"""Parts of a configuration that have a decoder's settings, in checkpoints without `generation_config.json`."""


@dataclass(frozen=True)
class GenerationSettings:
    """Choose how tokens are generated; names and meanings are those of Transformers' `GenerationConfig`.

    Attributes:
        max_new_tokens: maximum number of tokens to generate; None for that of `max_length`.
        max_length: maximum number of tokens with the prompt, if `max_new_tokens` is None; 256 new ones if both are.
        min_new_tokens: minimum number of tokens to generate; None for that of `min_length`.
        min_length: minimum number of tokens with the prompt.
        do_sample: sample from the distribution; greedy decoding otherwise.
        temperature: divisor of the logits before the softmax.
        top_k: number of most probable tokens to sample from, 0 for all.
        top_p: nucleus sampling: sample from the smallest set of tokens whose probabilities add up to this or more.
        min_p: sample from tokens with at least this share of the probability of the most probable one.
        repetition_penalty: divisor of the logits of tokens that occurred before (a factor if they are negative).
        no_repeat_ngram_size: size of n-grams that may occur once only, 0 for none.
        bad_words_ids: sequences of token ids that may not occur.
        suppress_tokens: ids of tokens that may not occur.
        begin_suppress_tokens: ids of tokens that may not be the first.
        forced_bos_token_id: id of the first token after the start token of an encoder-decoder, such as a translator's
            target language.
        forced_eos_token_id: ids of the token that is generated last if `max_length` is reached.
        seed: random seed.
        eos_token_ids: ids of the tokens that end a sequence.
        pad_token_id: id of the token that follows the end of a sequence.

    Raises:
        OptionError: a value is out of range.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] = ()
    seed: int | None = None
    eos_token_ids: frozenset[int] = frozenset()
    pad_token_id: int = 0

    def __post_init__(self) -> None:
        valid = {
            "max_new_tokens": self.max_new_tokens is None or self.max_new_tokens >= 1,
            "temperature": self.temperature > 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": self.repetition_penalty > 0,
            "no_repeat_ngram_size": self.no_repeat_ngram_size >= 0,
        }
        for name, is_valid in valid.items():
            if not is_valid:
                raise OptionError(f"{name} {getattr(self, name)!r} is out of range: {_RANGES[name]}")

    @classmethod
    def from_defaults(cls, defaults: Mapping[str, Any], overrides: Mapping[str, Any]) -> GenerationSettings:
        """Build the settings from a generation config and overrides.

        Args:
            defaults: contents of `generation_config.json`; `unsupported` has the names that have no effect here.
            overrides: values that replace the defaults, except None.

        Raises:
            OptionError: a name in `overrides` isn't supported, or a value has another type or is out of range.
        """
        supported = {field.name for field in fields(cls)} - {"eos_token_ids", "pad_token_id"}
        unknown = sorted(set(overrides) - {*supported, "eos_token_id", "pad_token_id"})
        if unknown:
            raise OptionError(
                f"{', '.join(unknown)}: generation without torch supports {', '.join(sorted(supported))}; install "
                "onnxport[export] for everything that Transformers' generate supports"
            )
        merged = {**defaults, **{name: value for name, value in overrides.items() if value is not None}}
        if overrides.get("max_length") is not None and overrides.get("max_new_tokens") is None:
            merged["max_new_tokens"] = None
        # A checkpoint for greedy decoding may have values that sampling rejects, such as a temperature of 0.
        unused = set() if merged.get("do_sample") else _FOR_SAMPLING - overrides.keys()
        values = {name: merged[name] for name in supported - unused if merged.get(name) is not None}
        values |= {name: _listed(values[name]) for name in _TOKEN_LISTS if name in values}
        hints = get_type_hints(cls)
        try:
            values = {name: typed(value, hints[name], name) for name, value in values.items()}
            eos_ids = frozenset(typed(_listed(merged.get("eos_token_id")), list[int], "eos_token_id"))
            pad = field_of(merged, "pad_token_id", int)
        except ValueError as error:
            raise OptionError(f"{error}; correct generation_config.json, or pass another value") from error
        return cls(**values, eos_token_ids=eos_ids, pad_token_id=pad if pad is not None else min(eos_ids, default=0))

    def last_length(self, prompt_length: int) -> int:
        """Return the maximum number of tokens of a sequence, prompt included.

        Raises:
            OptionError: `max_length` leaves no room for a token after the prompt.
        """
        if self.max_new_tokens is not None:
            return prompt_length + self.max_new_tokens
        if self.max_length is None:
            return prompt_length + _DEFAULT_NEW_TOKENS
        if self.max_length <= prompt_length:
            raise OptionError(
                f"max_length is {self.max_length}, and the prompt has {prompt_length} tokens: pass max_new_tokens, the "
                "number of tokens after the prompt (--max-new-tokens)"
            )
        return self.max_length

    def first_end(self, prompt_length: int) -> int:
        """Return the number of tokens, prompt included, before which no sequence may end."""
        return self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens


def directory_settings(generation_config: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's generation settings: its generation config or, without one, those in its configuration.

    Args:
        generation_config: contents of `generation_config.json`, empty if there is no such file.
        config: contents of `config.json`.
    """
    if generation_config:
        return dict(generation_config)
    parts = (config.get(name) for name in _PARTS)
    part: Mapping[str, Any] = next((part for part in parts if part and isinstance(part, Mapping)), {})
    return {**part, **config}


def unsupported(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings that change what Transformers' `generate` returns and that have no effect here.

    Args:
        settings: contents of `generation_config.json`.

    Returns:
        `name=value` for each, sorted.
    """
    neutral = {**_NEUTRAL, **(_NEUTRAL_FOR_SAMPLING if settings.get("do_sample") else {})}
    return sorted(
        f"{name}={settings[name]!r}"
        for name, value in neutral.items()
        if settings.get(name) is not None and settings[name] != value
    )


_NEUTRAL: dict[str, object] = {
    **{"num_beams": 1, "num_return_sequences": 1, "encoder_repetition_penalty": 1.0},
    **{"encoder_no_repeat_ngram_size": 0, "sequence_bias": None, "guidance_scale": 1, "stop_strings": None},
    **{"max_time": None, "exponential_decay_length_penalty": None, "remove_invalid_values": False},
    **{"watermarking_config": None, "token_healing": False, "penalty_alpha": None, "dola_layers": None},
    **{"constraints": None, "force_words_ids": None},
}
"""Settings of Transformers' `generate` that aren't supported here, to the value that has no effect."""
_NEUTRAL_FOR_SAMPLING: dict[str, object] = {
    **{"typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None},
}
"""Those that only have an effect if tokens are sampled."""
_FOR_SAMPLING = {"temperature", "top_k", "top_p", "min_p"}
"""Settings that greedy decoding doesn't read."""
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id")
_RANGES = {
    "max_new_tokens": "1 or more",
    "temperature": "more than 0",
    "top_k": "0 or more",
    "top_p": "more than 0, at most 1",
    "min_p": "0 to 1",
    "repetition_penalty": "more than 0",
    "no_repeat_ngram_size": "0 or more",
}


def _listed(value: object) -> list[object]:
    """Return one value, several or none as a list."""
    return [item for item in (value if isinstance(value, list | tuple) else [value]) if item is not None]


class TokenSampler:
    """Choose the next token of each sequence of a batch, step by step.

    Args:
        settings: greedy decoding or sampling, and when a sequence ends.
        prompt: ids of the tokens before the first step, [batch, length].
        mask: 0 for padding, [batch, length]; None if the prompt has none.

    Attributes:
        token_ids: ids of all tokens, those of the prompt included, [batch, length].

    Raises:
        OptionError: `max_length` leaves no room for a token after the prompt.
    """

    def __init__(self, settings: GenerationSettings, prompt: NDArray[Any], mask: NDArray[Any] | None = None) -> None:
        self._settings = settings
        self._random = np.random.default_rng(settings.seed)
        self.token_ids = prompt
        self._start = prompt.shape[1]
        self._padding = np.zeros(len(prompt), dtype=np.int64) if mask is None else (mask != 0).argmax(axis=1)
        self._finished = np.zeros(len(prompt), dtype=bool)
        self._last_length = settings.last_length(self._start)

    @property
    def finished(self) -> bool:
        """Whether every sequence has ended."""
        return bool(self._finished.all()) or self.token_ids.shape[1] >= self._last_length

    def next_tokens(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the ids of the next tokens, [batch], from the logits of the last position, [batch, vocabulary]."""
        settings = self._settings
        scores = self.process(logits.astype(np.float32))
        chosen = self._sample(scores) if settings.do_sample else scores.argmax(axis=-1)
        tokens = np.where(self._finished, settings.pad_token_id, chosen).astype(np.int64)
        self._finished |= np.isin(tokens, list(settings.eos_token_ids))
        self.token_ids = np.concatenate([self.token_ids, tokens[:, None]], axis=1)
        return tokens

    def process(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Apply the settings to the scores of the next token, [batch, vocabulary], in the order of Transformers."""
        settings, token_ids = self._settings, self.token_ids
        length = token_ids.shape[1]
        if settings.repetition_penalty != 1:
            scores = processors.penalize_repetition(scores, token_ids, settings.repetition_penalty, self._padding)
        if settings.no_repeat_ngram_size:
            scores = processors.forbid_repeated_ngrams(scores, token_ids, settings.no_repeat_ngram_size)
        if settings.bad_words_ids:
            ends = {(index,) for index in settings.eos_token_ids}
            scores = processors.forbid_sequences(scores, token_ids, set(settings.bad_words_ids) - ends)
        if length < settings.first_end(self._start):
            scores = processors.forbid(scores, settings.eos_token_ids)
        if settings.forced_bos_token_id is not None and length == 1:
            scores = processors.force(scores, (settings.forced_bos_token_id,))
        if settings.forced_eos_token_id and length == self._last_length - 1:
            scores = processors.force(scores, settings.forced_eos_token_id)
        if settings.suppress_tokens:
            scores = processors.forbid(scores, settings.suppress_tokens)
        forced = int(self._start == 1 and settings.forced_bos_token_id is not None)
        if settings.begin_suppress_tokens and length == self._start + forced:
            scores = processors.forbid(scores, settings.begin_suppress_tokens)
        return scores

    def _sample(self, scores: NDArray[Any]) -> NDArray[Any]:
        settings = self._settings
        scores = scores / settings.temperature
        weights = processors.probabilities(scores, settings.top_k, settings.top_p, settings.min_p)
        cumulative = weights.cumsum(axis=-1)
        points = self._random.random((len(weights), 1)) * cumulative[:, -1:]
        return np.asarray((cumulative <= points).sum(axis=-1).clip(max=weights.shape[1] - 1))


TokenSteps = Iterator["NDArray[Any]"]
"""Iterator over the token ids of each step, [batch]."""
