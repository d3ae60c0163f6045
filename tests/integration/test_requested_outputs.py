"""`--outputs` adds outputs of the model to its graphs; `onnxport.load` returns them under Transformers' names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import onnxport
from conformance.checkpoints import make_checkpoint, randomize
from conformance.matrix.tiny import checkpoint_of
from conformance.preprocessors import make_tokenizer
from onnxport import ExportOptions
from onnxport.errors import OptionError, UnsupportedError

LAYERS = 4
SIZES = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": LAYERS}
SIZES |= {"vocab_size": 99, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IDS = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(0))


def save(model: Any, directory: Path) -> Any:
    randomize(model)
    model.save_pretrained(directory)
    make_tokenizer("bart", 99, 2, "<unk>", token_type_ids=False).save_pretrained(directory)
    return type(model).from_pretrained(directory, attn_implementation="eager").eval()


def assert_equal(ours: Any, expected: Any) -> None:
    """Compare tensors, or tuples of them."""
    if isinstance(expected, tuple):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            assert_equal(one, other)
    else:
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


def names(manifest: onnxport.Manifest, index: int = 0) -> list[str]:
    outputs = [tensor.name for tensor in manifest.components[index].outputs]
    return [name for name in outputs if not name.startswith("present")]


def test_an_encoder_returns_hidden_states_and_attentions(tmp_path: Path) -> None:
    model = save(transformers.BertModel(transformers.BertConfig(**SIZES)), tmp_path / "checkpoint")
    options = ExportOptions(outputs=("hidden_states", "attentions", "pooler_output"))
    manifest = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", options).manifest
    hidden, attentions = ([f"{kind}.{n}" for n in range(LAYERS + 1)] for kind in ("hidden_states", "attentions"))
    assert sorted(names(manifest)) == sorted(["last_hidden_state", "pooler_output", *hidden, *attentions[:-1]])
    assert onnxport.Manifest.from_json(manifest.to_json()) == manifest
    with torch.no_grad():
        expected = model(IDS, output_hidden_states=True, output_attentions=True)
    ours = onnxport.load(tmp_path / "out")(input_ids=IDS)
    for name in ("last_hidden_state", "pooler_output", "hidden_states", "attentions"):
        assert_equal(ours[name], expected[name])
    assert onnxport.validate(tmp_path / "out").status == "passed"


def test_attentions_of_a_decoder_are_stamped(tmp_path: Path) -> None:
    model = save(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)), tmp_path / "checkpoint")
    result = onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(outputs=("attentions",)))
    component = result.manifest.components[0]
    assert component.notes == (f"model.layers: 2 layers traced and proved isomorphic, {LAYERS} stamped",)
    cache = [f"present.{n}.{kind}" for n in range(LAYERS) for kind in ("key", "value")]
    attentions = [f"attentions.{n}" for n in range(LAYERS)]
    assert [tensor.name for tensor in component.outputs] == ["logits", *cache, *attentions]
    ours = onnxport.load(tmp_path / "out")
    settings = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_attentions": True}
    expected, found = model.generate(IDS, **settings), ours.generate(IDS, **settings)
    assert torch.equal(found.sequences, expected.sequences)
    assert_equal(found.attentions, expected.attentions)
    with pytest.raises(UnsupportedError, match="no exported graph returns hidden_states: export with --outputs"):
        ours(input_ids=IDS, output_hidden_states=True)


def test_hidden_states_of_a_decoder_with_a_cache(gpt2: Path, tmp_path: Path) -> None:
    onnxport.export(gpt2, tmp_path / "out", ExportOptions(outputs=("hidden_states",)))
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2).eval()
    ours = onnxport.load(tmp_path / "out")
    first = ours(input_ids=IDS[:, :4], use_cache=True)
    second = ours(input_ids=IDS[:, 4:], past_key_values=first.past_key_values)
    with torch.no_grad():
        expected = model(IDS, output_hidden_states=True).hidden_states
    assert_equal(second.hidden_states, tuple(state[:, 4:] for state in expected))


@pytest.mark.wide
def test_logits_of_routers_with_a_cache(tmp_path: Path) -> None:
    sizes = {**SIZES, "num_hidden_layers": 3, "num_key_value_heads": 2, "intermediate_size": 64}
    config = transformers.MixtralConfig(**sizes)
    model = save(transformers.MixtralForCausalLM(config), tmp_path / "checkpoint")
    onnxport.export(tmp_path / "checkpoint", tmp_path / "out", ExportOptions(outputs=("router_logits",)))
    ours = onnxport.load(tmp_path / "out")
    first = ours(input_ids=IDS[:, :4], use_cache=True)
    second = ours(input_ids=IDS[:, 4:], past_key_values=first.past_key_values)
    with torch.no_grad():
        expected = model(IDS, output_router_logits=True).router_logits
    tokens = [logits.view(*IDS.shape, -1)[:, 4:].flatten(0, 1) for logits in expected]
    assert_equal(second.router_logits, tuple(tokens))


@pytest.mark.wide
def test_logits_of_routers_of_an_encoder_decoder(tmp_path: Path) -> None:
    checkpoint, _ = checkpoint_of("switch_transformers", "text2text-generation", tmp_path)
    outputs = ("encoder_router_logits", "decoder_router_logits")
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(outputs=outputs, validate="quick", stamping=False))
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    inputs = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    with torch.no_grad():
        expected = model(**inputs, output_router_logits=True)
    ours = onnxport.load(tmp_path / "out")(**inputs)
    for name in outputs:
        assert_equal(ours[name], expected[name])


@pytest.mark.wide
def test_each_graph_of_an_encoder_decoder(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("t5", "seq2seq-lm-with-past", tmp_path)
    options = ExportOptions(outputs=("encoder_attentions", "decoder_attentions", "cross_attentions"))
    manifest = onnxport.export(checkpoint, tmp_path / "out", options).manifest
    assert names(manifest) == ["last_hidden_state", "encoder_attentions.0", "encoder_attentions.1"]
    assert {name.partition(".")[0] for name in names(manifest, 1)} == {"logits", *options.outputs[1:]}
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokens = IDS[:, :3]
    with torch.no_grad():
        expected = model(input_ids=IDS, decoder_input_ids=tokens, output_attentions=True)
    ours = onnxport.load(tmp_path / "out")(input_ids=IDS, decoder_input_ids=tokens)
    for name in options.outputs:
        assert_equal(ours[name], expected[name])


def test_whisper_returns_the_time_of_each_token(tmp_path: Path) -> None:
    checkpoint = make_checkpoint("whisper", "speech2seq-lm-with-past", tmp_path)
    onnxport.export(checkpoint, tmp_path / "out", ExportOptions(outputs=("cross_attentions",), validate="quick"))
    original = transformers.AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint, attn_implementation="eager").eval()
    ours = onnxport.load(tmp_path / "out")
    config = original.config
    shape = (1, config.num_mel_bins, 2 * config.max_source_positions)
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    results = []
    for model in (original, ours):
        model.generation_config.alignment_heads = [[0, 0], [1, 1]]
        model.generation_config.no_timestamps_token_id = 50
        settings = {"return_token_timestamps": True, "return_dict_in_generate": True, "do_sample": False}
        results.append(model.generate(features, max_new_tokens=5, **settings))
    expected, found = results
    assert torch.equal(found["sequences"], expected["sequences"])
    np.testing.assert_allclose(found["token_timestamps"], expected["token_timestamps"], atol=1e-3)


def test_an_output_that_the_model_lacks_is_an_error(bert: Path, tmp_path: Path) -> None:
    message = "--outputs names nothing, which BertForMaskedLM doesn't return .* logits, hidden_states, attentions"
    with pytest.raises(OptionError, match=message):
        onnxport.export(bert, tmp_path / "out", ExportOptions(outputs=("nothing",)))
    for names in ((), "logits", ("a b",)):
        with pytest.raises(OptionError, match="isn't a list of names"):
            ExportOptions(outputs=names)
