"""How the rows that encoders return get into a decoder: data, which the manifest keeps for whoever runs the graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from onnxport.description.components import MODALITY_ENCODERS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Merge = Literal["replace", "prefix", "add", "cross-attention"]
MAIN_INPUTS = (
    *("pixel_values", "input_features", "image_pixel_values", "audio_input_features", "audio_input_ids"),
    "flattened_patches",
)
"""Inputs that are the images or the audio, not masks or sizes of them."""


@dataclass(frozen=True)
class Modality:
    """Describe how the rows that one encoder returns get into the decoder.

    Attributes:
        name: `image` or `audio`.
        component: name of the encoder's graph.
        input: its main input: the encoder runs where that is given.
        output: its rows, [rows, hidden size] or [batch, rows, hidden size].
        merge: `replace`: the rows replace the embeddings of placeholder tokens, in order; `prefix`: they come before
            the embeddings of the prompt; `add`: a row is added to each embedding; `cross-attention`: layers attend to
            them.
        placeholder_token_id: the token that the rows replace; None where there is none, or the configuration lacks it.
        deepstack_output: rows that some of the decoder's layers add at the same positions, [layers, rows, hidden size];
            empty where there are none.
        output_with_images: output to read in place of `output` where images are given, too; empty for none.
        max_length: longest main input, along its second axis, that the graph was exported for; None for any.
    """

    name: str
    component: str
    input: str
    output: str
    merge: Merge = "replace"
    placeholder_token_id: int | None = None
    deepstack_output: str = ""
    output_with_images: str = ""
    max_length: int | None = None


@dataclass(frozen=True)
class Interface:
    """Name the inputs and outputs of a graph."""

    inputs: Collection[str]
    outputs: Collection[str]


def modalities_of(config: PreTrainedConfig, graphs: Mapping[str, Interface]) -> tuple[Modality, ...]:
    """Describe the modalities of an export as its configuration and the names in its graphs tell.

    Args:
        config: the model's configuration.
        graphs: component name to its inputs and outputs.
    """
    found = []
    for component, part in MODALITY_ENCODERS.items():
        if component not in graphs:
            continue
        graph = graphs[component]
        others = (name for name in graph.outputs if name.startswith(f"{part.output}_"))
        found.append(
            Modality(
                component.removesuffix("_encoder").replace("vision", "image"),
                component,
                next((name for name in MAIN_INPUTS if name in graph.inputs), part.input),
                part.output,
                placeholder_token_id=placeholder_token_id(config, part.token),
                deepstack_output=next((name for name in _DEEPSTACK if name in graph.outputs), ""),
                output_with_images=next(others, ""),
            )
        )
    return tuple(found)


_DEEPSTACK = ("deepstack_features",)


def completed_modalities(modalities: tuple[Modality, ...], config: PreTrainedConfig) -> tuple[Modality, ...]:
    """Fill in placeholder tokens that `config.json` leaves to the configuration's class.

    Args:
        modalities: as the manifest has them.
        config: the model's configuration.
    """
    return tuple(
        modality
        if modality.placeholder_token_id is not None
        else replace(
            modality, placeholder_token_id=placeholder_token_id(config, MODALITY_ENCODERS[modality.component].token)
        )
        for modality in modalities
    )


def placeholder_token_id(config: PreTrainedConfig, name: str) -> int | None:
    """Return the id of a placeholder token: from the model's configuration, or from that of its encoder.

    Args:
        config: the model's configuration.
        name: `image_token_id` or `audio_token_id`.
    """
    names = (name, name.replace("_id", "_index"))  # some configurations spell it so
    encoder_config = getattr(config, {"image_token_id": "vision_config", "audio_token_id": "audio_config"}[name], None)
    fields = [(part, spelled) for part in (config, encoder_config) for spelled in names]
    fields += [(config, spelled.replace("image", "video")) for spelled in names]  # InstructBLIP for videos
    token = next((getattr(part, spelled) for part, spelled in fields if hasattr(part, spelled)), None)
    return None if token is None else int(token)
