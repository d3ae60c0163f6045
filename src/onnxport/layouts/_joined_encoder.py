"""Join the graphs of token embeddings and text encoder of a multimodal encoder, as transformers.js loads it.

In the default layout, the runtime puts the features of images and audio in place of placeholder tokens between the two
graphs. Here one graph does, and it pools as transformers.js's class returns it:

    input_ids → embed_tokens → ScatterND(·, image_features) → … → text encoder → last_hidden_state
    last_hidden_state, attention_mask → mean over the tokens → L2 norm of 1 → sentence_embedding
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxport.bundles.manifest import ComponentDescription, TensorDescription
from onnxport.layouts._graph_files import MASK, input_named, ints, output_named, rename_data, replace_graph
from onnxport.layouts._image_features import add_features
from onnxport.layouts._wide_embeddings import EMBEDDING, EMBEDS

if TYPE_CHECKING:
    import onnx_ir as ir

ENCODER = "decoder_model_merged"
"""The graph of the text encoder."""
_STATES, _POOLED = "last_hidden_state", "sentence_embedding"
_SMALLEST_NORM = 1e-12


def join_encoder(
    components: tuple[ComponentDescription, ...], directory: Path, token_ids: Mapping[str, int]
) -> tuple[ComponentDescription, ...]:
    """Join the two graphs of each precision to `model`, and return the descriptions of all graphs.

    Args:
        components: the graphs, with their files in `directory`, which are replaced.
        directory: directory of the graphs.
        token_ids: name of an input for features to the id of their placeholder token.
    """
    embeddings = {one.dtype: one for one in components if one.name == EMBEDDING}
    return tuple(
        _joined(embeddings[one.dtype], one, directory, token_ids) if one.name == ENCODER else one
        for one in components
        if one.name != EMBEDDING
    )


def _joined(
    embedding: ComponentDescription, encoder: ComponentDescription, directory: Path, token_ids: Mapping[str, int]
) -> ComponentDescription:
    import onnx_ir as ir

    file = encoder.file.replace(ENCODER, "model")
    data = _rename_data((embedding, encoder), directory, file)
    model, text = ir.load(directory / embedding.file), ir.load(directory / encoder.file)
    for name, token_id in token_ids.items():
        add_features(model.graph, name, token_id)
    _append(model, text)
    _pool(model.graph)
    for one in (embedding, encoder):
        (directory / one.file).unlink()
    replace_graph(directory / file, model)
    states = next(value for value in encoder.outputs if value.name == _STATES)
    hidden_size = states.axes[-1]
    features = (TensorDescription(name, states.dtype, (name, hidden_size)) for name in token_ids)
    masks = (value for value in encoder.inputs if value.name == MASK)
    pooled = TensorDescription(_POOLED, states.dtype, (states.axes[0], hidden_size))
    return replace(
        encoder,
        name="model",
        file=file,
        external_data=data,
        inputs=(*embedding.inputs, *masks, *features),
        outputs=(states, pooled),
    )


def _rename_data(components: tuple[ComponentDescription, ...], directory: Path, file: str) -> tuple[str, ...]:
    """Rename the files of external data as parts of one graph's, and return their paths."""
    names: list[str] = []
    for one in components:
        renamed = {}
        for data in one.external_data:
            name = f"{file}_data" + (f"_{len(names)}" if names else "")
            (directory / data).rename(directory / name)
            renamed[Path(data).name] = Path(name).name
            names.append(name)
        if renamed:
            rename_data(directory / one.file, renamed)
    return tuple(names)


def _append(model: ir.Model, text: ir.Model) -> None:
    """Append a graph that takes embeddings to one that makes them; its nodes and values get names of their own."""
    import onnx_ir as ir

    graph, nodes = model.graph, list(text.graph)
    embeds = output_named(graph, EMBEDS)
    ir.convenience.replace_all_uses_with(input_named(text.graph, EMBEDS), embeds)
    mask, outputs = input_named(text.graph, MASK), list(text.graph.outputs)
    constants = list(text.graph.initializers.values())
    text.graph.remove(nodes)
    for value in constants:
        del text.graph.initializers[str(value.name)]
    text.graph.inputs.clear()
    text.graph.outputs.clear()
    for value in (*constants, *(output for node in nodes for output in node.outputs)):
        if value not in outputs:
            value.name = f"{ENCODER}/{value.name}"
    for value in constants:
        graph.register_initializer(value)
    for node in nodes:
        node.name = f"{ENCODER}/{node.name}"
    graph.extend(nodes)
    graph.inputs.insert(1, mask)
    graph.outputs[:] = outputs
    embeds.name = f"{EMBEDDING}/{EMBEDS}"
    model.functions.update(text.functions)
    model.opset_imports.update(text.opset_imports)


def _pool(graph: ir.Graph) -> None:
    """Add the mean of the hidden states over the tokens, with the norm 1, as an output."""
    import onnx_ir as ir

    states, mask = output_named(graph, _STATES), input_named(graph, MASK)
    last, tokens = ints(-1), ints(1)
    column = ir.node("Unsqueeze", [mask, last.outputs[0]])
    weights = ir.node("CastLike", [column.outputs[0], states])
    weighted = ir.node("Mul", [states, weights.outputs[0]])
    total = ir.node("ReduceSum", [weighted.outputs[0], tokens.outputs[0]], {"keepdims": 0})
    norm = ir.node("ReduceL2", [total.outputs[0], last.outputs[0]], {"keepdims": 1})
    smallest = ir.node("Constant", [], {"value": ir.tensor(np.array(_SMALLEST_NORM, np.float32))})
    least = ir.node("CastLike", [smallest.outputs[0], states])
    divisor = ir.node("Max", [norm.outputs[0], least.outputs[0]])
    pooled = ir.node("Div", [total.outputs[0], divisor.outputs[0]])
    output = pooled.outputs[0]
    assert states.shape is not None
    output.name, output.type, output.shape = _POOLED, states.type, ir.Shape([states.shape[0], states.shape[-1]])
    graph.extend([last, tokens, column, weights, weighted, total, norm, smallest, least, divisor, pooled])
    graph.outputs.append(output)
