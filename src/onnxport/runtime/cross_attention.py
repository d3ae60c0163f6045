"""The inputs of cross-attention to image embeddings (Mllama): the embeddings once, and their mask in each step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxport.errors import OptionError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxport.runtime.graph import Graph

STATES, MASK = "cross_attention_states", "cross_attention_mask"


def cross_attention_inputs(graph: Graph, feed: Mapping[str, Any], cached: int, past: int) -> dict[str, NDArray[Any]]:
    """Return the embeddings and the mask of one step.

    Args:
        graph: the decoder; the result is empty if it has no cross-attention.
        feed: `inputs_embeds`; in the first step, `cross_attention_states` if there are images; and
            `cross_attention_mask` [batch, tokens of the prompt, images, tiles], 1 for tiles that a token attends to;
            by default, every token attends to all of them.
        cached: number of embeddings in the cache.
        past: number of tokens in the cache.

    Raises:
        OptionError: the mask doesn't fit the number of tiles.
    """
    if STATES not in graph.inputs:
        return {}
    batch, sequence, size = feed["inputs_embeds"].shape
    embeddings = feed.get(STATES)
    if embeddings is None:
        embeddings = np.zeros((batch, 0, size), graph.inputs[STATES].dtype)
    count = cached + embeddings.shape[1]
    visible = feed.get(MASK)
    if visible is None or not count:
        mask = np.ones((batch, sequence, count), dtype=np.int64)
    else:
        tiles = np.asarray(visible).reshape(*visible.shape[:2], -1)
        if count % tiles.shape[2]:
            raise OptionError(
                f"{MASK} has {tiles.shape[2]} tiles, but the encoder returned {count} embeddings; build both with "
                "the same processor"
            )
        positions = np.minimum(
            np.arange(past, past + sequence), tiles.shape[1] - 1
        )  # generated tokens: as the prompt's last
        mask = np.repeat(tiles[:, positions], count // tiles.shape[2], axis=2)
    return {STATES: embeddings, MASK: mask}
