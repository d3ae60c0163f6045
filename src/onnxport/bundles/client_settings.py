"""Rewrite settings that only Transformers 5 supports, for other clients of an exported directory.

Files that require no change are left byte-identical.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from onnxport.description.text_configs import text_config_of

_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""Tokenizer class that Transformers 4 and 5, optimum and transformers.js support."""
_ONLY_TRANSFORMERS_5 = "TokenizersBackend"
"""Class that Transformers 5 writes for a tokenizer without a custom one; Transformers 4 raises ValueError for it."""
_INPUTS = ("input_ids", "attention_mask")
"""What a tokenizer of that class returns in Transformers 5; in Transformers 4, it returns `token_type_ids` as well."""
_EXTRA_TOKENS = "extra_special_tokens"
"""Transformers 5 writes a list; Transformers 4 reads a mapping, and a list as `additional_special_tokens`."""
_PILLOW = "Pil"
"""Ending of the names of image processors that run on Pillow; Transformers 4 has them without it."""
_PARTS = ("feature_extractor", "image_processor")
"""Parts of a processor whose settings are in preprocessor_config.json, in this order."""
_SIZES = (
    ("n_embd", "n_layer"),
    ("dim", "n_layers"),
    ("emb_dim", "n_layers"),
    ("d_model", "encoder_layers"),
    ("d_model", "num_layers"),
    ("d_model", "n_layers"),
    ("d_model", "n_layer"),
)
"""What text models call their hidden size and their number of layers, where they have other names (`attribute_map`)."""
_CALL_ARGUMENTS = ("backend", "is_local", "local_files_only")
"""Arguments of a tokenizer's `from_pretrained` call, which Transformers 5 saves with its settings."""


def portable_tokenizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json that Transformers 4 can load, too."""
    portable = {name: value for name, value in settings.items() if name not in _CALL_ARGUMENTS}
    if portable.get("tokenizer_class") == _ONLY_TRANSFORMERS_5:
        portable["tokenizer_class"] = _TOKENIZER_CLASS
        portable.setdefault("model_input_names", list(_INPUTS))
    if isinstance(portable.get(_EXTRA_TOKENS), list):
        extra = portable.pop(_EXTRA_TOKENS)
        portable.setdefault("additional_special_tokens", extra)
    return portable


def portable_preprocessor_settings(settings: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of preprocessor_config.json, which Transformers 4 and transformers.js read.

    Transformers 5 saves the settings of a processor's parts in processor_config.json alone, and the classes that run
    on Pillow under their own names.

    Args:
        settings: the content; empty if there is no such file.
        processor: content of processor_config.json; empty if there is none.
    """
    nested = [part for name in _PARTS if isinstance(part := processor.get(name), Mapping)]
    parts = {} if settings else {name: value for part in nested for name, value in part.items()}
    portable = {**parts, **settings}
    if portable and "processor_class" in processor:
        portable.setdefault("processor_class", processor["processor_class"])
    kind = portable.get("image_processor_type")
    return {**portable, "image_processor_type": kind.removesuffix(_PILLOW)} if isinstance(kind, str) else portable


def with_sizes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a text model's config.json with its `hidden_size` and `num_hidden_layers`.

    text-embeddings-inference requires them. Transformers reads them into the settings of the model type.

    Args:
        settings: the content.
    """
    for width, depth in _SIZES if "vocab_size" in settings else ():
        if width in settings and depth in settings:
            return {"hidden_size": settings[width], "num_hidden_layers": settings[depth], **settings}
    return dict(settings)


def with_labels(settings: Mapping[str, Any], config: Callable[[], Any], *, labelled: bool) -> dict[str, Any]:
    """Return the content of a config.json with complete `id2label` and `label2id`.

    Transformers generates label names when it loads a config.json that has none, or whose `id2label` contradicts its
    `num_labels`. Other clients read the file as it is.

    Args:
        settings: the content; its maps are unchanged if they agree with `num_labels`.
        config: loads the configuration as Transformers completes it; called only if the maps are incomplete.
        labelled: whether the outputs of the exported task are scores of labels.
    """
    maps = (settings.get("id2label"), settings.get("label2id"))
    if not labelled and not any(settings.get(name) for name in ("id2label", "label2id", "num_labels")):
        return dict(settings)
    if all(isinstance(item, Mapping) and item for item in maps):
        count = settings.get("num_labels")
        if count is None or count == len(settings["id2label"]):
            return dict(settings)
    labels = config().id2label
    if not labels:
        return dict(settings)
    loaded = config().label2id
    label2id = loaded if loaded and set(loaded) == set(labels.values()) else {name: i for i, name in labels.items()}
    return {**settings, "id2label": {str(i): name for i, name in labels.items()}, "label2id": dict(label2id)}


def with_vocabulary(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Return the content of a config.json with the size of the vocabulary that an adapter was trained with.

    Args:
        settings: the content.
        config: the configuration of the exported model.
    """
    size = getattr(text_config_of(config), "vocab_size", None)
    nested = {name: part for name, part in settings.items() if isinstance(part, Mapping) and "vocab_size" in part}
    if size is None or ("vocab_size" not in settings and len(nested) != 1):
        return dict(settings)
    if "vocab_size" in settings:
        return {**settings, "vocab_size": size}
    return {**settings, **{name: {**part, "vocab_size": size} for name, part in nested.items()}}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object; return an empty one if the file doesn't exist."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def rewrite_json(path: Path, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Apply a change to a JSON file, empty if there is none; the file is written only if its content changes."""
    before = read_json(path)
    after = change(before)
    if after != before:
        path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
