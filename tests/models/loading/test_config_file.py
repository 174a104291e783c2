"""Odd values in config.json and odd tokenizers: each is refused by a message, and before memory is allocated for it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.models.loading.load import load_model

ABSENT = object()


@pytest.fixture
def folder(parity, tmp_path: Path) -> Path:
    """An upstream folder."""
    for file in parity.folder.iterdir():
        if file.suffix in (".json", ".txt", ".safetensors"):
            shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def change(folder: Path, place: str, value: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    *parents, key = place.split(".")
    part = config
    for parent in parents:
        part = part[parent]
    if value is ABSENT:
        del part[key]
    else:
        part[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("llm_config.hidden_size", -64, r"llm_config\.hidden_size is -64"),
        ("llm_config.hidden_size", 10**12, r"llm_config\.hidden_size is 1000000000000"),
        ("llm_config.num_hidden_layers", 0, r"llm_config\.num_hidden_layers is 0"),
        ("llm_config.num_hidden_layers", 10**6, "less than or equal to 1024"),
        ("llm_config.vocab_size", "552", "valid integer"),
        ("llm_config.vocab_size", ABSENT, "KeyError: 'vocab_size'"),
        ("llm_config.hidden_act", "nonsense", "no such activation"),
        ("llm_config.num_attention_heads", None, "No model can be built"),
        ("llm_config.num_attention_heads", 5, r"Of another shape than config\.json says"),
        ("llm_config.rope_scaling", {"rope_type": "nonsense"}, "No model can be built"),
        ("llm_config.rms_norm_eps", "tiny", "No model can be built"),
        ("llm_config", [], "valid dictionary"),
        ("vision_config", "none", "valid dictionary"),
        ("vision_config.patch_size", 0, r"vision_config\.patch_size"),
        ("vision_config.image_size", [56], r"vision_config\.image_size"),
        ("vision_config.norm_type", "batch_norm", "layer_norm"),
        ("vision_config.qkv_bias", ABSENT, "KeyError: 'qkv_bias'"),
        ("vision_config.num_channels", 1, r"vision_config\.num_channels"),
        ("template", 7, "template is 7"),
        ("downsample_ratio", 0, "downsample_ratio is 0"),
        ("downsample_ratio", "half", "downsample_ratio"),
        ("force_image_size", "56", "force_image_size"),
        ("architectures", 1, "architectures is 1"),
    ],
)
def test_a_value_that_no_model_has_is_told(parity, folder, place, value, told):
    change(folder, place, value)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        load_model(folder, grounding_config=parity.grounding_config)
    assert caught.match(told)


def test_a_config_nested_without_end_is_told(parity, folder):
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(UserError, match="is not JSON"):
        load_model(folder, grounding_config=parity.grounding_config)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"x": 1}}'),
        ("tokenizer_config.json", '{"tokenizer_class": 7}'),
    ],
)
def test_a_tokenizer_of_another_shape_is_told(parity, folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        load_model(folder, grounding_config=parity.grounding_config)
