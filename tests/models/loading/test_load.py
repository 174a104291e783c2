"""`load_model` takes what people have, exactly, and refuses what would give a wrong model."""

import json
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.models.loading.key_layouts import placements, upstream_placement
from sa2va_ray.models.loading.load import LoadedModel, load_model
from sa2va_ray.models.loading.place import build_empty_model
from sa2va_ray.models.loading.weight_files import open_folder
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.models.parts import EMBEDDING_WEIGHT, LM_HEAD_WEIGHT
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.modeling_sa2va import Sa2VAModel
from sa2va_ray.models.sa2va.processing_sa2va import NEW_TOKENS, token_id
from sa2va_ray.predict.predictor import Sa2VAPredictor

_DECODER = "grounding_encoder.sam2_model.sam_mask_decoder."


@pytest.fixture(scope="session")
def load_base(xtuner_dir: Path, xtuner_grounding_config) -> Callable[..., LoadedModel]:
    """`load_model` on the InternVL3 base and SAM 2 of the XTuner fixtures; arguments are laid over these."""

    def load(source: Path = xtuner_dir / "base_internvl", **arguments) -> LoadedModel:
        defaults = dict(grounding_config=xtuner_grounding_config, sam2_checkpoint=xtuner_dir / "sam2_tiny.pt")
        return load_model(source, **{**defaults, **arguments})

    return load


@pytest.fixture(scope="session")
def base(load_base) -> LoadedModel:
    return load_base()


@pytest.fixture(scope="session")
def merged_by_upstream(xtuner_dir: Path, xtuner_grounding_config) -> dict[str, Tensor]:
    return load_model(xtuner_dir / "expected_hf", grounding_config=xtuner_grounding_config).model.state_dict()


@pytest.fixture(scope="session")
def xtuner_tensors(xtuner_dir: Path) -> dict[str, Tensor]:
    return torch.load(xtuner_dir / "iter_100_zero2.pth", weights_only=True)["state_dict"]


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def copy_folder(source: Path, target: Path, weights: str = "model.safetensors") -> Path:
    """A model folder that a test may spoil. Fixtures are read-only, their copies are not."""
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.suffix in (".json", ".txt"):
            (target / file.name).write_bytes(file.read_bytes())
    (target / "model.safetensors").write_bytes((source / weights).read_bytes())
    return target


def change_config(folder: Path, **values) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


# Folders


def test_an_upstream_folder_is_loaded_whole(parity):
    report = parity.loaded.report
    assert list(report.total.modules) == [
        "vision_model",
        "mlp1",
        "language_model",
        "text_hidden_fcs",
        "mask_decoder",
        "grounding_encoder",
    ]
    assert set(report.total.names("loaded")) == parity.loaded.model.state_dict().keys()
    for column in ("mismatched", "missing", "unexpected", "fresh", "merged"):
        assert not report.total.names(column)
        assert not report.sources[0].names(column)
    stored = load_file(parity.folder / "model.safetensors")
    values = sum(tensor.numel() for tensor in stored.values())
    assert sum(tensor.numel() for tensor in parity.loaded.model.state_dict().values()) == values


def test_a_base_is_the_same_in_all_three_layouts(load_base, base, fixtures_dir: Path, tmp_path: Path):
    hf = fixtures_dir / "parity_hf_base"
    new_style = copy_folder(hf, tmp_path / "new", weights="model_new_prefix.safetensors")
    for folder in (hf, new_style):
        loaded = load_base(folder)
        assert largest_difference(loaded.model.state_dict(), base.model.state_dict()) == 0.0
        ours, theirs = loaded.model.config, base.model.config
        assert (ours.tile_size, ours.tokens_per_tile) == (theirs.tile_size, theirs.tokens_per_tile)
        assert ours.vision_config.layer_norm_eps == theirs.vision_config.layer_norm_eps
        assert ours.llm_config.rope_parameters == theirs.llm_config.rope_parameters
        assert ours.llm_config.rms_norm_eps == theirs.llm_config.rms_norm_eps


