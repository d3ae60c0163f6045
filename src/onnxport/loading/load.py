"""Load a checkpoint's configuration and model. A missing or mismatched parameter is an error, never random.

Transformers' loader gets the tensors of the checked files, not the directory, so it reads no other files.
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxport.architectures._table import architecture_of
from onnxport.checkpoint.checkpoint import Checkpoint
from onnxport.checkpoint.quiet import hidden_bars, quiet
from onnxport.checkpoint.safetensors import read_header
from onnxport.description.text_configs import text_config_of
from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MissingDependencyError,
    OnnxportError,
    OptionError,
    UnsupportedError,
    UntrustedCodeError,
    WeightsMismatchError,
)
from onnxport.loading.accounting import LoadReport, check_complete
from onnxport.loading.failures import construction_failures
from onnxport.loading.merge_plan import untie
from onnxport.loading.merging import check_with_adapter, merge_in_memory, plan_merge
from onnxport.loading.packed import read_weights
from onnxport.loading.preprocessors import load_preprocessor
from onnxport.loading.quantized import cast_unquantized, let_loader_dequantize
from onnxport.loading.tensors import read_state
from onnxport.options import CheckpointOptions

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

__all__ = [
    "attach_generation_config",
    "config_for",
    "dtype_of",
    "generation_config_for",
    "load_config",
    "load_model",
    "load_preprocessor",
    "load_state",
]

logger = logging.getLogger(__name__)

_DTYPE_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def load_config(checkpoint: Checkpoint, options: CheckpointOptions) -> PreTrainedConfig:
    """Load the configuration of a checkpoint.

    Raises:
        CorruptCheckpointError: `config.json` has a value that the configuration class rejects.
        UnsupportedError: Transformers doesn't have the model type, or can't dequantize the weights.
        UntrustedCodeError: the configuration class is remote code, and `trust_remote_code` is false.
    """
    from transformers import AutoConfig

    if checkpoint.sentence and checkpoint.sentence.static:
        from onnxport.description.static_embedding import StaticEmbeddingConfig

        return StaticEmbeddingConfig(**checkpoint.sentence.static)
    source = checkpoint.weight_files[0] if checkpoint.format == "gguf" else checkpoint.directory / "config.json"
    extra = {"gguf_file": source.name} if checkpoint.format == "gguf" else {}
    if checkpoint.format != "gguf":
        _check_model_type(checkpoint, options)
        _check_packages(checkpoint)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(
                checkpoint.directory, trust_remote_code=options.trust_remote_code, local_files_only=True, **extra
            )
    except construction_failures() as error:
        raise _config_error(error, checkpoint, source) from error
    if checkpoint.architectures and not config.architectures:
        config.architectures = list(checkpoint.architectures)
    if checkpoint.format != "gguf":
        let_loader_dequantize(checkpoint, config)
    _resize_vocabulary(checkpoint, config)
    return cast("PreTrainedConfig", config)


def _resize_vocabulary(checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
    """Set the size of the vocabulary to that with which an adapter was trained (`resize_token_embeddings`), in place.

    PEFT saves the resized tables then: those that have as many rows as the vocabulary in the base model.
    """
    adapter, text = checkpoint.adapter, text_config_of(config)
    size = getattr(text, "vocab_size", None)
    if adapter is None or size is None or not checkpoint.in_parts:
        return
    resized = {name: adapter.shapes[key] for name, key in adapter.replacements.items()}
    resized = {name: shape for name, shape in resized.items() if len(shape) == 2 and shape[0] != size}
    for path in checkpoint.weight_files if resized else ():
        for key, entry in read_header(path).items():
            for name, shape in resized.items():
                is_same = f".{key}".endswith(f".{name}") or f".{name}".endswith(f".{key}")
                if is_same and entry.shape == (size, *shape[1:]):
                    text.vocab_size = shape[0]


def config_for(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration, or its sub-configuration, that a model class takes.

    For example, the language model of a vision-language model takes the `text_config` if it is loaded alone.
    """
    config_class = getattr(model_class, "config_class", None)
    if config_class is None or isinstance(config, config_class):
        return config
    parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", {})]
    return next((part for part in parts if isinstance(part, config_class)), config)


