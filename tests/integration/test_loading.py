"""Load tiny seeded models: every parameter is from the checkpoint, or an error names the missing ones."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AlbertConfig, BartConfig, BertConfig, GPT2Config, ViTConfig

from onnxport.checkpoint.checkpoint import open_checkpoint
from onnxport.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MissingDependencyError,
    OptionError,
    UnsupportedError,
    UntrustedCodeError,
    WeightsMismatchError,
)
from onnxport.loading.load import load_config, load_model, load_preprocessor
from onnxport.options import ExportOptions

OPTIONS = ExportOptions()
SMALL = {
    "vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 20,
}  # fmt: skip


def build(class_name: str, config: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.1, 0.1)
    model.tie_weights()
    return model


def load(directory: Path, class_name: str, options: ExportOptions = OPTIONS) -> Any:
    return load_model(open_checkpoint(directory, options), getattr(transformers, class_name), options)


def rewrite(directory: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(directory / "model.safetensors")
    change(state)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Any]:
    model = build("BertForMaskedLM", BertConfig(**SMALL))
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_loads_every_parameter(masked: tuple[Path, Any]) -> None:
    directory, saved = masked
    loaded = load(directory, "BertForMaskedLM")
    assert not loaded.training and loaded.dtype == torch.float32
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_casts(masked: tuple[Path, Any], name: Any, dtype: torch.dtype) -> None:
    loaded = load(masked[0], "BertForMaskedLM", ExportOptions(dtype=name))
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_sharded_and_pickled_are_the_same(masked: tuple[Path, Any], tmp_path: Path) -> None:
    saved = masked[1]
    saved.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(open_checkpoint(tmp_path / "shards", OPTIONS).weight_files) > 2
    (tmp_path / "bin").mkdir()
    saved.config.save_pretrained(tmp_path / "bin")
    torch.save(saved.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    for directory in (tmp_path / "shards", tmp_path / "bin"):
        state = load(directory, "BertForMaskedLM").state_dict()
        assert all(torch.equal(state[name], value) for name, value in saved.state_dict().items())


def test_the_head_of_another_task_is_ignored_and_no_pooler_is_initialized(
    masked: tuple[Path, Any], caplog: pytest.LogCaptureFixture
) -> None:
    directory, saved = masked
    with caplog.at_level(logging.INFO, logger="onnxport"):
        loaded = load(directory, "BertModel")
    assert loaded.pooler is None and "without one" in caplog.text and "cls.predictions" in caplog.text
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(loaded(ids).last_hidden_state, saved.bert(ids).last_hidden_state)


def test_a_missing_head_is_an_error(masked: tuple[Path, Any]) -> None:
    with pytest.raises(WeightsMismatchError, match=r"classifier\.bias, classifier\.weight.*saved from BertForMaskedLM"):
        load(masked[0], "BertForTokenClassification")
    # This head uses the pooler, so the pooler can't be omitted.
    with pytest.raises(WeightsMismatchError, match=r"bert\.pooler\.dense\.bias"):
        load(masked[0], "BertForSequenceClassification")


def test_a_missing_parameter_is_an_error(masked: tuple[Path, Any]) -> None:
    name = "bert.encoder.layer.1.output.dense.weight"
    rewrite(masked[0], lambda state: state.pop(name))
    with pytest.raises(WeightsMismatchError, match=rf"1 parameters have no tensor .*{name}"):
        load(masked[0], "BertForMaskedLM")


def test_unexpected_tensors_and_other_shapes_are_errors(masked: tuple[Path, Any]) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["bert.encoder.layer.2.output.dense.weight"] = torch.zeros(2)
        state["bert.embeddings.word_embeddings.weight"] = torch.zeros(31, 16)

    rewrite(masked[0], change)
    with pytest.raises(WeightsMismatchError) as caught:
        load(masked[0], "BertForMaskedLM")
    assert "1 tensors have no parameter: bert.encoder.layer.2.output.dense.weight" in str(caught.value)
    assert "bert.embeddings.word_embeddings.weight is [31, 16], must be [32, 16]" in str(caught.value)


def test_other_pretraining_heads_are_known(masked: tuple[Path, Any]) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["cls.seq_relationship.weight"] = torch.zeros(2, 16)
        state["cls.seq_relationship.bias"] = torch.zeros(2)
        state["bert.embeddings.position_ids"] = torch.arange(20)[None]

    rewrite(masked[0], change)
    assert load(masked[0], "BertForMaskedLM")


@pytest.mark.parametrize(
    ("saved", "wanted", "config"),
    [
        ("GPT2LMHeadModel", "GPT2Model", GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=20)),
        ("GPT2Model", "GPT2LMHeadModel", GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=20)),
        ("AlbertForMaskedLM", "AlbertForMaskedLM", AlbertConfig(embedding_size=8, **SMALL)),
        ("AlbertForMaskedLM", "AlbertModel", AlbertConfig(embedding_size=8, **SMALL)),
        ("ViTForImageClassification", "ViTModel",
         ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8,
                   patch_size=4)),
        ("BartForConditionalGeneration", "BartForConditionalGeneration",
         BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                    decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=20)),
    ],
)  # fmt: skip
def test_tied_weights_and_base_models(tmp_path: Path, saved: str, wanted: str, config: Any) -> None:
    model = build(saved, config)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, wanted)
    if saved == wanted:
        assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["Marian", "Pegasus"])
def test_sinusoidal_positions_that_were_not_saved_are_computed(tmp_path: Path, name: str) -> None:
    config = getattr(transformers, f"{name}Config")(
        vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, pad_token_id=1,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=20,
    )  # fmt: skip
    class_name = {"Marian": "MarianMTModel", "Pegasus": "PegasusForConditionalGeneration"}[name]
    torch.manual_seed(0)
    model = getattr(transformers, class_name)(config).eval()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: [state.pop(key) for key in list(state) if "embed_positions" in key])
    loaded = load(tmp_path, class_name)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())
    # Learned positions are never initialized.
    rewrite(tmp_path, lambda state: state.pop("model.encoder.layers.0.fc1.bias"))
    with pytest.raises(WeightsMismatchError, match=r"encoder\.layers\.0\.fc1\.bias"):
        load(tmp_path, class_name)


def test_a_declared_omission_must_not_be_random(masked: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = [r"intermediate\.dense\.weight", r"intermediate\.dense\.bias"]
    monkeypatch.setattr(transformers.BertForMaskedLM, "_keys_to_ignore_on_load_missing", patterns)
    rewrite(masked[0], lambda state: state.pop("bert.encoder.layer.0.intermediate.dense.bias"))
    assert load(masked[0], "BertForMaskedLM")
    rewrite(masked[0], lambda state: state.pop("bert.encoder.layer.0.intermediate.dense.weight"))
    with pytest.raises(WeightsMismatchError, match=r"layer\.0\.intermediate\.dense\.weight"):
        load(masked[0], "BertForMaskedLM")


def test_a_parameter_that_was_loaded_under_another_name_is_not_missing(masked: tuple[Path, Any]) -> None:
    from onnxport.loading.accounting import LoadReport, _unreported

    model = load(masked[0], "BertForMaskedLM")
    model._keys_to_ignore_on_load_missing = [r"intermediate\.dense\.weight"]
    report = LoadReport(frozenset(), frozenset(), frozenset(), {})
    assert not list(_unreported(report, model))
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    del model.get_parameter(name)._is_hf_initialized
    assert list(_unreported(report, model)) == [name]


def test_gpt2_masks_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    build("GPT2LMHeadModel", GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)

    def change(state: dict[str, torch.Tensor]) -> None:
        state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
        state["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

    rewrite(tmp_path, change)
    assert load(tmp_path, "GPT2LMHeadModel")


def test_an_encoder_decoder_without_the_encoders_pooler(tmp_path: Path) -> None:
    vit = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8,
                    patch_size=4)  # fmt: skip
    gpt2 = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2, n_positions=20, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, gpt2)
    build("VisionEncoderDecoderModel", config).save_pretrained(tmp_path)
    rewrite(tmp_path, lambda state: [state.pop(name) for name in list(state) if "pooler" in name])
    assert load(tmp_path, "VisionEncoderDecoderModel").encoder.pooler is None


def test_config_errors(masked: tuple[Path, Any]) -> None:
    directory = masked[0]
    path = directory / "config.json"
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {"model_type": "brt"}))
    with pytest.raises(UnsupportedError, match=r"'brt'.*nearest.*bert"):
        load_config(open_checkpoint(directory, OPTIONS), OPTIONS)
    path.write_text(json.dumps(good | {"hidden_size": "wide"}))
    with pytest.raises(CorruptCheckpointError, match=r"config\.json.*hidden_size"):
        load_config(open_checkpoint(directory, OPTIONS), OPTIONS)


def test_code_runs_only_with_the_flag(masked: tuple[Path, Any]) -> None:
    directory = masked[0]
    (directory / "configuration_mine.py").write_text(
        "from transformers import BertConfig\n\nclass MineConfig(BertConfig):\n    model_type = 'mine'\n"
    )
    path = directory / "config.json"
    settings = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(UntrustedCodeError, match="--trust-remote-code"):
        open_checkpoint(directory, OPTIONS)
    trusting = ExportOptions(trust_remote_code=True)
    assert load_config(open_checkpoint(directory, trusting), trusting).model_type == "mine"
    (directory / "configuration_mine.py").write_text("import no_such_package_of_mine\n")
    with pytest.raises(MissingDependencyError, match="no_such_package_of_mine"):
        load_config(open_checkpoint(directory, trusting), trusting)
    (directory / "configuration_mine.py").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"configuration_mine\.py"):
        load_config(open_checkpoint(directory, trusting), trusting)


def test_unknown_device(masked: tuple[Path, Any]) -> None:
    for device in ("cuda:99", "toaster"):
        with pytest.raises(OptionError, match=f"--device '{device}'"):
            load(masked[0], "BertForMaskedLM", ExportOptions(device=device))


def test_nothing_is_printed_and_loggers_are_restored(masked: tuple[Path, Any], capfd: Any) -> None:
    from transformers.utils import logging as transformers_logging

    before = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), warnings.filters[:])
    load(masked[0], "BertModel")
    with pytest.raises(WeightsMismatchError):
        load(masked[0], "BertForTokenClassification")
    after = (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled(), warnings.filters[:])
    assert capfd.readouterr() == ("", "") and before == after


def test_generation_settings(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2)
    build("GPT2LMHeadModel", config).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 7}')
    assert load(tmp_path, "GPT2LMHeadModel").generation_config.max_new_tokens == 7


def test_preprocessors(masked: tuple[Path, Any]) -> None:
    directory = masked[0]

    def preprocessor() -> Any:
        return load_preprocessor(open_checkpoint(directory, OPTIONS), OPTIONS)

    assert preprocessor() is None
    (directory / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]))
    assert preprocessor()("a b")["input_ids"] == [2, 5, 6, 3]
    (directory / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CorruptCheckpointError, match=r"tokenizer\.json: the tokenizer can't be read"):
        preprocessor()


def test_settings_of_a_tokenizer_without_its_vocabulary(masked: tuple[Path, Any]) -> None:
    for name in ("BertTokenizer", "TokenizersBackend"):
        (masked[0] / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
        with pytest.raises(CheckpointNotFoundError, match=r"no vocabulary of a tokenizer .*remove tokenizer_config"):
            load_preprocessor(open_checkpoint(masked[0], OPTIONS), OPTIONS)


def test_image_processor_needs_no_torchvision(tmp_path: Path) -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8,
                       patch_size=4)  # fmt: skip
    build("ViTForImageClassification", config).save_pretrained(tmp_path)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    from PIL import Image

    loaded = load_preprocessor(open_checkpoint(tmp_path, OPTIONS), OPTIONS)
    assert loaded(Image.new("RGB", (9, 9)), return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)


def test_feature_extractor(masked: tuple[Path, Any]) -> None:
    settings = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000}
    (masked[0] / "preprocessor_config.json").write_text(json.dumps(settings))
    loaded = load_preprocessor(open_checkpoint(masked[0], OPTIONS), OPTIONS)
    assert loaded.sampling_rate == 8000
