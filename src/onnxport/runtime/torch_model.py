"""Choose the class that runs an exported directory as a Transformers model."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from onnxport._foreign_errors import translating
from onnxport._transformers_api import model_class_named
from onnxport.description.components import AUDIO_DECODER, CODES_DECODER, POSTNET, PROMPT_DECODER
from onnxport.errors import CorruptCheckpointError, UnsupportedError, brief
from onnxport.runtime.bark import SEMANTIC_MODEL, bark
from onnxport.runtime.codecs import OnnxCodec
from onnxport.runtime.directory import Directory
from onnxport.runtime.encoder_decoders import (
    OnnxCaptioner,
    OnnxEncoderDecoder,
    OnnxImageTextSeq2Seq,
    OnnxSeq2Seq,
    OnnxSpeechSeq2Seq,
    OnnxTranslator,
    prompts_decoder,
)
from onnxport.runtime.mask_generation import OnnxMaskGenerator, OnnxPrompts
from onnxport.runtime.models import (
    OnnxCausalLM,
    OnnxModel,
    OnnxSplitEncoders,
)
from onnxport.runtime.multimodal import OnnxMultimodal
from onnxport.runtime.music import musicgen_class
from onnxport.runtime.speech import OnnxTextToSpeech


def torch_model(directory: Directory) -> OnnxModel:
    """Return the model class for a directory's components.

    Raises:
        UnsupportedError: no class runs them.
    """
    config = _load_config(directory)
    if directory.has(SEMANTIC_MODEL):
        return bark(directory, config)
    exported = model_class_named(directory.manifest.architecture)
    if exported is not None and directory.has(AUDIO_DECODER):
        return musicgen_class(exported)(directory, config)
    if directory.has("decoder_model_merged"):
        if not directory.has("encoder_model"):
            return OnnxMultimodal(directory, config)
        if directory.has("vision_encoder"):
            return OnnxImageTextSeq2Seq(directory, config)
        if directory.has(POSTNET):
            return OnnxTextToSpeech(directory, config)
        if "logits" not in directory.graph("decoder_model_merged").outputs:
            return OnnxEncoderDecoder(directory, config)
        if exported is not None and issubclass(exported, WhisperGenerationMixin):
            return OnnxSpeechSeq2Seq(directory, config)
        if exported is not None and prompts_decoder(exported):
            return OnnxCaptioner(directory, config)
        if "tgt_lang" in inspect.signature(getattr(exported, "generate", OnnxModel)).parameters:
            return OnnxTranslator(directory, config)
        return OnnxSeq2Seq(directory, config)
    if directory.has("text_model"):
        return OnnxSplitEncoders(directory, config)
    if directory.has(PROMPT_DECODER):
        return OnnxPrompts(directory, config)
    if directory.has(CODES_DECODER):
        return OnnxCodec(directory, config)
    if not directory.has("model"):
        names = ", ".join(directory.component_names)
        raise UnsupportedError(f"{directory.path} has the graphs {names}, which onnxport.load can't run together")
    if directory.task == "text-generation":
        return OnnxCausalLM(directory, config)
    return (OnnxMaskGenerator if directory.task == "mask-generation" else OnnxModel)(directory, config)


def _load_config(directory: Directory) -> PreTrainedConfig:
    """Load the configuration; without a class in Transformers, load its values alone.

    Raises:
        CorruptCheckpointError: Transformers refuses a value.
    """
    model_type = str(directory.config.get("model_type"))
    with translating(partial(_refused, directory.path / "config.json")):
        if model_type not in CONFIG_MAPPING_NAMES:
            return PreTrainedConfig.from_dict(directory.config)
        return AutoConfig.from_pretrained(directory.path, trust_remote_code=False, local_files_only=True)


def _refused(file: Path, error: Exception) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{file}: {type(error).__name__} while reading it: {brief(str(error))}; correct that value, or export again"
    )
