"""Folders that are broken, quantised or unfit: each is refused by what it is, before it answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sa2va_ray.config import UserError
from sa2va_ray.models.baselines.config import UnetConfig
from sa2va_ray.models.baselines.unet import Unet
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.predict.baseline_predictors import UnetPredictor
from sa2va_ray.predict.predictor import Sa2VAPredictor

WEIGHT = "language_model.model.layers.0.mlp.down_proj.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "1" * 64 + "\nsize 1665123\n"
SHARDS = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights(parity) -> Tensors:
    return load_file(parity.folder / "model.safetensors")


@pytest.fixture
def folder(parity, tmp_path: Path) -> Path:
    """All of an upstream folder but its weights."""
    target = tmp_path / "model"
    target.mkdir()
    for file in parity.folder.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt"):
            shutil.copyfile(file, target / file.name)
    return target


@pytest.fixture
def load(parity, folder: Path) -> Callable[..., None]:
    return lambda: load_model(folder, grounding_config=parity.grounding_config)


def set_config(folder: Path, **values) -> None:
    content = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    (folder / "config.json").write_text(json.dumps(content))


def to_fp8(tensors: Tensors) -> Tensors:
    scale = tensors[WEIGHT].abs().max() / 448
    return {
        **tensors,
        WEIGHT: (tensors[WEIGHT] / scale).to(torch.float8_e4m3fn),
        f"{WEIGHT}_scale_inv": scale.reshape(1),
    }


def to_int8(tensors: Tensors) -> Tensors:
    scale = tensors[WEIGHT].abs().amax(dim=1)
    values = torch.round(tensors[WEIGHT] / scale[:, None] * 127).to(torch.int8)
    return {**tensors, WEIGHT: values, WEIGHT.replace("weight", "SCB"): scale}


def to_gptq(tensors: Tensors) -> Tensors:
    packed = {leaf: torch.zeros(4, 4, dtype=torch.int32) for leaf in ("qweight", "qzeros", "g_idx")}
    rest = {name: tensor for name, tensor in tensors.items() if name != WEIGHT}
    beside = {WEIGHT.replace("weight", leaf): tensor for leaf, tensor in packed.items()}
    return {**rest, **beside, WEIGHT.replace("weight", "scales"): torch.zeros(4)}


def to_nf4(tensors: Tensors) -> Tensors:
    packed = {WEIGHT: torch.zeros(64, 1, dtype=torch.uint8), f"{WEIGHT}.absmax": torch.zeros(64)}
    return {**tensors, **packed, f"{WEIGHT}.quant_state.bitsandbytes__nf4": torch.zeros(8, dtype=torch.uint8)}


def to_scaled_qkv(tensors: Tensors) -> Tensors:
    """Upstream stacks these three weights, and a scale may be a single number."""
    return {**tensors, "vision_model.encoder.layers.0.attn.qkv.weight_scale": torch.tensor(2.0)}


@pytest.mark.parametrize("quantise", [to_fp8, to_int8, to_gptq, to_nf4, to_scaled_qkv])
def test_quantised_tensors_are_refused_though_no_config_tells(folder, load, weights, quantise):
    save_file(quantise(weights), folder / "model.safetensors")
    with pytest.raises(UserError, match=r"holds quantised weights: .* scales and the like .*full weights"):
        load()


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.int8, torch.int16, torch.int64])
def test_a_weight_of_another_type_is_refused(folder, load, weights, dtype):
    save_file({**weights, WEIGHT: weights[WEIGHT].to(dtype)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"1 tensors are stored in another type.*{WEIGHT} as"):
        load()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": {"load_in_8bit": True}}, "of an unnamed kind"),
        ({"llm_config": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "gptq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
)
def test_a_config_that_tells_of_quantisation_is_refused(folder, load, weights, values, named):
    save_file(weights, folder / "model.safetensors")
    set_config(folder, **values)
    with pytest.raises(UserError, match=rf"quantised weights \({named}\)"):
        load()


def test_the_file_that_autogptq_leaves_is_seen(folder, load, weights):
    save_file(weights, folder / "model.safetensors")
    (folder / "quantize_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"quantised weights \(quantize_config.json\)"):
        load()


def test_what_is_not_quantised_is_loaded(folder, load, weights):
    """Integers that no weight is, a scale of its own, and a config that says null."""
    more = {"logit_scale": torch.tensor(2.0), "vision_model.embeddings.position_ids": torch.arange(4)}
    save_file({name: tensor.half() for name, tensor in weights.items()} | more, folder / "model.safetensors")
    set_config(folder, quantization_config=None)
    assert load().model.dtype == torch.float16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", [WEIGHT, "vision_model.encoder.layers.0.attn.qkv.weight"])
def test_numbers_that_are_not_finite_are_counted_by_tensor(folder, load, weights, value, name):
    spoilt = weights[name].clone()
    spoilt[0, :3] = value
    save_file({**weights, name: spoilt}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"^[\w.]+, from model.safetensors, has 3 of \d+ numbers that are not finite"):
        load()


def test_numbers_that_the_dtype_cannot_hold_are_refused(folder, parity, weights):
    large = weights[WEIGHT].clone()
    large[0, 0] = 1e5
    save_file({**weights, WEIGHT: large}, folder / "model.safetensors")
    load_model(folder, grounding_config=parity.grounding_config, dtype=torch.bfloat16)
    with pytest.raises(UserError, match=r"has 1 of .* not finite in float16"):
        load_model(folder, grounding_config=parity.grounding_config, dtype=torch.float16)


def test_an_exported_model_is_checked_where_it_predicts(parity, tmp_path: Path):
    parity.loaded.model.save_pretrained(tmp_path)
    parity.loaded.processor.tokenizer.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[WEIGHT][0, 0] = float("nan")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    write_model_manifest(tmp_path, {"name": "x", "threshold": 0.5})
    with pytest.raises(UserError, match=f"{WEIGHT}, from model.safetensors, has 1 of"):
        Sa2VAPredictor.from_pretrained(str(tmp_path))


def test_a_baseline_is_checked_too(tmp_path: Path):
    config = UnetConfig()
    tensors = Unet(config).state_dict()
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    (tmp_path / "config.json").write_text(config.model_dump_json())
    save_file(tensors, tmp_path / "model.safetensors")
    write_model_manifest(tmp_path, {"name": "x", "threshold": 0.5, "kind": "unet"})
    with pytest.raises(UserError, match=r"1 of .* not finite"):
        UnetPredictor.from_folder(str(tmp_path))


def set_index(folder: Path, content: str) -> None:
    (folder / "model.safetensors.index.json").write_text(content)


def save_shards(weights: Tensors, folder: Path) -> None:
    names = list(weights)
    parts = dict(zip(SHARDS, (names[0::2], names[1::2]), strict=True))
    for shard, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / shard)
    index = {"weight_map": {name: shard for shard, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: None, None),
        (lambda folder: (folder / SHARDS[1]).unlink(), f"lacks 1 of its 2 weight files: {SHARDS[1]}. The download"),
        (lambda folder: (folder / SHARDS[1]).write_text(POINTER), rf"1 Git LFS pointer\(s\).*{SHARDS[1]}.*lfs pull"),
        (lambda folder: (folder / "vocab.json").write_text(POINTER), r"1 Git LFS pointer\(s\).*vocab.json"),
        (lambda folder: (folder / SHARDS[0]).write_bytes((folder / SHARDS[0]).read_bytes()[:-5000]), "may be cut off"),
        (lambda folder: (folder / SHARDS[0]).write_bytes(b""), "has 0 bytes and may be cut off"),
        (
            lambda folder: (folder / "model.safetensors.index.json").unlink(),
            "It has 2 shards and no model.safetensors.i",
        ),
        (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight'), "is no index of weights"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "is no index of weights"),
        (lambda folder: set_index(folder, "[" * 100_000), "is no index of weights"),
        (lambda folder: set_index(folder, '{"weight_map": {"x": 3}}'), "is no index of weights"),
        (lambda folder: set_index(folder, '{"weight_map": {}}'), "is no index of weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json of .* is not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json of .* holds list"),
    ],
)
def test_a_folder_that_did_not_come_whole_says_what_is_wrong(folder, load, weights, spoil, message):
    save_shards(weights, folder)
    spoil(folder)
    if message is None:
        load()
    else:
        with pytest.raises(UserError, match=message):
            load()


def test_an_old_single_file_beside_an_index_is_not_used(folder, load, weights, parity):
    save_shards(weights, folder)
    save_file({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, folder / "model.safetensors")
    torch.testing.assert_close(load().model.state_dict()[WEIGHT], weights[WEIGHT], rtol=0, atol=0)


def test_a_tensor_in_two_shards_is_that_of_the_one_which_the_index_names(folder, load, weights):
    save_shards(weights, folder)
    for shard in SHARDS:
        own = load_file(folder / shard)
        others = {name: torch.zeros_like(tensor) for name, tensor in weights.items() if name not in own}
        save_file({**own, **others}, folder / shard)
    loaded = load().model.state_dict()
    torch.testing.assert_close(loaded[WEIGHT], weights[WEIGHT], rtol=0, atol=0)
    assert [name for name, tensor in loaded.items() if name in weights and not tensor.equal(weights[name])] == []


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16, torch.int64, torch.complex64])
def test_a_weight_of_another_type_is_named_with_that(folder, load, weights, dtype):
    save_file({**weights, WEIGHT: weights[WEIGHT].to(dtype)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=f"{WEIGHT} as {str(dtype).removeprefix('torch.')}"):
        load()


def test_pickles_and_adapters_are_named(folder, load, weights):
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="Its weights are pickles"):
        load()
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(UserError, match=r"no config.json. It is an adapter"):
        load()


def test_a_pointer_in_place_of_a_checkpoint_is_named(folder, weights, parity, tmp_path: Path):
    save_file(weights, folder / "model.safetensors")
    (tmp_path / "iter_9.pth").write_text(POINTER)
    with pytest.raises(UserError, match=r"Git LFS pointer\(s\).*iter_9.pth"):
        load_model(folder, grounding_config=parity.grounding_config, xtuner_checkpoint=tmp_path / "iter_9.pth")


def test_an_untold_tie_is_told(folder, load, weights):
    head = next(name for name in weights if name.endswith("lm_head.weight"))
    save_file({name: tensor for name, tensor in weights.items() if name != head}, folder / "model.safetensors")
    with pytest.raises(UserError, match="tie_word_embeddings"):
        load()
