"""How a decoder takes the embeddings that encoders return: data in the manifest for any runtime of the graphs."""

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
    *("flattened_patches", "input_values"),
)
"""Inputs with the images or audio themselves, not their masks or sizes."""


@dataclass(frozen=True)
class Modality:
    """Describe how the decoder takes the embeddings that one encoder returns.

    Attributes:
        name: `image` or `audio`.
        component: name of the encoder's graph.
        input: its main input; the encoder runs only if this input is present.
        output: its embeddings, [embeddings, hidden_size] or [batch, embeddings, hidden_size].
        merge: `replace`: they replace the embeddings of placeholder tokens, in order; `prefix`: they are prepended to
            the embeddings of the prompt; `add`: one is added to each token embedding; `cross-attention`: the decoder
            attends to them.
        placeholder_token_id: id of the token that they replace; None if there is none, or the configuration omits it.
        deepstack_output: embeddings that some decoder layers add at the same positions, [layers, embeddings,
            hidden_size]; empty if there are none.
        output_with_images: output to use instead of `output` if there are images as well; empty if there is none.
        max_length: maximum length of the main input's second axis in the exported graph; None for any.
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
    """Return the modalities of an export, from its configuration and the input and output names of its graphs.

    Args:
        config: the model's configuration.
        graphs: component name to its inputs and outputs.
    """
    modalities = []
    for component, part in MODALITY_ENCODERS.items():
        if component not in graphs:
            continue
        graph = graphs[component]
        others = (name for name in graph.outputs if name.startswith(f"{part.output}_"))
        modalities.append(
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
    return tuple(modalities)


_DEEPSTACK = ("deepstack_features",)


def completed_modalities(modalities: tuple[Modality, ...], config: PreTrainedConfig) -> tuple[Modality, ...]:
    """Fill in ids of placeholder tokens that are defaults of the configuration's class, not in `config.json`.

    Args:
        modalities: the modalities in the manifest.
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
    """Return the id of a placeholder token from the model's configuration, or from its encoder's configuration.

    Args:
        config: the model's configuration.
        name: `image_token_id` or `audio_token_id`.
    """
    names = (name, name.replace("_id", "_index"))  # some configurations have the latter
    encoder_config = getattr(config, {"image_token_id": "vision_config", "audio_token_id": "audio_config"}[name], None)
    fields = [(owner, field) for owner in (config, encoder_config) for field in names]
    fields += [(config, field.replace("image", "video")) for field in names]  # InstructBLIP for videos
    token = next((getattr(owner, field) for owner, field in fields if hasattr(owner, field)), None)
    return None if token is None else int(token)