def test_a_base_gets_five_tokens_and_a_fresh_head(base, load_base, xtuner_dir: Path):
    tokenizer, config = base.processor.tokenizer, base.model.config
    stored = load_file(xtuner_dir / "base_internvl/model.safetensors")
    old = len(stored[EMBEDDING_WEIGHT])
    assert [token_id(tokenizer, token) for token in NEW_TOKENS] == list(range(old, old + len(NEW_TOKENS)))
    assert config.llm_config.vocab_size == len(tokenizer) == old + len(NEW_TOKENS)
    assert config.seg_token_id == old
    assert tokenizer.encode("Sure, [SEG].", add_special_tokens=False).count(old) == 1
    for name in (EMBEDDING_WEIGHT, LM_HEAD_WEIGHT):
        rows = base.model.state_dict()[name]
        torch.testing.assert_close(rows[:old], stored[name], rtol=0, atol=0)
        near = (rows[old:] - stored[name].mean(dim=0)).abs() <= 0.06 * stored[name].std(dim=0)
        assert near.all()
        assert len(rows[old:].unique(dim=0)) == len(NEW_TOKENS)
    fresh = base.report.total.names("fresh")
    assert {name.split(" ")[0] for name in fresh} == {
        EMBEDDING_WEIGHT,
        LM_HEAD_WEIGHT,
        *(name for name in base.model.state_dict() if name.startswith("text_hidden_fcs.")),
    }
    again, other = load_base().model.state_dict(), load_base(seed=1).model.state_dict()
    assert largest_difference(again, base.model.state_dict()) == 0.0
    differing = {name for name in again if not torch.equal(again[name], other[name])}
    assert differing == {name.split(" ")[0] for name in fresh}


