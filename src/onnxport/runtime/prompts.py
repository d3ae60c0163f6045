"""Make a model's inputs of prompts with images and audio, with the processor of an exported directory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import transformers

from onnxport._foreign_errors import translating
from onnxport._transformers_api import model_class_named
from onnxport.description.encoder_outputs import completed_modalities
from onnxport.description.image_processing import IMAGES, PIXEL_MASK, PIXEL_VALUES
from onnxport.errors import CheckpointNotFoundError, OnnxportError, OptionError, UnsupportedError
from onnxport.runtime.generators import Prompt, Turn
from onnxport.runtime.pipelines import load_preprocessor
from onnxport.runtime.raw_images import raw_images
from onnxport.runtime.template_limits import limited_rendering

if TYPE_CHECKING:
    from onnxport.description.encoder_outputs import Modality
    from onnxport.runtime.directory import Directory

Inputs = dict[str, torch.Tensor]


def load_required(auto_class: str, directory: Directory) -> Any:
    """Load a preprocessor of an exported directory, which may be a part of its processor; no code of it runs.

    Args:
        auto_class: `AutoTokenizer`, `AutoImageProcessor` or `AutoFeatureExtractor`.
        directory: the exported directory.

    Raises:
        CheckpointNotFoundError: the directory has none that the Auto class loads.
    """
    loaded, reason = load_preprocessor(auto_class, directory)
    if loaded is None:
        loaded = getattr(load_preprocessor("AutoProcessor", directory)[0], _PARTS[auto_class], None)
    if loaded is None:
        raise CheckpointNotFoundError(
            f"{directory.path} has no files that {auto_class} loads ({reason}); save those of the checkpoint in it"
        )
    return loaded


_PARTS = {
    "AutoTokenizer": "tokenizer",
    "AutoImageProcessor": "image_processor",
    "AutoFeatureExtractor": "feature_extractor",
}
"""Auto class to the attribute of a processor that it loads."""


class PromptEncoder:
    """Make a model's inputs of prompts.

    Args:
        directory: the exported directory.
        config: the model's configuration; None for a single graph, which needs no placeholders.
    """

    def __init__(self, directory: Directory, config: transformers.PreTrainedConfig | None = None) -> None:
        self._directory = directory
        self._config = config
        graphs = {item.name: {value.name for value in item.inputs} for item in directory.manifest.components}
        self._names = set().union(*graphs.values())
        self._prompts_decoder = {"input_ids", "inputs_embeds"}.isdisjoint(graphs.get("encoder_model", {"input_ids"}))

    @cached_property
    def _loaded(self) -> tuple[Any, str]:
        return load_preprocessor("AutoProcessor", self._directory)

    @property
    def processor(self) -> Any:
        """The processor; None if the directory has none."""
        return self._loaded[0]

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            CheckpointNotFoundError: the directory has none.
        """
        return getattr(self.processor, "tokenizer", None) or load_required("AutoTokenizer", self._directory)

    @cached_property
    def _feature_extractor(self) -> Any:
        names = ("feature_extractor", "audio_processor")
        found = next((part for name in names if (part := getattr(self.processor, name, None)) is not None), None)
        return found or load_required("AutoFeatureExtractor", self._directory)

    @property
    def sampling_rate(self) -> int:
        """Samples per second of audio clips, in Hz.

        Raises:
            CheckpointNotFoundError: the directory has no feature extractor.
        """
        return int(self._feature_extractor.sampling_rate)

    def encode(self, prompt: Prompt) -> Inputs:
        """Make the inputs of one prompt.

        A multimodal decoder with a chat template gets a message of a user, unless the prompt has placeholder tokens.
        Without a template, the placeholders of its images and audio precede the text if it has none.

        Raises:
            OptionError: the processor refuses the prompt.
            CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        """
        if not self._directory.has("embed_tokens") or self._directory.has("encoder_model"):
            return self._accepted(self._processed(prompt, prompt.text))
        tokens = {name: token for name in ("image", "audio") if (token := self._placeholder(name))}
        has_placeholders = any(token in prompt.text for token in tokens.values())
        if getattr(self.processor, "chat_template", None) and not has_placeholders:
            return self.encode_chat([Turn("user", prompt)])
        before = tokens.get("image", "") * len(prompt.images) + tokens.get("audio", "") * len(prompt.audio)
        try:
            inputs = self._accepted(self._processed(prompt, prompt.text))
        except OptionError:
            if has_placeholders or not before:
                raise
            inputs = {}
        is_complete = "input_ids" in inputs and self._has_placeholders(inputs["input_ids"], prompt)
        if has_placeholders or not before or is_complete:
            return inputs
        return self._accepted(self._processed(prompt, before + prompt.text))

    def encode_batch(self, texts: Sequence[str], prompt: Prompt) -> Inputs:
        """Make the inputs of a batch of texts, with all images and audio clips.

        Args:
            texts: the texts.
            prompt: the images and audio clips; its text isn't used.

        Raises:
            OptionError: the processor refuses them.
            CheckpointNotFoundError: the directory lacks a tokenizer or processor.
        """
        return self._accepted(self._processed(prompt, list(texts)))

    def encode_chat(self, turns: Sequence[Turn]) -> Inputs:
        """Make the inputs of a conversation, which the model continues with the next message.

        Raises:
            UnsupportedError: the directory has no chat template.
            OptionError: the template or the processor refuses the conversation.
        """
        template = getattr(self.processor, "chat_template", None)
        if template is None and getattr(self.tokenizer, "chat_template", None) is None:
            raise UnsupportedError(
                f"{self._directory.path} has no chat template: the model wasn't trained for conversations; use "
                "onnxport run --prompt, which continues a text"
            )
        owner = self.processor if template is not None else self.tokenizer
        if template is None and any(turn.prompt.images or turn.prompt.audio for turn in turns):
            raise UnsupportedError(
                f"{self._directory.path} has a chat template for text only: use onnxport run with --prompt and --image "
                "or --audio"
            )
        messages = [
            {"role": turn.role, "content": turn.prompt.text if template is None else turn.prompt.content()}
            for turn in turns
        ]
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        with translating(self._refused):
            with limited_rendering():
                owner.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            made = owner.apply_chat_template(messages, **options)
        return self._accepted(made)

    def _processed(self, prompt: Prompt, text: str | list[str]) -> Mapping[str, Any]:
        """Return the inputs of a prompt; its images are passed on to a graph that processes them."""
        made = self._made(prompt, text)
        if IMAGES not in self._names or not prompt.images:
            return made
        others = {name: value for name, value in made.items() if name not in (PIXEL_VALUES, PIXEL_MASK)}
        return {**others, IMAGES: torch.from_numpy(raw_images(list(prompt.images)))}

    def _made(self, prompt: Prompt, text: str | list[str]) -> Mapping[str, Any]:
        """Return what the processor makes of a prompt, or the tokenizer and the processors of the other modalities."""
        if self.processor is None and self._replaced(prompt):
            raise CheckpointNotFoundError(
                f"{self._directory.path} has no files that AutoProcessor loads ({self._loaded[1]}), which makes the "
                "placeholder tokens of images and audio; save the checkpoint's processor in it"
            )
        has_text = bool(text) or (text == "" and not self._prompts_decoder)
        texts: dict[str, Any] = {"text": text} if has_text else {}
        options: dict[str, Any] = {"add_special_tokens": False} if self._prompts_decoder and has_text else {}
        options |= {"padding": True} if isinstance(text, list) and len(text) > 1 else {}
        images = {"images": list(prompt.images)} if prompt.images else {}
        audio = {"audio": list(prompt.audio), "sampling_rate": self.sampling_rate} if prompt.audio else {}
        with translating(self._refused):
            if self.processor is not None and (images or audio):
                made: Mapping[str, Any] = self.processor(**texts, **images, **audio, **options, return_tensors="pt")
                return made
            parts: dict[str, Any] = {}
            if texts:
                parts |= self.tokenizer(text, **options, return_tensors="pt")
            if images:
                image_processor = load_required("AutoImageProcessor", self._directory)
                parts |= image_processor(images["images"], return_tensors="pt")
            if audio:
                rate = self.sampling_rate
                parts |= self._feature_extractor(audio["audio"], sampling_rate=rate, return_tensors="pt")
            return parts

    def _refused(self, error: Exception) -> Exception | None:
        """Return the error for an exception of a processor; None for this package's own."""
        if isinstance(error, OnnxportError):
            return None
        reason = " ".join(str(error).split())[:300]
        tokens = [token for name in ("image", "audio") if (token := self._placeholder(name))]
        hint = f"; a prompt has {' or '.join(tokens)} for each image or audio clip, or none at all" if tokens else ""
        return OptionError(f"the processor of {self._directory.path} refuses the prompt: {reason}{hint}")

    def _accepted(self, made: Mapping[str, Any]) -> Inputs:
        """Return the tensors that the model takes; a decoder's prompt under its name."""
        original = model_class_named(self._directory.manifest.architecture)
        known = set(self._names)
        if original is not None and not self._directory.has("model"):
            known |= inspect.signature(original.forward).parameters.keys()
        inputs = {name: value for name, value in made.items() if isinstance(value, torch.Tensor) and name in known}
        inputs.pop("labels", None)  # Donut's processor makes them of every prompt
        if self._prompts_decoder:
            prompt = inputs.pop("input_ids", None)
            for name in ("attention_mask", "decoder_attention_mask") if prompt is not None else ():
                inputs.pop(name, None)
            if prompt is not None:
                inputs["decoder_input_ids"] = prompt
        return inputs

    def _placeholder(self, modality: str) -> str | None:
        """Return the text of the placeholder token of an image or of audio; None if the model has none."""
        names = {"image": ("boi_token", "image_token"), "audio": ("audio_token",)}[modality]
        found = next((token for name in names if (token := getattr(self.processor, name, None))), None)
        if found is not None:
            return str(found)
        index = next((item.placeholder_token_id for item in self._modalities if item.name == modality), None)
        return None if index is None else str(self.tokenizer.convert_ids_to_tokens(index))

    @cached_property
    def _modalities(self) -> tuple[Modality, ...]:
        found = self._directory.modalities
        return found if self._config is None else completed_modalities(found, self._config)

    def _replaced(self, prompt: Prompt) -> list[Modality]:
        """Return the modalities of a prompt that replace placeholder tokens."""
        passed = {"image": bool(prompt.images), "audio": bool(prompt.audio)}
        return [item for item in self._modalities if passed.get(item.name) and item.merge == "replace"]

    def _has_placeholders(self, input_ids: torch.Tensor, prompt: Prompt) -> bool:
        """Return whether there are placeholder tokens for each modality of a prompt that replaces them."""
        ids = [item.placeholder_token_id for item in self._replaced(prompt) if item.placeholder_token_id is not None]
        return all(bool((input_ids == index).any()) for index in ids)
