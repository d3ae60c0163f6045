"""What a forward stores on its modules is restored."""

from __future__ import annotations

import pytest
import torch

from onnxport.patching.module_state import preserving_state


class Caching(torch.nn.Module):
    """Store attributes, a buffer and entries of containers in forward, as models of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.window_size, self.sizes, self.bias_by_device = 7, [1], {"cpu": 0}
        self._embed: torch.Tensor | None = None
        self.register_buffer("inv_freq", torch.ones(2))
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, size: int) -> None:
        """Store what a run with an image of a size needs."""
        self.window_size, self.longest = min(self.window_size, size), size
        self.sizes.append(size)
        self.bias_by_device["meta"] = size
        self.inv_freq = self._embed = torch.zeros(3)


def test_attributes_buffers_and_containers_are_restored() -> None:
    model = torch.nn.Sequential(Caching())
    module = model[0]
    sizes, biases = module.sizes, module.bias_by_device
    with preserving_state(model):
        model(2)
        assert module.window_size == 2
    assert (module.window_size, module.sizes, module.bias_by_device) == (7, [1], {"cpu": 0})
    assert module.sizes is sizes and module.bias_by_device is biases
    assert not hasattr(module, "longest")
    assert module.inv_freq.tolist() == [1, 1] and module._embed is None


def test_an_error_restores_them_too() -> None:
    module = Caching()
    with pytest.raises(RuntimeError), preserving_state(module):
        module(2)
        raise RuntimeError
    assert module.window_size == 7


def test_a_run_that_changes_parameters_keeps_what_says_so() -> None:
    module = Caching()
    with preserving_state(module):
        module(2)
        with torch.no_grad():
            module.weight.div_(2)
    assert module.window_size == 2


def test_parameters_of_inference_mode_have_no_version() -> None:
    with torch.inference_mode():
        module = Caching()
    with preserving_state(module):
        module.window_size = 2
    assert module.window_size == 7


def test_hooks_and_what_says_that_they_are_installed_stay() -> None:
    module = Caching()
    with preserving_state(module):
        module.register_forward_hook(lambda *_: None)
        module._output_capturing_hooks_installed = True
    assert len(module._forward_hooks) == 1 and module._output_capturing_hooks_installed