def load_model(checkpoint: Checkpoint, model_class: type, options: CheckpointOptions) -> PreTrainedModel:
    """Load a model in evaluation mode, with every parameter from the checkpoint, and merge its adapter.

    A model with an optional pooler is loaded without it if the checkpoint has none. Tensors of another task's head are
    logged and ignored.

    Args:
        checkpoint: the checkpoint to load.
        model_class: a model class of Transformers, such as `BertForMaskedLM`.
        options: dtype, device, `trust_remote_code`.

    Raises:
        WeightsMismatchError: parameters have no tensor, tensors have no parameter, or shapes differ.
        CorruptCheckpointError: a tensor can't be read.
        UntrustedCodeError: a pickled file has more than tensors.
        OptionError: the device isn't available.
    """
    config = config_for(model_class, load_config(checkpoint, options))
    device = _device(options)
    with quiet():
        if checkpoint.format == "tensorflow":
            model = _load_tensorflow(checkpoint, model_class, config, options)
        else:
            model = _load_strictly(checkpoint, model_class, config, options)
        attach_generation_config(model, checkpoint)
    return cast("PreTrainedModel", model.to(device).eval())


def _check_model_type(checkpoint: Checkpoint, options: CheckpointOptions) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = list(CONFIG_MAPPING.keys())
    auto_map = checkpoint.config.get("auto_map")
    is_code = isinstance(auto_map, dict) and "AutoConfig" in auto_map and options.trust_remote_code
    if checkpoint.model_type in known or is_code:
        return
    near = difflib.get_close_matches(checkpoint.model_type, known, n=5, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else f"none of the {len(known)} that it has is similar"
    raise UnsupportedError(
        f"{checkpoint.name}: the installed Transformers doesn't have the model type {checkpoint.model_type!r}; "
        f"{hint}. Correct model_type in {checkpoint.directory / 'config.json'}, or upgrade transformers"
    )


def _check_packages(checkpoint: Checkpoint) -> None:
    """Raise if a package that implements the model type isn't installed."""
    record = architecture_of(checkpoint.model_type)
    missing = [name for name in (record.packages if record else ()) if find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{checkpoint.name}: the model type {checkpoint.model_type!r} needs packages that aren't installed: "
            f"pip install {' '.join(missing)}"
        )


def _config_error(error: Exception, checkpoint: Checkpoint, source: Path) -> OnnxportError:
    reason = _first_lines(error)
    if "trust_remote_code" in str(error):
        return UntrustedCodeError(
            f"{checkpoint.name}: its configuration is code of the repository, which would run on this machine; "
            f"read that code, and pass --trust-remote-code (trust_remote_code=True) if you trust it"
        )
    if checkpoint.format == "gguf":
        return UnsupportedError(
            f"{source}: the GGUF architecture {checkpoint.gguf_architecture!r} can't be read ({reason}); "
            f"export the safetensors checkpoint that the file was converted from"
        )
    if isinstance(error, ImportError):
        return MissingDependencyError(f"{checkpoint.name}: reading its configuration needs a package: {reason}")
    if isinstance(error, OSError):
        return CheckpointNotFoundError(f"{source} can't be loaded, a file that it refers to is missing: {reason}")
    return CorruptCheckpointError(f"{source}: {type(error).__name__} while reading it: {reason}; correct that value")


def _load_strictly(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], config: PreTrainedConfig, options: CheckpointOptions
) -> PreTrainedModel:
    if checkpoint.format == "gguf":
        model, report = _load_gguf(checkpoint, model_class, options)
    else:
        model, report = load_state(
            checkpoint, model_class, config, read_weights(checkpoint, read_state(checkpoint)), options
        )
    merge, _ = check_with_adapter(checkpoint, report, model)
    if merge is not None:
        merge_in_memory(merge, model)
    return model


