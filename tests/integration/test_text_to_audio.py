"""Models that generate audio from text, in several graphs, return the audio of Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers

import onnxport
from conformance.checkpoints import randomize
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions, OnnxportError
from onnxport.cli import main
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


TEXT_ENCODER = {
    **{"model_type": "t5", "vocab_size": 64, "num_layers": 1, "num_heads": 3},
    **{"d_model": 24, "d_kv": 8, "d_ff": 37},
}
AUDIO_ENCODER = {
    **{"model_type": "encodec", "num_filters": 4, "hidden_size": 8, "codebook_size": 32, "codebook_dim": 8},
    **{"upsampling_ratios": [4, 2], "target_bandwidths": [80.0], "sampling_rate": 32_000, "num_lstm_layers": 1},
}
"""Encoders of MusicGen and MusicGen Melody."""


def musicgen(parent: Path, channels: int = 1) -> tuple[Any, Path]:
    """Return MusicGen, whose text encoder is smaller than its decoder, and the checkpoint."""
    codes = {"vocab_size": 32, "num_codebooks": 4 * channels, "audio_channels": channels, "pad_token_id": 32}
    layers = {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 37, "num_attention_heads": 4}
    decoder = {"model_type": "musicgen_decoder", **codes, **layers, "max_position_embeddings": 128}
    torch.manual_seed(0)
    config = transformers.MusicgenConfig(
        text_encoder={**TEXT_ENCODER}, audio_encoder={**AUDIO_ENCODER}, decoder=decoder
    )
    model = transformers.MusicgenForConditionalGeneration(config)
    model.generation_config.update(decoder_start_token_id=32, pad_token_id=32, bos_token_id=32, guidance_scale=3.0)
    checkpoint = saved(parent, f"musicgen-{channels}", model, make_tokenizer("t5", 60, 0, "<unk>"))
    return transformers.MusicgenForConditionalGeneration.from_pretrained(checkpoint).eval(), checkpoint


def assert_same_audio(loaded: Any, model: Any, **inputs: Any) -> None:
    found, expected = [], []
    for one, results in ((loaded, found), (model, expected)):
        torch.manual_seed(0)  # of the tokens that are sampled
        results.append(one.generate(**{"do_sample": False, **inputs}))
    assert_close(found, expected)


def test_musicgen_generates_audio(parent: Path) -> None:
    model, checkpoint = musicgen(parent)
    output = export_of(checkpoint)
    loaded: Any = onnxport.load(output)
    input_ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(input_ids)
    mask[1, 5:] = 0
    prompt = {"input_ids": input_ids, "attention_mask": mask}
    assert_same_audio(loaded, model, **prompt, max_new_tokens=20)  # with guidance
    assert_same_audio(loaded, model, **prompt, max_new_tokens=9, guidance_scale=1.0, do_sample=True)  # six frames
    assert_same_audio(loaded, model, **model.get_unconditional_inputs(num_samples=2), max_new_tokens=20)
    with pytest.raises(OnnxportError, match=r"input_values: no graph of .* takes it \(the export has no encoder of au"):
        loaded.generate(**prompt, input_values=torch.zeros(2, 1, 64))
    with pytest.raises(OnnxportError, match=r"the tokens for .* are missing: pass decoder_input_ids"):
        loaded(**prompt)
    names = {graph.component for graph in onnxport.inspect(output).graphs}
    assert names == {"text_encoder", "decoder_model_merged", "encodec_decode"}  # as transformers.js loads them
    settings = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 12}}
    found = onnxport.pipeline("text-to-audio", output)("ab cd", **settings)
    expected = transformers.pipeline("text-to-audio", model=str(checkpoint), device="cpu")("ab cd", **settings)
    assert found["sampling_rate"] == expected["sampling_rate"] == 32_000
    np.testing.assert_allclose(found["audio"], expected["audio"], atol=1e-4, rtol=1e-3)


def test_run_writes_audio(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, file = export_of(musicgen(parent)[1]), tmp_path / "a.wav"
    command = ["run", str(output), "--text", "ab cd", "--max-new-tokens", "12", "--greedy"]
    capsys.readouterr()
    assert main([*command, "--save", str(file), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    settings = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 12}}
    expected = onnxport.pipeline("text-to-audio", output)("ab cd", **settings)["audio"].reshape(-1)
    samples, rate = soundfile.read(file, dtype="float32")
    assert (rate, found) == (
        32_000, {"seconds": len(expected) / 32_000, "channels": 1, "sampling_rate": 32_000}
    )  # fmt: skip
    np.testing.assert_allclose(samples, expected.clip(-1, 1), atol=1e-4)
    assert main(command) == 0
    assert "--save FILE writes it" in capsys.readouterr().out
    for more, message in (
        (["--text", "second"], "takes one text alone"),
        (["--save", str(tmp_path)], "Is a directory"),
        (["--language", "en"], "--language can't be used"),
    ):
        assert main([*command, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["speecht5", "musicgen"])
def test_bench(name: str, parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, checkpoint = {"speecht5": speecht5, "musicgen": musicgen}[name](parent)
    few = ["--prompt-tokens", "9", "--new-tokens", "2", "--batch", "2"]
    assert main(["bench", str(export_of(checkpoint)), *few, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decode_tokens_per_second"] > 0
    assert 0 < found["session_share"] < 1


@pytest.mark.wide
def test_musicgen_generates_stereo(parent: Path) -> None:
    model, checkpoint = musicgen(parent, channels=2)
    loaded: Any = onnxport.load(export_of(checkpoint))
    input_ids = torch.randint(5, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    assert_same_audio(loaded, model, input_ids=input_ids, max_new_tokens=20)


def melody(parent: Path, hidden_size: int) -> tuple[Any, Path]:
    """Return MusicGen Melody, and the checkpoint; a text encoder of the same size as the decoder has no projection."""
    codes = {"vocab_size": 32, "num_codebooks": 4, "audio_channels": 1, "pad_token_id": 32, "bos_token_id": 32}
    layers = {"hidden_size": hidden_size, "num_hidden_layers": 2, "ffn_dim": 37, "num_attention_heads": 4}
    decoder = {"model_type": "musicgen_melody_decoder", **codes, **layers, "max_position_embeddings": 256}
    torch.manual_seed(0)
    config = transformers.MusicgenMelodyConfig(
        text_encoder={**TEXT_ENCODER}, audio_encoder={**AUDIO_ENCODER}, decoder=decoder, num_chroma=12, chroma_length=9
    )
    model = transformers.MusicgenMelodyForConditionalGeneration(config)
    model.generation_config.update(decoder_start_token_id=32, pad_token_id=32, bos_token_id=32, guidance_scale=3.0)
    checkpoint = saved(parent, f"melody-{hidden_size}", model, make_tokenizer("t5", 60, 0, "<unk>"))
    return transformers.MusicgenMelodyForConditionalGeneration.from_pretrained(checkpoint).eval(), checkpoint


@pytest.mark.parametrize("hidden_size", [32, pytest.param(24, marks=pytest.mark.wide)])
def test_musicgen_melody_generates_audio(hidden_size: int, parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, checkpoint = melody(parent, hidden_size)
    output = export_of(checkpoint)
    loaded: Any = onnxport.load(output)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, 50, (2, 7), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 5:] = 0
    text = {"input_ids": input_ids, "attention_mask": mask}
    chroma = {"input_features": torch.rand(2, 6, 12, generator=generator)}
    assert_same_audio(loaded, model, **text, max_new_tokens=12)  # with guidance
    assert_same_audio(loaded, model, **text, **chroma, max_new_tokens=9, guidance_scale=1.0, do_sample=True)
    assert_same_audio(loaded, model, **chroma, max_new_tokens=9)
    codes = torch.randint(0, 32, (8, 3), generator=generator)
    with torch.no_grad():
        expected = model(**text, **chroma, decoder_input_ids=codes).logits
    assert_close(loaded(**text, **chroma, decoder_input_ids=codes).logits, expected)
    with pytest.raises(OnnxportError, match="decoder_attention_mask"):
        loaded(**text, decoder_input_ids=codes, decoder_attention_mask=torch.tensor([[0, 1, 1]] * 2))
    with pytest.raises(OnnxportError, match="decoder_input_ids are missing"):
        loaded(**text)
    assert onnxport.pipeline("text-to-audio", output)("a tune", generate_kwargs={"max_new_tokens": 9})["audio"].size
    assert main(["bench", str(output), "--prompt-tokens", "5", "--new-tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decode_tokens_per_second"] > 0


def bark(parent: Path) -> tuple[Any, Path]:
    """Return Bark with a vocabulary of 20 semantic tokens and 4 codebooks of 16 codes, and the checkpoint."""
    layers = {"num_layers": 1, "num_heads": 2, "hidden_size": 16, "block_size": 64}
    fine = {"input_vocab_size": 17, "output_vocab_size": 17, "n_codes_total": 4, "n_codes_given": 1}
    codec = {"num_filters": 4, "hidden_size": 8, "codebook_size": 16, "codebook_dim": 8, "upsampling_ratios": [4, 2]}
    torch.manual_seed(0)
    config = transformers.BarkConfig(
        semantic_config={**layers, "input_vocab_size": 140, "output_vocab_size": 24},
        coarse_acoustics_config={**layers, "input_vocab_size": 60, "output_vocab_size": 60},
        fine_acoustics_config={**layers, **fine},
        codec_config={"model_type": "encodec", **codec, "target_bandwidths": [48.0], "num_lstm_layers": 1},
    )
    model = transformers.BarkModel(config)
    semantic = {"eos_token_id": 20, "pad_token_id": 20, "semantic_pad_token": 20, "semantic_vocab_size": 20}
    semantic |= {"text_encoding_offset": 30, "text_pad_token": 130, "semantic_infer_token": 131, "max_new_tokens": 10}
    coarse = {"coarse_semantic_pad_token": 54, "coarse_infer_token": 55, "pad_token_id": 54, "n_coarse_codebooks": 2}
    coarse |= {"max_coarse_input_length": 8, "max_coarse_history": 12, "sliding_window_len": 6}
    model.generation_config = transformers.GenerationConfig(
        semantic_config={**semantic, "max_input_semantic_length": 8},
        coarse_acoustics_config=coarse,
        fine_acoustics_config={"max_fine_history_length": 8, "max_fine_input_length": 16, "n_fine_codebooks": 4},
        **{"sample_rate": 24_000, "codebook_size": 16},
    )
    checkpoint = saved(parent, "bark", model, make_tokenizer("bert", 60, 0, "[UNK]"))
    return transformers.BarkModel.from_pretrained(checkpoint).eval(), checkpoint


def test_bark_generates_audio(parent: Path) -> None:
    model, checkpoint = bark(parent)
    output = parent / "bark-onnx"
    result = onnxport.export(checkpoint, output, ExportOptions(stamping=False))
    assert result.manifest.validation["status"] == "passed"
    loaded: Any = onnxport.load(output)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(5, 50, (2, 8), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 6:] = 0
    prompt = {"input_ids": input_ids, "attention_mask": mask}
    shapes = {"semantic_prompt": (20, (11,)), "coarse_prompt": (16, (2, 15)), "fine_prompt": (16, (4, 15))}
    voice = {name: torch.randint(0, high, shape, generator=generator) for name, (high, shape) in shapes.items()}
    assert_same_audio(loaded, model, **prompt)
    assert_same_audio(loaded, model, **prompt, history_prompt=voice, return_output_lengths=True)
    assert_same_audio(loaded, model, **prompt, do_sample=True, fine_temperature=0.7)
    with pytest.raises(OnnxportError, match="with several models: call generate"):
        loaded(**prompt)
    settings = {"preprocess_params": {"max_length": 8}}
    found = onnxport.pipeline("text-to-audio", output)("ab cd", **settings)
    expected = transformers.pipeline("text-to-audio", model=str(checkpoint), device="cpu")("ab cd", **settings)
    assert found["sampling_rate"] == expected["sampling_rate"] == 24_000
    np.testing.assert_allclose(found["audio"], expected["audio"], atol=1e-4, rtol=1e-3)
