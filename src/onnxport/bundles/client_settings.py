"""Rewrite settings that only Transformers 5 understands, so that other clients of an exported directory do, too.

A file that needs no change keeps its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""Name that Transformers 4 and 5, optimum and transformers.js know."""
_ONLY_TRANSFORMERS_5 = "TokenizersBackend"
"""What Transformers 5 writes for a tokenizer without a class of its own; Transformers 4 raises ValueError for it."""
_CALL_ARGUMENTS = ("backend", "is_local", "local_files_only")
"""Arguments of the `from_pretrained` call that made a tokenizer, which Transformers 5 saves with its settings."""


def portable_tokenizer_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json that Transformers 4 can load, too."""
    kept = {name: value for name, value in settings.items() if name not in _CALL_ARGUMENTS}
    if kept.get("tokenizer_class") == _ONLY_TRANSFORMERS_5:
        kept["tokenizer_class"] = _TOKENIZER_CLASS
    return kept


def with_labels(settings: Mapping[str, Any], config: Callable[[], Any], *, labelled: bool) -> dict[str, Any]:
    """Return the content of a config.json whose `id2label` and `label2id` are complete.

    Transformers makes up names of labels while it loads a config.json that has none, or whose `id2label` contradicts
    its `num_labels`. Other clients read the file as it is.

    Args:
        settings: the content; its own maps are kept where they agree.
        config: loads the configuration as Transformers completes it; called only where the maps are incomplete.
        labelled: whether the outputs of the exported task are scores of labels.
    """
    names = (settings.get("id2label"), settings.get("label2id"))
    if not labelled and not any(settings.get(name) for name in ("id2label", "label2id", "num_labels")):
        return dict(settings)
    if all(isinstance(part, Mapping) and part for part in names):
        count = settings.get("num_labels")
        if count is None or count == len(settings["id2label"]):
            return dict(settings)
    labels = config().id2label
    if not labels:
        return dict(settings)
    known = config().label2id
    inverse = known if known and set(known) == set(labels.values()) else {name: i for i, name in labels.items()}
    return {**settings, "id2label": {str(i): name for i, name in labels.items()}, "label2id": dict(inverse)}


def rewrite_json(path: Path, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
    """Apply a change to a JSON file; one that changes nothing leaves its bytes."""
    before = json.loads(path.read_text(encoding="utf-8"))
    after = change(before)
    if after != before:
        path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
