"""The text configuration is found by one module, also for models with two of them."""

from pathlib import Path
from types import SimpleNamespace

import transformers

import onnxport
from onnxport.architectures.describe import describe
from onnxport.description.examples import Examples
from onnxport.description.signature import signature_of
from onnxport.description.tasks import canonical_task
from onnxport.description.text_configs import text_config_of


def musicgen() -> transformers.MusicgenConfig:
    parts = (transformers.T5Config(), transformers.EncodecConfig(), transformers.MusicgenDecoderConfig())
    text, audio, decoder = (part.to_dict() for part in parts)
    return transformers.MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder)


def test_the_named_one_of_two_is_returned() -> None:
    config = musicgen()
    assert text_config_of(config, "encoder") is config.text_encoder
    assert text_config_of(config, "decoder") is text_config_of(config) is config.decoder


def test_a_single_one_is_that_of_transformers() -> None:
    for config in (transformers.LlavaConfig(), transformers.BertConfig(), transformers.T5Config()):
        for part in ("encoder", "decoder"):
            assert text_config_of(config, part) is config.get_text_config()
    plain = SimpleNamespace(vocab_size=3)
    assert text_config_of(plain) is plain


def test_no_other_module_calls_get_text_config() -> None:
    source = Path(onnxport.__file__).parent
    asking = [path.name for path in source.rglob("*.py") if "get_text_config(" in path.read_text()]
    assert asking == ["text_configs.py"]


def test_a_model_with_two_text_configurations_is_described() -> None:
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 99}
    audio = {"num_filters": 2, "hidden_size": 8, "codebook_size": 32, "codebook_dim": 8, "upsampling_ratios": [2, 2]}
    config = transformers.MusicgenConfig(
        text_encoder={"model_type": "t5", **text},
        audio_encoder={"model_type": "encodec", **audio},
        decoder={**sizes, "ffn_dim": 16, "num_codebooks": 2, "pad_token_id": 31, "bos_token_id": 31},
    )
    model = transformers.MusicgenForConditionalGeneration(config).eval()
    (component,) = describe(model, canonical_task("text-to-audio"), None)
    assert {"input_ids", "attention_mask", "decoder_input_ids"} <= set(component.config.inputs)
    assert "logits" in component.config.outputs
    examples = Examples(component.config, signature_of(component.config), component.preprocessor).at({"batch": 9})
    assert examples.flat["input_ids"].max() >= 32 > examples.flat["decoder_input_ids"].max()  # the decoder's codes