def load_state(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    state: Mapping[str, torch.Tensor],
    options: CheckpointOptions,
) -> tuple[PreTrainedModel, LoadReport]:
    """Load a state dict with Transformers' loader.

    Returns:
        The model, and a report of its parameters, which the caller passes to `check_complete`.

    Raises:
        CorruptCheckpointError: the model can't be constructed from the state dict.
        MissingDependencyError: Transformers needs a package for the model.
    """
    state = _submodel_state(checkpoint, config, state)
    with _named_errors(checkpoint, model_class):
        load = _loader_of(model_class)
        model, info = load(None, config=config, state_dict=dict(state), **_arguments(options))
        if checkpoint.quantization is not None:
            cast_unquantized(model, dtype_of(options))
    return model, LoadReport.of(info, {name: tuple(tensor.shape) for name, tensor in state.items()})


def _submodel_state(
    checkpoint: Checkpoint, config: PreTrainedConfig, state: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a submodel without their prefix; all tensors if the full model is loaded.

    A checkpoint such as MusicGen's prefixes the tensors of each submodel with the key of its sub-configuration, with
    or without the suffix `_config`.
    """
    settings = {name.removesuffix("_config"): value for name, value in checkpoint.config.items()}
    types = {n: part["model_type"] for n, part in settings.items() if isinstance(part, dict) and "model_type" in part}
    submodel = next((n for n, type_ in types.items() if type_ == config.model_type != checkpoint.model_type), None)
    if submodel is None or not {key.partition(".")[0] for key in state}.issuperset(types):
        return state
    logger.info("%s: only the submodel %s is loaded", checkpoint.name, submodel)
    prefix = f"{submodel}."
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _loader_of(model_class: type[PreTrainedModel]) -> Callable[..., tuple[PreTrainedModel, dict[str, Any]]]:
    """Return a `from_pretrained` that loads a model from a state dict, without running remote code.

    Since Transformers 5.25, `use_kernels` is true by default: layers are replaced by kernels of the hub on a GPU, which
    can't be traced, and loading fails on any device if the package `kernels` isn't installed (no issue is known).

    Two classes of Transformers 5.23 have one that is bypassed: `TimmBackbone`'s ignores the state dict and downloads
    timm's weights, and `DecisionMixin`'s reads a file beside the weights and fails if loading information is returned.
    """
    from transformers import PreTrainedModel

    if not {"TimmBackbone", "DecisionMixin"}.isdisjoint(base.__name__ for base in model_class.__mro__):
        return partial(
            PreTrainedModel.from_pretrained.__func__, model_class, trust_remote_code=False, use_kernels=False
        )
    return partial(model_class.from_pretrained, trust_remote_code=False, use_kernels=False)


def _load_gguf(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], options: CheckpointOptions
) -> tuple[PreTrainedModel, LoadReport]:
    from transformers import modeling_gguf_pytorch_utils

    file = checkpoint.weight_files[0].name
    with _named_errors(checkpoint, model_class), hidden_bars(modeling_gguf_pytorch_utils):
        model, info = model_class.from_pretrained(
            checkpoint.directory,
            gguf_file=file,
            trust_remote_code=False,
            use_kernels=False,
            local_files_only=True,
            **_arguments(options),
        )
    return model, LoadReport.of(info, None)


def _arguments(options: CheckpointOptions) -> dict[str, Any]:
    return {"dtype": dtype_of(options), "output_loading_info": True, "ignore_mismatched_sizes": True}


@contextmanager
def _named_errors(checkpoint: Checkpoint, model_class: type[PreTrainedModel]) -> Iterator[None]:
    """Translate exceptions from Transformers' loader to errors that name the checkpoint."""
    try:
        yield
    except OnnxportError:
        raise
    except ImportError as error:
        raise MissingDependencyError(f"{checkpoint.name}: reading its weights needs a package: {error}") from error
    except construction_failures() as error:
        raise CorruptCheckpointError(
            f"{checkpoint.name}: {model_class.__name__} couldn't be constructed from "
            f"{', '.join(path.name for path in checkpoint.weight_files[:3])} "
            f"({type(error).__name__}: {_first_lines(error)}); check config.json against the weights"
        ) from error


def _load_tensorflow(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], config: PreTrainedConfig, options: CheckpointOptions
) -> PreTrainedModel:
    from onnxport.loading.tensorflow import read_tensorflow_state

    path = checkpoint.weight_files[0]
    try:
        model = model_class._from_config(config)
        state = read_tensorflow_state(path, model)
    except WeightsMismatchError as mismatch:
        # As with the other formats, a checkpoint without a pooler is loaded into a model without one.
        if "add_pooling_layer" not in inspect.signature(model_class.__init__).parameters:
            raise
        try:
            model = model_class._from_config(config, add_pooling_layer=False)
            state = read_tensorflow_state(path, model)
        except WeightsMismatchError:
            raise mismatch from None
    outcome = model.load_state_dict(state, strict=False)
    report = LoadReport.of(
        {"missing_keys": set(outcome.missing_keys), "unexpected_keys": set(outcome.unexpected_keys)}, None
    )
    check_complete(report, model, checkpoint)
    model = model.to(dtype_of(options))
    if checkpoint.adapter is not None:
        merge = plan_merge(checkpoint.adapter, model)
        untie(merge, model)
        merge_in_memory(merge, model)
    return cast("PreTrainedModel", model)