def test_weights_of_another_size_initialise_what_fits_and_the_log_says_so(load_base, parity, caplog):
    with caplog.at_level(logging.INFO, logger="sa2va_ray"):
        loaded = load_base(initialise_from=parity.folder)
    modules = loaded.report.sources[-1].modules
    ours, theirs = loaded.model.state_dict(), parity.loaded.model.state_dict()
    decoder = {name for name in ours if name.startswith(_DECODER)}
    assert set(modules["mask_decoder"].loaded) == decoder
    assert modules["text_hidden_fcs"].loaded == ("text_hidden_fcs.2.bias",)
    assert not modules["vision_model"].loaded
    assert not modules["mlp1"].loaded
    for name in (*decoder, "text_hidden_fcs.2.bias"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert "text_hidden_fcs.2.bias" not in loaded.report.total.names("fresh")
    assert "nothing of vision_model fits" in caplog.text
    assert "of text_hidden_fcs only part fits: text_hidden_fcs.2.bias" in caplog.text


def test_a_saved_folder_comes_back(parity, tmp_path: Path):
    loaded = parity.loaded
    loaded.model.save_pretrained(tmp_path, max_shard_size="200KB")
    loaded.processor.tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    back = load_model(f"file://{tmp_path}")
    assert largest_difference(back.model.state_dict(), loaded.model.state_dict()) == 0.0
    assert back.manifest is None
    next(iter(sorted(tmp_path.glob("*.safetensors")))).unlink()
    with pytest.raises(UserError, match="lacks 1 of its"):
        load_model(tmp_path)


def test_an_exported_folder_is_checked_against_its_manifest(parity, tmp_path: Path):
    parity.loaded.model.save_pretrained(tmp_path)
    parity.loaded.processor.tokenizer.save_pretrained(tmp_path)
    write_model_manifest(tmp_path, {"name": "tiny", "threshold": 0.4})
    predictor = Sa2VAPredictor.from_pretrained(tmp_path)
    assert (predictor.name, predictor.threshold, len(predictor.sha256 or "")) == ("tiny", 0.4, 64)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(UserError, match="does not have the content"):
        load_model(tmp_path)


def test_remote_folders_and_files(monkeypatch, load_base, base, xtuner_dir: Path, fixtures_dir: Path):
    local = pafs.SubTreeFileSystem(str(fixtures_dir), pafs.LocalFileSystem())
    monkeypatch.setattr(storage.stores, "_s3_filesystem", lambda: local)
    remote = "s3://parity_xtuner"
    loaded = load_base(f"{remote}/base_internvl", sam2_checkpoint=f"{remote}/sam2_tiny.pt")
    assert largest_difference(loaded.model.state_dict(), base.model.state_dict()) == 0.0
    with pytest.raises(UserError, match="nothing at s3://parity_xtuner/absent"):
        load_base(f"{remote}/absent")


def test_names_of_upstream_and_ours_are_one_table(parity):
    names = set(parity.loaded.model.state_dict())
    assert {upstream_placement(name).name for name in names} == {
        tensor.key for tensor in open_folder(parity.folder, "", "").tensors.values()
    }
    for name in names:
        there = upstream_placement(name)
        back = placements(there.name)
        assert (back[there.part].name, len(back)) == (name, there.parts)


# XTuner's checkpoints


def test_zero2_checkpoint_is_merged_as_upstream_does(load_base, xtuner_dir: Path, merged_by_upstream):
    loaded = load_base(xtuner_checkpoint=xtuner_dir / "iter_100_zero2.pth", lora_alpha=8, lora_rank=4)
    assert largest_difference(loaded.model.state_dict(), merged_by_upstream) == 0.0
    modules = loaded.report.sources[-1].modules
    assert len(modules["language_model"].merged) == 7 * loaded.model.config.llm_config.num_hidden_layers
    assert set(modules["language_model"].loaded) == {EMBEDDING_WEIGHT, LM_HEAD_WEIGHT}
    assert not loaded.report.total.names("fresh")


def test_zero3_checkpoint_in_bfloat16(load_base, xtuner_dir: Path, merged_by_upstream):
    path = xtuner_dir / "iter_100_zero3_bf16.pth"
    loaded = load_base(xtuner_checkpoint=path, lora_alpha=8, lora_rank=4, dtype=torch.float32)
    # Half a unit in the last of bfloat16's 8 bits, of values up to 1.3.
    assert largest_difference(loaded.model.state_dict(), merged_by_upstream) <= 0.005
    assert loaded.report.sources[-1].modules["grounding_encoder"].loaded == (
        "grounding_encoder.sam2_model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    )


@pytest.mark.parametrize("layout", ["v1", "deepspeed"])
def test_the_same_checkpoint_in_other_clothes(
    layout: str, load_base, xtuner_tensors, merged_by_upstream, tmp_path: Path
):
    path = tmp_path / "iter_100.pth"
    if layout == "v1":
        plain = {key.replace(".modules_to_save.default", ""): tensor for key, tensor in xtuner_tensors.items()}
        assert plain.keys() != xtuner_tensors.keys()
        torch.save({"state_dict": plain, "meta": {}}, path)
    else:
        path.mkdir()
        torch.save({"module": xtuner_tensors, "ds_version": "0.19"}, path / "mp_rank_00_model_states.pt")
    loaded = load_base(xtuner_checkpoint=path, lora_alpha=8, lora_rank=4)
    assert largest_difference(loaded.model.state_dict(), merged_by_upstream) == 0.0


def test_flat_checkpoint_of_convert_to_pth(load_base, xtuner_dir: Path):
    path = xtuner_dir / "sa2va_hf_to_pth.pth"
    model = load_base(xtuner_checkpoint=path).model.state_dict()
    stored = {p.name: (t, p) for key, t in torch.load(path, weights_only=True).items() for p in placements(key)}
    assert model.keys() == stored.keys()
    for name, (tensor, place) in stored.items():
        torch.testing.assert_close(model[name], tensor.chunk(place.parts)[place.part], rtol=0, atol=0)


# The texts of the batch on which upstream ran its unmerged adapters: the templates that it drew at random, found by
# comparing hidden states. Its pictures are those of every set.
_UNMERGED_BATCH = [
    [
        ("<image>\nWhat is the left artery in this image? Please output segmentation mask?", "[SEG]."),
        ("Can you segment the side branch in this image?", "Sure, it is [SEG]."),
    ],
    [("<image>\nCan you highlight the blood vessel in this image with a segmentation mask?", "[SEG].")],
    [
        ("<image>\nWhat is catheter in this image? Please respond with segmentation mask.", "[SEG]."),
        ("Can you segment the vein in this image?", "Sure, the segmentation result is [SEG]."),
        ("Could you provide a segmentation mask for the the narrow section in this image?", "[SEG]."),
    ],
]


def test_merged_adapters_say_what_upstreams_unmerged_ones_said(load_base, xtuner_dir: Path, parity):
    arrays = np.load(xtuner_dir / "arrays.npz")
    meta = json.loads((xtuner_dir / "meta.json").read_text())
    loaded = load_base(xtuner_checkpoint=xtuner_dir / "iter_100_zero2.pth", lora_alpha=8, lora_rank=4)
    model, processor = loaded.model, loaded.processor
    total, tokens = 0.0, 0
    for row, turns in enumerate(_UNMERGED_BATCH):
        tiles = processor.image_tiles(parity.train_image(row))
        ids, labels = processor.training_ids(turns, len(tiles))
        with torch.inference_mode():
            embeds = model.embed(torch.tensor([ids]), model.encode_tiles(tiles).flatten(0, 1))
            hidden = model.language_model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[0]
            logits, seg_states = model.language_model.lm_head(hidden), model.text_hidden_fcs(hidden)
        for ours, name in ((hidden, "last_hidden"), (logits, "lm_logits"), (seg_states, "text_hidden")):
            theirs = torch.from_numpy(arrays[f"lora_{name}"][row, : len(ids)])
            # Logits are stored where the token is text; of image tokens the hidden states are.
            kept = torch.tensor(ids) != processor.image_token_id if name == "lm_logits" else slice(None)
            # Upstream's own merging moves its logits by 2.1e-5 (meta.json, merged_vs_lora_max_abs_logits).
            torch.testing.assert_close(ours[kept], theirs[kept], rtol=0, atol=1e-4)
        targets = torch.tensor(labels[1:])
        supervised = targets != -100
        total += float(cross_entropy(logits[:-1][supervised], targets[supervised], reduction="sum"))
        tokens += int(supervised.sum())
    assert total / tokens == pytest.approx(meta["lora_llm_loss"], rel=1e-5)


def test_merged_adapters_say_what_our_unmerged_ones_say(load_base, xtuner_dir: Path, xtuner_tensors):
    path = xtuner_dir / "iter_100_zero2.pth"
    merged = load_base(xtuner_checkpoint=path, lora_alpha=8, lora_rank=4).model
    ids = torch.randint(0, merged.config.llm_config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = merged.language_model(input_ids=ids).logits
    model = load_base().model
    for name, layer in model.language_model.named_modules():
        prefix = f"mllm.model.language_model.base_model.model.{name}"
        if f"{prefix}.lora_A.default.weight" in xtuner_tensors:
            a, b = (xtuner_tensors[f"{prefix}.lora_{side}.default.weight"] for side in "AB")
            layer.register_forward_hook(lambda _, args, out, a=a, b=b: out + 8 / 4 * (args[0] @ a.T @ b.T))
        elif f"{prefix}.modules_to_save.default.weight" in xtuner_tensors:
            layer.weight.data.copy_(xtuner_tensors[f"{prefix}.modules_to_save.default.weight"])
    with torch.inference_mode():
        actual = model.language_model(input_ids=ids).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "give lora_alpha and lora_rank"),
        (dict(lora_alpha=8), "give lora_alpha and lora_rank"),
        (dict(lora_alpha=16, lora_rank=8), r"adapters of rank \[4\], lora_rank says 8"),
    ],
)
def test_adapters_need_their_scale(load_base, xtuner_dir: Path, arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        load_base(xtuner_checkpoint=xtuner_dir / "iter_100_zero2.pth", **arguments)


def _without(pattern: str):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not re.search(pattern, key)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without(r"text_hidden_fcs"), "4 tensors of the model are in none of"),
        (_without(r"sam_mask_decoder"), "has nothing for mask_decoder"),
        (_without(r"layers\.0\.mlp\.up_proj\.lora_A"), "only one half of 1 adapters"),
        (lambda tensors: {**tensors, "mllm.model.new": torch.ones(1)}, r"1 are unknown \[new\]"),
        (lambda tensors: {**tensors, "mllm.model.mlp1.0.bias": torch.ones(3)}, "1 tensors have another shape"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(load_base, xtuner_tensors, tmp_path: Path, change, message: str):
    torch.save({"state_dict": change(xtuner_tensors)}, tmp_path / "iter.pth")
    with pytest.raises(UserError, match=message):
        load_base(xtuner_checkpoint=tmp_path / "iter.pth", lora_alpha=8, lora_rank=4)


def test_a_checkpoint_of_python_objects_is_refused(load_base, tmp_path: Path):
    torch.save({"state_dict": {}, "cfg": Path("x")}, tmp_path / "iter.pth")
    with pytest.raises(UserError, match="Files that hold Python objects are not loaded"):
        load_base(xtuner_checkpoint=tmp_path / "iter.pth")
    with pytest.raises(UserError, match="holds LoRA adapters: give it as xtuner_checkpoint"):
        load_base(initialise_from=_adapters_only(tmp_path))


def _adapters_only(folder: Path) -> Path:
    layer = "mllm.model.language_model.base_model.model.model.layers.0.mlp.up_proj"
    torch.save(
        {f"{layer}.lora_A.default.weight": torch.ones(4, 96), f"{layer}.lora_B.default.weight": torch.ones(160, 4)},
        folder / "lora.pth",
    )
    return folder / "lora.pth"


def test_a_base_without_sam2_is_refused(load_base):
    with pytest.raises(UserError, match="has no SAM 2: give sam2_checkpoint"):
        load_base(sam2_checkpoint=None)


def test_sam2_of_another_size_or_version_is_refused(load_base, parity, xtuner_dir: Path, tmp_path: Path):
    with pytest.raises(UserError, match="of another size than hiera-large give grounding_config"):
        load_model(parity.folder)
    tensors = torch.load(xtuner_dir / "sam2_tiny.pt", weights_only=True)["model"]
    torch.save({"model": {**tensors, "no_obj_embed_spatial": torch.zeros(1, 8)}}, tmp_path / "sam2.1.pt")
    with pytest.raises(UserError, match=r"built on SAM 2\.0"):
        load_base(sam2_checkpoint=tmp_path / "sam2.1.pt")
    with pytest.raises(UserError, match="grounding_config lacks image_size, memory_attention"):
        load_base(grounding_config={"trunk": {}, "neck": {}, "memory_encoder": {}})


@pytest.mark.parametrize("kind", ["cut off", "empty", "a web page"])
def test_a_sam2_file_that_is_not_whole_is_told_as_that(load_base, xtuner_dir: Path, tmp_path: Path, kind: str):
    """No cure that loads Python objects is named: there is nothing to be loaded."""
    whole = (xtuner_dir / "sam2_tiny.pt").read_bytes()
    found = {"cut off": whole[: len(whole) // 2], "empty": b"", "a web page": b"<!DOCTYPE html><html></html>"}[kind]
    (tmp_path / "sam2.pt").write_bytes(found)
    with pytest.raises(UserError, match=rf"is not a whole weight file: .* has {len(found)} bytes .*fetch it") as error:
        load_base(sam2_checkpoint=tmp_path / "sam2.pt")
    assert "weights_only=False" not in str(error.value)


@pytest.mark.parametrize("lost", ["mlp1.3.bias", EMBEDDING_WEIGHT, "vision_model.encoder.layers.0.attn.qkv.weight"])
def test_a_folder_that_lost_a_tensor_is_refused(parity, tmp_path: Path, lost: str):
    folder = copy_folder(parity.folder, tmp_path / "model")
    tensors = load_file(parity.folder / "model.safetensors")
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="of the model are in none of"):
        load_model(folder, grounding_config=parity.grounding_config)


def test_a_tied_folder_without_lm_head_gets_its_embedding(parity, tmp_path: Path):
    folder = copy_folder(parity.folder, tmp_path / "model")
    tensors = load_file(parity.folder / "model.safetensors")
    del tensors[LM_HEAD_WEIGHT]
    save_file({**tensors, "vision_model.extra": torch.ones(1)}, folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=True)
    loaded = load_model(folder, grounding_config=parity.grounding_config)
    model = loaded.model
    assert torch.equal(model.language_model.lm_head.weight, model.language_model.model.embed_tokens.weight)
    assert model.language_model.lm_head.weight is not model.language_model.model.embed_tokens.weight
    assert loaded.report.sources[0].names("unexpected") == ("vision_model.extra",)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(ps_version="v1"), "'ps_version': 'v1'"),
        (dict(template="vicuna"), "'template': 'vicuna'"),
        (dict(use_llm_lora=16), "'use_llm_lora': 16"),
        (dict(force_image_size=448), "'force_image_size': 448"),
        (dict(llm_config=dict(architectures=["InternLM2ForCausalLM"])), "InternLM2 variants cannot be loaded"),
        (dict(model_type="llava"), "a model of type 'llava'"),
    ],
)
def test_models_of_another_kind_are_refused(parity, tmp_path: Path, values: dict, message: str):
    folder = change_config(copy_folder(parity.folder, tmp_path / "model"), **values)
    with pytest.raises(UserError, match=message):
        load_model(folder, grounding_config=parity.grounding_config)


