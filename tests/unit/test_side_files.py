"""Clients other than Transformers 5 can read the side files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from onnxport.bundles.side_files import side_files, write_side_files
from onnxport.description.tasks import LABELLED, TASKS
from onnxport.loading.load import generation_config_for


class UnloadedOriginal:
    """An original that must not be loaded, since loading imports torch."""

    @property
    def config(self) -> Any:
        raise AssertionError("the configuration was loaded")

    preprocessor = generation_config = config


def written(directory: Path, stage: Path, original: Any, *, labelled: bool = False) -> Path:
    stage.mkdir()
    write_side_files(stage, side_files(directory), original, labelled=labelled)
    return stage


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def checkpoint(directory: Path, **settings: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", **settings}))
    return directory


@pytest.mark.parametrize(
    ("settings", "labelled"),
    [
        ({"num_labels": 3, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, False),
        ({"num_labels": 3}, False),
        ({"id2label": {"0": "a", "1": "b"}}, False),
        ({}, True),
    ],
)
def test_labels_are_completed_as_in_transformers(tmp_path: Path, settings: dict[str, Any], labelled: bool) -> None:
    directory = checkpoint(tmp_path / "in", **settings)
    config = transformers.AutoConfig.from_pretrained(directory)
    stage = written(directory, tmp_path / "out", SimpleNamespace(config=config), labelled=labelled)
    found = read(stage / "config.json")
    assert {int(key): name for key, name in found["id2label"].items()} == config.id2label
    assert found["label2id"] == {name: index for index, name in config.id2label.items()}
    assert transformers.AutoConfig.from_pretrained(stage).id2label == config.id2label


@pytest.mark.parametrize(
    ("settings", "labelled"),
    [
        ({}, False),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}, True),
        ({"id2label": {"0": "crane", "1": "crane"}, "label2id": {"crane": 1}}, True),
    ],
)
def test_an_unchanged_configuration_is_copied(tmp_path: Path, settings: dict[str, Any], labelled: bool) -> None:
    directory = checkpoint(tmp_path / "in", **settings)
    stage = written(directory, tmp_path / "out", UnloadedOriginal(), labelled=labelled)
    assert (stage / "config.json").read_bytes() == (directory / "config.json").read_bytes()


def test_tasks_with_labels_are_tasks() -> None:
    assert {task.name for task in TASKS} >= LABELLED


def word_tokenizer() -> Any:
    from tokenizers import Tokenizer, models

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip


def test_the_tokenizer_class_exists_in_transformers_4(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "in")
    word_tokenizer().save_pretrained(directory)
    settings = {**read(directory / "tokenizer_config.json"), "is_local": True, "local_files_only": True}
    assert settings["tokenizer_class"] == "TokenizersBackend"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    stage = written(directory, tmp_path / "out", UnloadedOriginal())
    found = read(stage / "tokenizer_config.json")
    assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"backend", "is_local", "local_files_only"} & set(found)
    assert found["model_input_names"] == ["input_ids", "attention_mask"]  # Transformers 4 adds token_type_ids
    changed = ("tokenizer_class", "model_input_names")
    assert {key: settings[key] for key in found if key not in changed} == {
        key: value for key, value in found.items() if key not in changed
    }
    assert transformers.AutoTokenizer.from_pretrained(stage)("a").input_ids == [3]


def test_a_tokenizer_with_a_specific_class_is_copied(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "in")
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class":  "BertTokenizer"}')
    stage = written(directory, tmp_path / "out", SimpleNamespace(preprocessor=None))
    assert (stage / "tokenizer_config.json").read_text() == '{"tokenizer_class":  "BertTokenizer"}'


@pytest.mark.parametrize("pad", [None, 2])
def test_side_files_of_a_gguf_file_are_written(tmp_path: Path, pad: int | None) -> None:
    (tmp_path / "in").mkdir()
    config = transformers.LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=pad)
    tokenizer = word_tokenizer()
    generation = generation_config_for(transformers.LlamaForCausalLM, config, tokenizer)
    original = SimpleNamespace(config=config, preprocessor=tokenizer, generation_config=generation)
    stage = written(tmp_path / "in", tmp_path / "out", original)
    found = transformers.GenerationConfig.from_pretrained(stage)
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (1, 2, 0 if pad is None else pad)
    assert read(stage / "tokenizer_config.json")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_class_that_does_not_generate_has_no_generation_settings() -> None:
    assert generation_config_for(transformers.BertModel, transformers.BertConfig(), None) is None


@pytest.mark.parametrize("model_type", ["distilbert", "gpt2", "xlm", "bart", "t5", "xlnet"])
def test_text_models_have_their_width_and_depth(tmp_path: Path, model_type: str) -> None:
    directory = tmp_path / "in"
    original = transformers.AutoConfig.for_model(model_type)
    original.save_pretrained(directory)
    stage = written(directory, tmp_path / "out", SimpleNamespace(config=original, preprocessor=None))
    found = read(stage / "config.json")
    assert (found["hidden_size"], found["num_hidden_layers"]) == (original.hidden_size, original.num_hidden_layers)
    loaded = transformers.AutoConfig.from_pretrained(stage)
    assert {**loaded.to_dict(), "_name_or_path": ""} == original.to_dict()


def test_a_list_of_tokens_has_the_name_that_transformers_4_reads(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "in")
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(directory)
    assert read(directory / "tokenizer_config.json")["extra_special_tokens"] == ["<image>"]
    stage = written(directory, tmp_path / "out", UnloadedOriginal())
    found = read(stage / "tokenizer_config.json")
    assert "extra_special_tokens" not in found
    assert found["additional_special_tokens"] == ["<image>"]
    loaded = transformers.AutoTokenizer.from_pretrained(stage)
    assert loaded.extra_special_tokens == ["<image>"]
    assert loaded("<image>").input_ids == tokenizer("<image>").input_ids


def test_a_processors_parts_have_a_file_of_their_own(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "in", model_type="clip")
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(images, word_tokenizer()).save_pretrained(directory)
    assert not (directory / "preprocessor_config.json").exists()
    stage = written(directory, tmp_path / "out", UnloadedOriginal())
    found = read(stage / "preprocessor_config.json")
    assert found["image_processor_type"] == "CLIPImageProcessor"
    assert found["processor_class"] == "CLIPProcessor"
    assert found["size"] == {"shortest_edge": 32}
    assert read(stage / "processor_config.json") == read(directory / "processor_config.json")
    loaded = transformers.AutoProcessor.from_pretrained(stage).image_processor
    assert (loaded.size, loaded.crop_size) == (images.size, images.crop_size)


def test_an_image_processor_on_pillow_has_its_usual_name(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "in")
    transformers.ViTImageProcessorPil().save_pretrained(directory)
    stage = written(directory, tmp_path / "out", UnloadedOriginal())
    assert read(stage / "preprocessor_config.json")["image_processor_type"] == "ViTImageProcessor"
    assert type(transformers.AutoImageProcessor.from_pretrained(stage)) is transformers.ViTImageProcessorPil