def attach_generation_config(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Load `generation_config.json` into a generative model.

    Raises:
        CorruptCheckpointError: the file can't be read.
    """
    if checkpoint.format == "gguf" or not model.can_generate():
        return
    from transformers import GenerationConfig

    if (checkpoint.directory / "generation_config.json").is_file():
        try:
            model.generation_config = GenerationConfig.from_pretrained(checkpoint.directory, local_files_only=True)
        except construction_failures() as error:
            raise CorruptCheckpointError(
                f"{checkpoint.directory / 'generation_config.json'}: {type(error).__name__} while reading it: "
                f"{_first_lines(error)}; correct or remove the file"
            ) from error


def generation_config_for(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, preprocessor: object
) -> GenerationConfig | None:
    """Create the generation configuration of a checkpoint without a `generation_config.json` (GGUF), like Transformers.

    Args:
        model_class: the class that loads the checkpoint.
        config: its configuration, whose special token ids take precedence.
        preprocessor: tokenizer or processor with the other special token ids; may be None.

    Returns:
        The generation configuration; None for a class that doesn't generate.
    """
    from transformers import GenerationConfig

    if not model_class.can_generate():
        return None
    generation_config = GenerationConfig.from_model_config(config)
    generation_config._from_model_config = False  # it is saved to a file
    tokenizer = getattr(preprocessor, "tokenizer", preprocessor)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    missing = [name for name in names if getattr(generation_config, name) is None]
    generation_config.update(**{name: getattr(tokenizer, name, None) for name in missing})
    return generation_config


def dtype_of(options: CheckpointOptions) -> torch.dtype:
    """Return the torch dtype for the `dtype` option."""
    import torch

    return cast("torch.dtype", getattr(torch, _DTYPE_NAMES[options.dtype]))


def _device(options: CheckpointOptions) -> torch.device:
    import torch

    try:
        device = torch.device(options.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise OptionError(
            f"--device {options.device!r} can't be used here ({_first_lines(error)}); use cpu, or a device that "
            f"the installed torch supports"
        ) from error
    return device


def _first_lines(error: BaseException, limit: int = 300) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
