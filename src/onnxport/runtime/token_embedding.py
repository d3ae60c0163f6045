"""Embed token ids for a graph that takes `inputs_embeds`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from onnxport.runtime.graph import Graph

EMBEDS = "inputs_embeds"
EMBEDDING = "embed_tokens"
"""Name of the graph."""


@dataclass(frozen=True)
class TokenEmbedding:
    """Embed token ids.

    Attributes:
        graph: the token embeddings.
        padding: id that may only follow other tokens, of a model that counts positions from token ids; in embeddings,
            it counts those of padding, too. None for other models.
    """

    graph: Graph
    padding: int | None = None

    def embed(self, input_ids: ArrayLike) -> NDArray[Any]:
        """Return the embeddings of token ids, [batch, sequence, hidden size].

        Raises:
            OptionError: padding precedes tokens, and the model counts positions from token ids.
        """
        ids = np.asarray(input_ids)
        is_padding = ids == self.padding
        if self.padding is not None and (is_padding[..., :-1] > is_padding[..., 1:]).any():
            raise OptionError(
                "input_ids have padding before tokens, whose positions the model doesn't count from inputs_embeds: put "
                "padding after the tokens"
            )
        return np.asarray(self.graph.run({"input_ids": ids})[EMBEDS].numpy())