def test_a_base_tokenizer_is_no_sa2va_tokenizer(xtuner_dir: Path, xtuner_grounding_config, tmp_path: Path):
    folder = copy_folder(xtuner_dir / "expected_hf", tmp_path / "model")
    for file in (xtuner_dir / "base_internvl").glob("*token*"):
        shutil.copy(file, folder)
    with pytest.raises(UserError, match=r"lacks \[SEG\], <p>"):
        load_model(folder, grounding_config=xtuner_grounding_config)


# How


def test_tables_that_are_no_parameters_are_those_of_a_model_built_the_plain_way(parity):
    loaded = load_model(parity.folder, grounding_config=parity.grounding_config, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in loaded.model.state_dict().values()} == {torch.bfloat16}
    plain = Sa2VAModel(loaded.model.config)
    ours, theirs = dict(loaded.model.named_buffers()), dict(plain.named_buffers())
    assert ours.keys() == theirs.keys()
    tables = ours.keys() - loaded.model.state_dict().keys()
    assert any(name.endswith("rotary_emb.inv_freq") for name in tables)
    for name in tables:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)  # values and dtype: they stay float32
    plain_modules = dict(plain.named_modules())
    num_rope = 0
    for name, module in loaded.model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(value, getattr(plain_modules[name], attribute), rtol=0, atol=0)
                num_rope += attribute == "freqs_cis"
    assert num_rope == 2 * parity.grounding_config["memory_attention"]["num_layers"]
    assert not any(tensor.is_meta for tensor in (*loaded.model.parameters(), *ours.values()))


