"""Read `modules.json` of a sentence-transformers directory, and the model that its modules make together."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from onnxport.checkpoint.json_files import read_json_object
from onnxport.checkpoint.sentence_modules import (
    CROSS_ENCODER,
    MULTI_VECTOR,
    PYLATE,
    READERS,
    REASONS,
    WITH_WEIGHTS,
    ModuleFolder,
    activation_of,
    scoring_mask_of_pylate,
    static_settings,
    weights_in,
)
from onnxport.containment import check_links, files_inside, inside
from onnxport.description.sentence_modules import (
    INPUT_IDS,
    LAYERS,
    LOGITS,
    MASK,
    SCORES,
    SENTENCE,
    TOKENS,
    Activation,
    Dense,
    LogitScore,
    Normalize,
    Pooling,
    ScoringMask,
    SentenceModel,
    SentenceModule,
    prefix_of,
)
from onnxport.description.tasks import MODULE_TASKS, SENTENCE_SIMILARITY, TEXT_RANKING, canonical_task
from onnxport.errors import CorruptCheckpointError, OptionError, UnsupportedError, brief
from onnxport.options import CheckpointOptions

LIST_FILE = "modules.json"
SETTINGS_FILE = "config_sentence_transformers.json"
MODULE_FOLDER = re.compile(r"(\w+_)?\d+_\w+")
"""Pattern of module directories, such as `1_Pooling`, and `query_0_Dense` in a Router's."""
TRANSFORMER_SETTINGS = "sentence_*_config.json"
"""Pattern of the Transformer module's settings files (maximum sequence length, lower case)."""

_TRANSFORMERS = {"Transformer": "feature-extraction", "MLMTransformer": "fill-mask"}
"""Class name of a module that runs a model of Transformers to its default task."""
_STATIC = {
    "StaticEmbedding": ("last_hidden_state", TOKENS),
    "WordEmbeddings": ("last_hidden_state", TOKENS),
    "SparseStaticEmbedding": (SENTENCE, SENTENCE),
}
"""Class name of a module that is a table of token embeddings to its output and the feature that it becomes."""
_WORD_FILES = ("wordembedding_config.json", "whitespacetokenizer_config.json", "phrasetokenizer_config.json")
"""Settings and tokenizers of a WordEmbeddings module."""
_PYLATE_DENSE = "pylate.models.Dense.Dense"
_TEXT_MODALITIES = frozenset(("text", "message"))
_LOADING = frozenset(
    ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "torch_dtype", "dtype", "subfolder",
     "attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors", "force_download")
)  # fmt: skip
"""Arguments of `from_pretrained` that don't change what is computed."""


@dataclass(frozen=True)
class _TransformerTask:
    """A task of the Transformer module.

    Attributes:
        task: its name here.
        output: the model's output that becomes a feature, by default.
        feature: name of the feature, by default.
    """

    task: str
    output: str
    feature: str


_TASKS = {
    "feature-extraction": _TransformerTask("feature-extraction", "last_hidden_state", TOKENS),
    "sequence-classification": _TransformerTask("text-classification", "logits", SCORES),
    "text-generation": _TransformerTask("text-generation", "logits", LOGITS),
    "fill-mask": _TransformerTask("fill-mask", "logits", TOKENS),
}
"""`transformer_task` to task."""


@dataclass(frozen=True)
class ListedModule:
    """An entry in `modules.json`.

    Attributes:
        type: class name, such as `Transformer` for `sentence_transformers.models.Transformer`; the full path for
            classes from other packages.
        path: directory relative to the checkpoint's; empty for the checkpoint's directory.
        full_type: full path of the class.
    """

    type: str
    path: str
    full_type: str = ""


