"""The inferred task of a checkpoint's class: encoder-decoders generate, and decoders take their images or audio."""

import pytest
import transformers

from onnxport.architectures.classes import class_named, infer_task, model_class, supported_tasks

FROM_ENCODERS = {
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "image-to-text": "AutoModelForImageTextToText",
}
MULTIMODAL = {"image-to-text": "AutoModelForImageTextToText", "audio-text-to-text": "AutoModelForMultimodalLM"}


EXCEPTIONS = {
    "PI0ForConditionalGeneration": {"image-to-text"},  # it returns robot actions, not tokens
    "PI05ForConditionalGeneration": {"image-to-text"},
    "VibeVoiceForConditionalGeneration": {"automatic-speech-recognition"},  # it generates audio
    "KyutaiSpeechToTextForConditionalGeneration": {"automatic-speech-recognition"},  # audio is among its token ids
}


def registered(auto_class: str) -> set[str]:
    mapping = getattr(transformers, auto_class)._model_mapping._model_mapping
    names = (value if isinstance(value, tuple) else (value,) for value in mapping.values())
    return {name for found in names for name in found}


def conditional_generation() -> list[str]:
    auto_classes = {*FROM_ENCODERS.values(), *MULTIMODAL.values(), "AutoModelForMaskedLM", "AutoModelForCausalLM"}
    return sorted(name for auto_class in auto_classes for name in registered(auto_class) if name.endswith("Generation"))


def expected(name: str, config: transformers.PreTrainedConfig) -> set[str]:
    """Return the tasks that may be inferred for a class, all with a cache."""
    tasks = FROM_ENCODERS if config.is_encoder_decoder else MULTIMODAL
    if not config.is_encoder_decoder and name not in registered("AutoModelForMultimodalLM"):
        tasks = FROM_ENCODERS
    return {f"{task}-with-past" for task, auto_class in tasks.items() if name in registered(auto_class)}


@pytest.mark.parametrize("name", sorted(set(conditional_generation())))
def test_generative_models_have_a_generation_task_with_cache(name: str) -> None:
    config = getattr(transformers, name).config_class(architectures=[name])
    wanted = expected(name, config)
    wanted = EXCEPTIONS.get(name, wanted)
    if wanted:
        assert infer_task(config).full_name in wanted


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BartForConditionalGeneration", "text2text-generation-with-past"),
        ("MBartForConditionalGeneration", "text2text-generation-with-past"),
        ("MvpForConditionalGeneration", "text2text-generation-with-past"),
        ("PLBartForConditionalGeneration", "text2text-generation-with-past"),
        ("MarianMTModel", "text2text-generation-with-past"),
        ("T5Gemma2ForConditionalGeneration", "text2text-generation-with-past"),
        ("Florence2ForConditionalGeneration", "image-to-text-with-past"),
        ("GraniteSpeechForConditionalGeneration", "audio-text-to-text-with-past"),
        ("AudioFlamingo3ForConditionalGeneration", "text2text-generation-with-past"),
        ("KyutaiSpeechToTextForConditionalGeneration", "automatic-speech-recognition"),
        ("FuyuForCausalLM", "image-to-text-with-past"),
        ("BartForSequenceClassification", "text-classification"),
        ("BartForQuestionAnswering", "question-answering"),
        ("BartModel", "feature-extraction"),
        ("BertForMaskedLM", "fill-mask"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("OpenAIGPTLMHeadModel", "text-generation"),
        ("LlamaForCausalLM", "text-generation-with-past"),
        ("MusicgenForConditionalGeneration", "text-to-audio-with-past"),
        ("SpeechT5ForTextToSpeech", "text-to-audio-with-past"),
        ("FastSpeech2ConformerModel", "text-to-audio"),
    ],
)
def test_the_task_of_a_class(name: str, task: str) -> None:
    config = getattr(transformers, name).config_class(architectures=[name])
    assert infer_task(config).full_name == task


@pytest.mark.parametrize(
    "name",
    ["BertForPreTraining", "DPRReader", "TvpForVideoGrounding", "VisualBertForQuestionAnswering", "CLIPSegTextModel"],
)
def test_a_class_that_no_auto_class_lists_is_exported_as_it_is(name: str) -> None:
    found = class_named(name, {"CLIPSegTextModel": "clipseg_text_model"}.get(name, ""))
    config = found.config_class(architectures=[name])
    task = infer_task(config)
    assert task.full_name == "architecture"
    assert model_class(config, task) is found


def test_the_encoder_of_an_encoder_decoder_of_text_is_among_its_tasks() -> None:
    def tasks(config: transformers.PreTrainedConfig) -> list[str]:
        return [task.name for task in supported_tasks(config)]

    assert "text-encoding" in tasks(transformers.BartConfig())
    assert "text-encoding" not in tasks(transformers.WhisperConfig())