@pytest.mark.parametrize(
    ("name", "layers", "width", "heads", "kv_heads", "inner"),
    [
        ("1B", 24, 896, 14, 2, 4864),
        ("2B", 28, 1536, 12, 2, 8960),
        ("8B", 28, 3584, 28, 4, 18944),
        ("14B", 48, 5120, 40, 8, 13824),
    ],
)
def test_the_published_sizes(name: str, layers: int, width: int, heads: int, kv_heads: int, inner: int):
    vocabulary, kv_width = 151_679, width // heads * kv_heads
    config = Sa2VAConfig(
        llm_config={
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": inner,
            "vocab_size": vocabulary,
        }
    )
    model = build_empty_model(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    count = sum(tensor.numel() for tensor in model.parameters())
    attention = 2 * width * width + 2 * width * kv_width + width + 2 * kv_width
    language = layers * (attention + 3 * width * inner + 2 * width) + width + 2 * vocabulary * width
    projector = 2 * 4096 + 4096 * width + width + width * width + width
    head = width * width + width + width * 256 + 256
    assert count == 304_012_288 + projector + language + head + 224_430_130
    if name == "8B":
        assert count == 8_182_606_130
        # Upstream has 1589; query, key and value of 24 layers are one weight and one bias there.
        assert len(model.state_dict()) == 1589 + 24 * 4


_CHILD = """
import json, sys, torch
from sa2va_ray.models.loading import place
from sa2va_ray.models.loading.load import load_model
place._MAPPED_BYTES = 2**24
def peak_bytes():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
load_model(sys.argv[1])  # what a first load needs for ever: code, thread pools
before = peak_bytes()
load_model(sys.argv[2])
print(peak_bytes() - before)
"""


def test_a_load_takes_one_copy_of_the_weights(parity, tmp_path: Path):
    tiny, large = tmp_path / "tiny", tmp_path / "large"
    config = Sa2VAConfig(**parity.loaded.model.config.to_dict())
    for folder, inner in ((tiny, 64), (large, 150_000)):
        config.llm_config.intermediate_size = inner
        model = build_empty_model(config)
        weights = {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
        folder.mkdir()
        save_file(weights, folder / "model.safetensors")
        config.architectures = ["Sa2VAModel"]
        config.save_pretrained(folder)
        parity.loaded.processor.tokenizer.save_pretrained(folder)
    num_bytes = sum(tensor.nbytes for tensor in weights.values())
    assert num_bytes > 2e8
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, str(tiny), str(large)], capture_output=True, text=True, check=True
    )
    # One copy, one tensor (38 MB here) and what is mapped at a time.
    assert int(child.stdout.split()[-1]) < 1.4 * num_bytes
