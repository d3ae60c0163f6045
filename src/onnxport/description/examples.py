"""Example inputs at wanted sizes: what a description generates, stretched, filled with varied values, masked.

The generated text repeats one filler token; here it becomes random tokens, so that positions differ from each other.
Special tokens stay where the tokenizer put them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxport.description.arguments import Layout
from onnxport.description.dummy_inputs import PLACEHOLDER_TOKEN_FIELDS
from onnxport.description.signature import Signature, axis_size, solve
from onnxport.description.text_configs import text_config_of

if TYPE_CHECKING:
    import torch

    from onnxport.configs import OnnxConfig

_BATCH_SYMBOLS, _SEQUENCE_SYMBOLS = ("batch", "batch_size"), ("sequence", "encoder_sequence", "sequence_length")


@dataclass(frozen=True)
class Examples:
    """Make example inputs for one component.

    Attributes:
        config: description of the component.
        signature: its inputs, with labels.
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
            sizes: symbol to size; symbols left out keep the size that the description generates.
            padding: mask the last third of every row but the first, the first third where a past is given.

        Returns:
            Inputs with every known symbol at its wanted size.
        """
        import torch

        sizes = dict(sizes or {})
        layout = Layout(self.config, self._generate(sizes))
        signature = self.signature.for_inputs(layout.flat)
        old = solve(signature, {name: tuple(tensor.shape) for name, tensor in layout.flat.items()})
        generator = torch.Generator().manual_seed(self.seed)
        for name, tensor in layout.flat.items():
            for axis, label in signature.inputs[name].items():
                tensor = _resize(tensor, axis, axis_size(label, tensor.shape[axis], old, sizes))
            layout.flat[name] = self._randomize(name, tensor, generator)
        if padding:
            _pad(layout.flat)
        return layout

    def _generate(self, sizes: Mapping[str, int]) -> Mapping[str, Any]:
        wanted: dict[str, Any] = {}
        for parameter, symbols in (("batch_size", _BATCH_SYMBOLS), ("seq_length", _SEQUENCE_SYMBOLS)):
            size = next((sizes[symbol] for symbol in symbols if symbol in sizes), None)
            if size:
                wanted[parameter] = size
        nested = self.config.generate_dummy_inputs(self.preprocessor, framework="pt", **wanted)
        return self.config.generate_dummy_inputs_onnxruntime(nested)

    def _randomize(self, name: str, tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        import torch

        if tensor.is_floating_point():
            constant = tensor.numel() > 0 and bool((tensor == tensor.flatten()[0]).all())
            varies = constant and "mask" not in name
            return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) if varies else tensor
        if not name.endswith("input_ids"):
            return tensor
        held = self._placeholder_token_ids()
        text = tensor[~torch.isin(tensor, torch.tensor(held, dtype=tensor.dtype))]
        filler = int(text.mode().values) if text.numel() else 0
        choices = self._ordinary_tokens(filler)
        drawn = choices[torch.randint(len(choices), tensor.shape, generator=generator)]
        return torch.where(tensor == filler, drawn, tensor)

    def _placeholder_token_ids(self) -> list[int]:
        """List the placeholder tokens of images and audio."""
        whole = self.config._config
        parts = (whole, getattr(whole, "vlm_config", None))
        found = (getattr(part, name, None) for part in parts for name in PLACEHOLDER_TOKEN_FIELDS)
        return [token for token in found if isinstance(token, int)]

    def _ordinary_tokens(self, filler: int) -> torch.Tensor:
        """List tokens that mean nothing to the model: neither special to the tokenizer nor named in the config."""
        import torch

        model_config = self.config._config
        text = text_config_of(model_config, "encoder")
        sizes = (getattr(model_config, name, None) or 2**31 for name in ("vocab_size", "codebook_vocab_size"))
        limit = min(getattr(text, "vocab_size", None) or filler + 1, *sizes)
        special = {*(getattr(self.preprocessor, "all_special_ids", None) or ()), *self._placeholder_token_ids()}
        for key, value in text.to_dict().items():
            if key.endswith("_token_id"):
                special |= set(value) if isinstance(value, list) else {value}
        tokens = [token for token in range(limit) if token not in special] or [filler]
        return torch.tensor(tokens)


def _resize(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Repeat or cut a tensor along an axis: values stay among those that were there."""
    import torch

    if tensor.shape[axis] == size:
        return tensor
    return tensor.index_select(axis, torch.arange(size) % max(tensor.shape[axis], 1))


def _pad(flat: dict[str, torch.Tensor]) -> None:
    """Mask a third of every row but the first: at the end, or at the start where a past is given."""
    past = any(name.startswith("past_") for name in flat)
    for name, tensor in flat.items():
        if name.endswith("attention_mask") and tensor.dim() == 2 and tensor.shape[0] > 1:
            padded = tensor.clone()
            hidden = max(tensor.shape[1] // 3, 1)
            padded[1:, slice(0, hidden) if past else slice(-hidden, None)] = 0
            flat[name] = padded