@dataclass(frozen=True)
class SentenceModules:
    """A model of sentence-transformers.

    Attributes:
        task: the task that it is exported for: sentence-similarity or text-ranking.
        model: the transformer's output and the modules after it.
        weights: weight files by the prefix of the module's parameter names in the exported model.
        static: configuration of a model that is a table of token embeddings; empty for a transformer.
    """

    task: str
    model: SentenceModel
    weights: Mapping[str, Path] = field(default_factory=dict)
    static: Mapping[str, Any] = field(default_factory=dict)


def list_modules(directory: Path) -> tuple[ListedModule, ...]:
    """Read `modules.json`.

    Returns:
        The entries; empty if the directory has no `modules.json`.

    Raises:
        CorruptCheckpointError: the file isn't a list of modules, or lists a path outside the directory.
    """
    file = directory / LIST_FILE
    if not file.is_file():
        return ()
    try:
        listed = json.loads(file.read_text(encoding="utf-8"))
        entries = [(module["type"], module["path"]) for module in listed]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{file} isn't a list of modules, each with type and path ({type(error).__name__}: {brief(str(error))}); "
            "download or save the file again"
        ) from error
    if not entries or not all(isinstance(text, str) for entry in entries for text in entry):
        raise CorruptCheckpointError(
            f"{file} must list at least one module, with strings as type and path; download or save the file again"
        )
    for _, path in entries:
        if path:  # empty for the directory itself
            check_links(inside(directory, path, file))
    return tuple(ListedModule(_short_name(module_type), path, module_type) for module_type, path in entries)


def with_route(directory: Path, listed: tuple[ListedModule, ...], route: str | None) -> tuple[ListedModule, ...]:
    """Replace a Router by the modules of one of its routes.

    Args:
        directory: directory of `modules.json`.
        listed: its entries.
        route: name of the route; None for the only one.

    Returns:
        The entries; unchanged if there are several routes, and none is chosen.

    Raises:
        OptionError: a route is named, and there is no Router with such a route.
        CorruptCheckpointError: the Router's configuration is malformed, or names a directory outside of its own.
    """
    found = [module for module in listed if module.type in ROUTERS]
    if not found and route is not None:
        raise OptionError(f"--route {route}: {directory / LIST_FILE} lists no Router; leave --route out")
    for router in found:
        routes = read_routes(directory, router)
        if route is not None and route not in routes:
            raise OptionError(
                f"--route {route}: the routes of {directory / router.path} are {', '.join(routes)}; name one of them"
            )
        chosen = route or (next(iter(routes)) if len(routes) == 1 else None)
        if chosen is not None:
            position = listed.index(router)
            listed = (*listed[:position], *routes[chosen], *listed[position + 1 :])
    return listed


ROUTERS = ("Router", "Asym")


def read_routes(directory: Path, router: ListedModule) -> dict[str, tuple[ListedModule, ...]]:
    """Return the modules of each route of a Router.

    Args:
        directory: directory of `modules.json`.
        router: its entry of the Router.

    Raises:
        CheckpointNotFoundError: the Router's configuration is missing.
        CorruptCheckpointError: it is malformed, or names a directory outside of its own.
    """
    folder = directory / router.path
    file = next((folder / name for name in ("router_config.json", "config.json") if (folder / name).is_file()), None)
    file = file or folder / "router_config.json"
    settings = read_json_object(file, purpose="the routes")
    types, structure = settings.get("types"), settings.get("structure")
    routes: dict[str, tuple[ListedModule, ...]] = {}
    if not isinstance(structure, Mapping) or not isinstance(types, Mapping):
        structure, types = {}, {}
    for route, names in structure.items():
        if not isinstance(names, list) or not all(isinstance(types.get(name), str) for name in names):
            raise CorruptCheckpointError(f"{file}: the route {route!r} is {names!r}, not names of modules in types")
        for name in names:
            check_links(inside(folder, name, file))
        routes[route] = tuple(
            ListedModule(_short_name(types[name]), (PurePosixPath(router.path) / name).as_posix(), types[name])
            for name in names
        )
    if not routes or not all(routes.values()):
        raise CorruptCheckpointError(f"{file} needs types and structure, with a list of modules for each route")
    return routes


