"""Example inputs at requested sizes: a description's dummy inputs, resized, filled with random values, padded.

Dummy token ids repeat one filler token; it is replaced with random tokens, so that values differ by position. Special
tokens keep their positions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from onnxport.description.arguments import Layout
from onnxport.description.axes import PADDING_MASKS, PATCH_AXES
from onnxport.description.dummy_inputs import PLACEHOLDER_TOKEN_FIELDS, replaced_token_id
from onnxport.description.signature import Signature, axis_size, sizes_of
from onnxport.description.text_configs import text_config_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

    from onnxport.configs import OnnxConfig

_BATCH_SYMBOLS, _SEQUENCE_SYMBOLS = ("batch", "batch_size"), ("sequence", "encoder_sequence", "sequence_length")


@dataclass(frozen=True)
class Examples:
    """Make example inputs for one component.

    Attributes:
        config: description of the component.
        signature: its inputs, with labelled axes.
        preprocessor: tokenizer, processor, image processor or feature extractor.
        seed: seed of the random values.
    """

    config: OnnxConfig
    signature: Signature
    preprocessor: Any
    seed: int = 0

    def at(self, sizes: Mapping[str, int] | None = None, *, padding: bool = False) -> Layout:
        """Generate inputs.

        Args:
            sizes: symbol to size; other symbols keep the size of the dummy inputs. The rows and columns of patches
                follow the size of images.
            padding: mask a third of every sequence but the first, unless it is the only one: its end, or its start if
                there is a past.

        Returns:
            Inputs with every known symbol at its requested size.
        """
        import torch

        sizes = dict(sizes or {})
        layout = Layout(self.config, self._generate(sizes))
        signature = self.signature.for_inputs(layout.flat)
        old = sizes_of(signature, layout.flat)
        for patches, pixels in PATCH_AXES.items():
            if patches in old and pixels in sizes:
                sizes[patches] = sizes[pixels] * old[patches] // old[pixels]
        generator = torch.Generator().manual_seed(self.seed)
        for name, tensor in layout.flat.items():
            for axis, label in signature.inputs[name].items():
                tensor = _resize(tensor, axis, axis_size(label, tensor.shape[axis], old, sizes))
            layout.flat[name] = self._randomize(name, tensor, generator)
        if padding:
            _pad(layout.flat)
        return layout

    def _generate(self, sizes: Mapping[str, int]) -> Mapping[str, Any]:
        arguments: dict[str, Any] = {}
        for parameter, symbols in (("batch_size", _BATCH_SYMBOLS), ("seq_length", _SEQUENCE_SYMBOLS)):
            size = next((sizes[symbol] for symbol in symbols if symbol in sizes), None)
            if size:
                arguments[parameter] = size
        nested = self.config.generate_dummy_inputs(self.preprocessor, framework="pt", **arguments)
        return self.config.generate_dummy_inputs_onnxruntime(nested)

    def _randomize(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        if tensor.is_floating_point():
            constant = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
            is_filler = constant and "mask" not in name
            return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) if is_filler else tensor
        if not name.endswith("input_ids") or replaced_token_id(self.config._config, name) is not None:
            return tensor  # the latter are codes of an audio tokenizer
        placeholders = self._placeholder_token_ids()
        text = tensor[~torch.isin(tensor, torch.tensor(placeholders, dtype=tensor.dtype))]
        filler = int(text.mode().values) if text.numel() else 0
        vocabulary = self._ordinary_tokens(name, filler)
        sampled = vocabulary[torch.randint(len(vocabulary), tensor.shape, generator=generator)]
        return torch.where(tensor == filler, sampled, tensor)

    def _placeholder_token_ids(self) -> list[int]:
        """Return the ids of the placeholder tokens of images and audio."""
        config = self.config._config
        replaced = (replaced_token_id(config, name) for name in self.signature.inputs)
        return [*_placeholders(config), *(token_id for token_id in replaced if isinstance(token_id, int))]

    def _ordinary_tokens(self, name: str, filler: int) -> torch.Tensor:
        """Return the ids of ordinary tokens; the filler if there are none."""
        import torch

        part: Literal["encoder", "decoder"] = "decoder" if name.startswith("decoder_") else "encoder"
        special = {*(getattr(self.preprocessor, "all_special_ids", None) or ()), *self._placeholder_token_ids()}
        return torch.tensor(ordinary_tokens(self.config._config, special, part, filler + 1) or [filler])


def ordinary_tokens(
    config: PreTrainedConfig,
    special: Collection[int],
    part: Literal["encoder", "decoder"] = "encoder",
    count: int = 0,
) -> list[int]:
    """Return the ids of a model's vocabulary without special tokens, placeholders, and `*_token_id` in its config.

    Args:
        config: the model's configuration.
        special: ids of special tokens.
        part: whose vocabulary, if an encoder and a decoder have their own.
        count: size of the vocabulary of a configuration that doesn't say it.
    """
    text = text_config_of(config, part)
    sizes = (getattr(config, name, None) or 2**31 for name in ("vocab_size", "codebook_vocab_size"))
    left_out = {*special, *_placeholders(config)}
    for key, value in text.to_dict().items():
        if key.endswith("_token_id"):
            left_out |= set(value) if isinstance(value, list) else {value}
    return [token for token in range(min(getattr(text, "vocab_size", None) or count, *sizes)) if token not in left_out]


def _placeholders(config: PreTrainedConfig) -> list[int]:
    configs = (config, getattr(config, "vlm_config", None))
    token_ids = (getattr(part, name, None) for part in configs for name in PLACEHOLDER_TOKEN_FIELDS)
    return [token_id for token_id in token_ids if isinstance(token_id, int)]


def _resize(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Resize an axis by repeating or truncating it, so that every value is one of the original values."""
    import torch

    if tensor.shape[axis] == size:
        return tensor
    return tensor.index_select(axis, torch.arange(size) % max(tensor.shape[axis], 1))


def _pad(flat: dict[str, torch.Tensor]) -> None:
    """Mask a third of every sequence but the first of several: its end (right padding), or its start with a past."""
    past = any(name.startswith("past_") for name in flat)
    for name, tensor in flat.items():
        if name.endswith("attention_mask") and tensor.dim() == 2 and tensor.shape[1] > 1:
            padded = tensor.clone()
            count = max(tensor.shape[1] // 3, 1)
            padded[min(len(padded) - 1, 1) :, slice(0, count) if past else slice(-count, None)] = 0
            flat[name] = padded
    mask = flat.get("attention_mask")
    for name in (name for name in PADDING_MASKS if name in flat):
        if mask is not None and flat[name].shape == mask.shape:  # else padding of equal scores is an answer (XLM)
            flat[name] = (1 - mask).to(flat[name].dtype)
