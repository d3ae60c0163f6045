"""Models that generate audio from text, in several graphs, return the audio of Transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions, OnnxportError
from onnxport.layouts import rearrange
from tests.integration.tiny_models import saved


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text-to-audio")


def export_of(checkpoint: Path) -> Path:
    """Export a checkpoint once, for the task that is inferred, and validate it."""
    output = checkpoint.with_name(f"{checkpoint.name}-onnx")
    if not output.exists():
        result = onnxport.export(checkpoint, output, ExportOptions(stamping=False))
        assert result.manifest.validation["status"] == "passed"
        assert result.manifest.task == "text-to-audio-with-past"
    return output


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def speecht5(parent: Path) -> tuple[Any, Path]:
    """Return SpeechT5 without the dropout of its prenet, which is random, and the checkpoint."""
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    units = {"speech_decoder_prenet_units": 16, "speech_decoder_postnet_units": 16, "speech_decoder_postnet_layers": 3}
    sizes = {"hidden_size": 32, "num_mel_bins": 8, "speaker_embedding_dim": 12}
    torch.manual_seed(0)
    config = transformers.SpeechT5Config(vocab_size=81, **layers, **heads, **units, **sizes)
    tokenizer = make_tokenizer("bart", 60, 0, "<unk>")
    checkpoint = saved(parent, "speecht5", transformers.SpeechT5ForTextToSpeech(config), tokenizer)
    model = transformers.SpeechT5ForTextToSpeech.from_pretrained(checkpoint).eval()
    return without_dropout(model), checkpoint


def without_dropout(model: Any) -> Any:
    model.speecht5.decoder.prenet._consistent_dropout = lambda hidden_states, _: hidden_states
    return model


def vocoder() -> Any:
    torch.manual_seed(0)
    model = transformers.SpeechT5HifiGan(
        transformers.SpeechT5HifiGanConfig(model_in_dim=8, upsample_initial_channel=16)
    )
    randomize(model)
    return model.eval()


def speech_inputs() -> dict[str, torch.Tensor]:
    """Return two texts, the second of which is padded, and their speakers."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, 50, (2, 7), generator=generator)
    input_ids[1, 5:] = 1
    return {"input_ids": input_ids, "speaker_embeddings": torch.randn(2, 12, generator=generator)}


def test_speecht5_generates_speech(parent: Path) -> None:
    model, checkpoint = speecht5(parent)
    loaded: Any = onnxport.load(export_of(checkpoint))
    inputs = speech_inputs()
    mask = (inputs["input_ids"] != 1).long()
    settings: list[dict[str, Any]] = [
        {"threshold": 1.0},  # the sequences end after different numbers of steps
        {"threshold": 0.1, "minlenratio": 2.0, "attention_mask": mask},
        {"threshold": 3.0, "maxlenratio": 2.0, "vocoder": vocoder(), "return_output_lengths": True},
    ]
    for arguments in settings:
        assert_close(loaded.generate_speech(**inputs, **arguments), model.generate_speech(**inputs, **arguments))
    alone = {name: value[:1] for name, value in inputs.items()}
    assert_close(loaded.generate(**alone, vocoder=vocoder()), model.generate(**alone, vocoder=vocoder()))
    with pytest.raises(OnnxportError, match="2 speaker_embeddings for 1 sequences"):
        loaded.generate_speech(alone["input_ids"], inputs["speaker_embeddings"])
    with pytest.raises(OnnxportError, match="call generate_speech, or export --task text-to-audio"):
        loaded(**inputs)


def test_the_pipeline_of_speecht5(parent: Path) -> None:
    _, checkpoint = speecht5(parent)
    settings = {"speaker_embeddings": speech_inputs()["speaker_embeddings"][:1], "threshold": 1.2}
    original = transformers.pipeline("text-to-audio", model=str(checkpoint), device="cpu", vocoder=vocoder())
    without_dropout(original.model)
    expected = original(["ab cd", "abc"], forward_params=settings)
    exported_vocoder = parent / "vocoder-onnx"
    onnxport.export(saved(parent, "vocoder", vocoder()), exported_vocoder, ExportOptions(validate="none"))
    for one in (vocoder(), onnxport.load(exported_vocoder)):
        ours = onnxport.pipeline("text-to-audio", export_of(checkpoint), vocoder=one)
        found = ours(["ab cd", "abc"], forward_params=settings)
        assert [audio["sampling_rate"] for audio in found] == [16_000] * 2
        for audio, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(audio["audio"], other["audio"], atol=1e-4, rtol=1e-3)


def test_speecht5_as_transformers_js_loads_it(parent: Path) -> None:
    model, checkpoint = speecht5(parent)
    manifest = rearrange(export_of(checkpoint), "transformers.js", parent / "js")
    encoder, decoder, _ = manifest.components
    assert [value.name for value in encoder.inputs] == ["input_ids"]  # the graph masks padding
    assert [value.name for value in encoder.outputs] == ["encoder_outputs", "encoder_attention_mask"]
    assert {"output_sequence", "speaker_embeddings", "encoder_attention_mask"} <= {one.name for one in decoder.inputs}
    assert [value.name for value in decoder.outputs][:3] == ["spectrum", "prob", "output_sequence_out"]
    assert len(decoder.outputs[0].axes) == 2  # it concatenates the frames of all steps on the first axis
    inputs, loaded = speech_inputs(), onnxport.load(parent / "js")
    expected = model.generate_speech(**inputs, threshold=1.2)
    assert_close(loaded.generate_speech(**inputs, threshold=1.2), expected)
    with pytest.raises(OnnxportError, match="attention_mask has padding tokens"):
        loaded.generate_speech(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]))