def _short_name(name: str) -> str:
    is_known = name.startswith("sentence_transformers.") or name == _PYLATE_DENSE
    return name.rpartition(".")[2] if is_known else name


def transformer_directory(directory: Path, listed: tuple[ListedModule, ...]) -> Path:
    """Return the Transformer module's directory: the checkpoint's, or the subdirectory that older releases created."""
    if not listed:
        return directory
    first = directory / listed[0].path
    has_own = (first / "config.json").is_file()
    return first if has_own or not (directory / "config.json").is_file() else directory


def module_files(directory: Path, listed: tuple[ListedModule, ...]) -> list[Path]:
    """List the files of a sentence-transformers directory that don't belong to the Transformer module."""
    transformer = transformer_directory(directory, listed)
    files = [*files_inside(directory, LIST_FILE), *files_inside(directory, SETTINGS_FILE)] if listed else []
    files += files_inside(transformer, TRANSFORMER_SETTINGS, *_WORD_FILES) if listed else []
    for module in listed[1:]:
        if module.path:
            files += files_inside(directory / module.path, "*")
    return files


@dataclass(frozen=True)
class _Directory:
    """A sentence-transformers directory.

    Attributes:
        root: the directory.
        listed: entries of `modules.json`.
        settings: contents of `config_sentence_transformers.json`.
    """

    root: Path
    listed: tuple[ListedModule, ...]
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def file(self) -> Path:
        """Path of `modules.json`, for messages."""
        return self.root / LIST_FILE

    @property
    def model_type(self) -> str:
        """Class name of the model: an encoder of sentences, of pairs, sparse, or of several vectors."""
        return str(self.settings.get("model_type"))

    @property
    def task(self) -> str:
        """The task that it is exported for."""
        return TEXT_RANKING if self.model_type == CROSS_ENCODER else SENTENCE_SIMILARITY

    @property
    def transformer(self) -> Path:
        """Directory of the Transformer module."""
        return transformer_directory(self.root, self.listed)

    def folder(self, path: Path, transformer: Mapping[str, Any]) -> ModuleFolder:
        """Return the directory of a module, with what its configuration depends on."""
        return ModuleFolder(path, self.model_type, transformer, self.transformer)


def read_sentence_modules(
    directory: Path, listed: tuple[ListedModule, ...], options: CheckpointOptions
) -> SentenceModules | None:
    """Read the modules after the Transformer module, if they are exported with it.

    Args:
        directory: directory of `modules.json`.
        listed: entries of `modules.json`.
        options: the task, if any, and the dtype.

    Returns:
        The modules; None for another task.

    Raises:
        UnsupportedError: the task needs a `modules.json` of another model, or a module isn't supported.
        CorruptCheckpointError: the configuration of a module is malformed, or modules don't fit together.
        CheckpointNotFoundError: the configuration or the weights of a module are missing.
    """
    requested = canonical_task(options.task).name if options.task is not None else None
    if requested in MODULE_TASKS and not listed:
        raise UnsupportedError(
            f"{directory} has no {LIST_FILE}, which defines how an embedding or a score is computed from the model's "
            "output; give a directory that sentence-transformers saved, or --task feature-extraction or "
            "text-classification for the model alone"
        )
    if not listed or options.split_encoders or requested not in (None, *MODULE_TASKS):
        return None
    file = directory / SETTINGS_FILE
    settings = read_json_object(file, purpose="the settings of sentence-transformers") if file.is_file() else {}
    found = _Directory(directory, listed, settings)
    if requested not in (None, found.task):
        raise UnsupportedError(f"{file}: model_type is {found.model_type}, which is exported with --task {found.task}")
    return _read(found, options)


