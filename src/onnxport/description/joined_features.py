"""Keep the features of a batch of images in one tensor while a graph is captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from onnxport.patching.patch import Replacement
from onnxport.patching.scope import patching

if TYPE_CHECKING:
    import torch


def keeping_features_joined() -> AbstractContextManager[None]:
    """Return a context in which `split` by the values of a tensor returns one piece.

    Methods split the features by image, and their pieces are concatenated again. A captured graph would have as many
    pieces as the example: the size of the batch would be fixed.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    def lazy(tolist: Callable[[Any], Any]) -> Callable[[torch.Tensor], _LazySizes]:
        return lambda tensor: _LazySizes(tensor, tolist)

    def split_by(original: Callable[..., Any]) -> Callable[..., Any]:
        def split(tensor: torch.Tensor, split_size_or_sections: Any, dim: int = 0) -> Any:
            if isinstance(split_size_or_sections, _LazySizes) and dim == 0:
                return (tensor,)
            return original(tensor, split_size_or_sections, dim)

        return split

    return patching(
        *(Replacement(kind, "tolist", lazy(kind.tolist)) for kind in (torch.Tensor, FakeTensor, FunctionalTensor)),
        Replacement(torch.Tensor, "split", split_by(torch.Tensor.split)),
        Replacement(torch, "split", split_by(torch.split)),
    )


class _LazySizes(Sequence[Any]):
    """Hold the values of a tensor, which are read only if they are used for something other than to split features."""

    def __init__(self, tensor: torch.Tensor, tolist: Callable[[torch.Tensor], Any]) -> None:
        self._tensor, self._tolist = tensor, tolist

    @cached_property
    def _values(self) -> Any:
        return self._tolist(self._tensor)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]