def _read(directory: _Directory, options: CheckpointOptions) -> SentenceModules:
    _check_types(directory)
    _check_precision(directory, options)
    first, *others = directory.listed
    static = static_settings(directory.transformer, first.type) if first.type in _STATIC else {}
    transformer = {} if static else _transformer_settings(directory)
    task, output, feature = ("", *_STATIC[first.type]) if static else _transformer_output(directory, transformer)
    transformer = {**_pylate_settings(directory), **transformer}
    modules: list[SentenceModule] = [Pooling(("mean",))] if first.type == "StaticEmbedding" else []
    weights: dict[str, Path] = {}
    for listed in others:
        folder = directory.folder(directory.root / listed.path, transformer)
        modules.append(READERS[listed.type](folder))
        if isinstance(modules[-1], WITH_WEIGHTS):
            weights[prefix_of(len(modules) - 1)] = weights_in(folder.path)
    modules += _implied(directory, modules, transformer)
    result = SCORES if directory.task == TEXT_RANKING else SENTENCE
    if directory.model_type in (MULTI_VECTOR, PYLATE):
        result = TOKENS
    model = SentenceModel(task, output, feature, tuple(modules), result)
    _check_features(directory, model)
    return SentenceModules(directory.task, model, weights, static)


def _check_types(directory: _Directory) -> None:
    unknown = [module.type for module in directory.listed[1:] if module.type not in READERS]
    if directory.listed[0].type not in (*_TRANSFORMERS, *_STATIC):
        unknown.insert(0, directory.listed[0].type)
    if unknown:
        reason = next((f": {REASONS[name]}" for name in unknown if name in REASONS), "")
        for router in (module for module in directory.listed if module.type in ROUTERS):
            reason = f": choose one of its routes with --route: {', '.join(read_routes(directory.root, router))}"
        raise UnsupportedError(
            f"{directory.file} lists {', '.join(unknown)}, which isn't supported{reason}. Supported are a Transformer "
            f"or {', '.join(_STATIC)}, followed by {', '.join(READERS)}; --task feature-extraction exports a "
            "Transformer alone"
        )


def _check_precision(directory: _Directory, options: CheckpointOptions) -> None:
    kept = directory.settings.get("keep_in_fp32_modules")
    if kept and options.dtype != "fp32":
        raise UnsupportedError(
            f"{directory.root / SETTINGS_FILE}: keep_in_fp32_modules is {kept}, and layers in fp32 aren't supported in "
            f"a graph of {options.dtype}; leave out --dtype {options.dtype}"
        )


def _transformer_settings(directory: _Directory) -> dict[str, Any]:
    files = files_inside(directory.transformer, TRANSFORMER_SETTINGS)
    chosen = next((file for file in files if file.name == "sentence_bert_config.json"), next(iter(files), None))
    if chosen is None:
        return {}
    settings = read_json_object(chosen, purpose="the Transformer's settings")
    for name in ("model_args", "model_kwargs", "config_args", "config_kwargs"):
        others = sorted(set(settings.get(name) or ()) - _LOADING)
        if others:
            raise UnsupportedError(
                f"{chosen}: {name} has {', '.join(others)}, which may change what the model computes; write them into "
                "config.json, and remove them here"
            )
    return settings


def _transformer_output(directory: _Directory, settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the task of the Transformer module, the output that it reads, and the feature that it writes."""
    named = settings.get("transformer_task", _TRANSFORMERS[directory.listed[0].type])
    default = _TASKS.get(str(named))
    if default is None:
        raise UnsupportedError(
            f"{directory.transformer}: transformer_task is {named!r}; supported with modules are {', '.join(_TASKS)}. "
            "--task feature-extraction exports the model alone"
        )
    modalities = settings.get("modality_config")
    if modalities is None:
        return default.task, default.output, default.feature
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    output = text.get("method_output_name") if isinstance(text, Mapping) else None
    output = output[0] if isinstance(output, list) and len(output) == 1 else output
    is_forward = isinstance(text, Mapping) and text.get("method") == "forward"
    if not is_forward or not isinstance(output, str) or not _TEXT_MODALITIES.issuperset(modalities):
        raise UnsupportedError(
            f"{directory.transformer}: modality_config is {json.dumps(modalities)[:300]}; supported is text with one "
            "output of forward. --task feature-extraction exports the model alone"
        )
    return default.task, output, str(settings.get("module_output_name") or default.feature)


def _pylate_settings(directory: _Directory) -> dict[str, Any]:
    """Return the query expansion that PyLate saved in `config_sentence_transformers.json`, if it did."""
    settings = directory.settings
    if directory.model_type not in (MULTI_VECTOR, PYLATE) or not _PYLATE_SETTINGS & settings.keys():
        return {}
    if "query_expansion" in settings:
        return {"query_expansion": settings["query_expansion"]}
    if settings.get("do_query_expansion") is False:
        return {"query_expansion": None}
    return {"query_expansion": {"length": settings.get("query_length") or 32}}


_PYLATE_SETTINGS = frozenset(
    ("query_length", "document_length", "query_expansion", "do_query_expansion", "attend_to_expansion_tokens",
     "attend_to_mask_tokens", "query_prefix", "document_prefix", "skiplist_words")
)  # fmt: skip


def _implied(
    directory: _Directory, modules: list[SentenceModule], transformer: Mapping[str, Any]
) -> list[SentenceModule]:
    """Return what the model computes after its modules: the scores' activation, or what PyLate does without modules."""
    if directory.task == TEXT_RANKING:
        return [Activation(SCORES, SCORES, name=_activation(directory, modules))]
    if directory.model_type == PYLATE:
        folder = directory.folder(directory.root, transformer)
        mask = scoring_mask_of_pylate(folder, directory.settings.get("skiplist_words"))
        return [mask, Normalize(TOKENS, TOKENS)]
    return []


def _activation(directory: _Directory, modules: list[SentenceModule]) -> str:
    """Return the activation of a cross-encoder's scores: by default, a sigmoid if there is one label."""
    file = directory.transformer / "config.json"
    config = read_json_object(file, purpose="the model's configuration") if file.is_file() else {}
    nested = config.get("sentence_transformers")
    named = directory.settings.get("activation_fn")
    named = named or (nested.get("activation_fn") if isinstance(nested, Mapping) else None)
    named = named or config.get("sbert_ce_default_activation_function")
    if named is not None:
        return activation_of(named, directory.root / SETTINGS_FILE)
    return "Sigmoid" if _label_count(modules, config) == 1 else "Identity"


def _label_count(modules: list[SentenceModule], config: Mapping[str, Any]) -> int:
    for module in reversed(modules):
        if isinstance(module, Dense) and module.target == SCORES:
            return module.out_features
        if isinstance(module, LogitScore):
            return 1
    labels = config.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else 2


def _check_features(directory: _Directory, model: SentenceModel) -> None:
    """Check that each module reads what an earlier one writes, and that one writes the result."""
    written, masked = {INPUT_IDS, MASK, LAYERS, model.feature}, False
    for module in model.modules:
        name = type(module).__name__
        missing = [feature for feature in module.reads if feature not in written]
        if missing:
            raise CorruptCheckpointError(
                f"{directory.file}: {name} reads {', '.join(missing)}, which no module before it writes; correct the "
                "order of the modules, or module_input_name and module_output_name"
            )
        if masked and isinstance(module, Pooling):
            raise UnsupportedError(f"{directory.file}: Pooling after MultiVectorMask isn't supported")
        masked = masked or isinstance(module, ScoringMask)
        written.update(module.writes)
    if model.result not in written:
        raise CorruptCheckpointError(
            f"{directory.file} lists {', '.join(module.type for module in directory.listed)}, and none of them writes "
            f"{model.result}; add the module that does, such as Pooling, or name another --task"
        )
