"""Where an export may go, in which layout, and that the hub says what is wrong."""

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.export import target
from sa2va_ray.export.checks.probe import PROMPT, probe_images
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.model_card import without_places
from sa2va_ray.export.run import export
from sa2va_ray.manifest import digest, read_manifest, write_manifest
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.loading.weight_files import open_folder
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest
from sa2va_ray.models.sa2va.generation_sa2va import segment
from sa2va_ray.models.sa2va.preparation_sa2va import Request
from tests.export.merged import merged_model

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]


def test_facts_and_shards_of_a_folder(exported: Path, checkpoint: Path):
    manifest = read_model_manifest(exported)
    assert sum(name.startswith("model-0000") for name in manifest["files"]) == 3
    assert all(entry["size"] < 2.2 * 2**20 for name, entry in manifest["files"].items() if name.startswith("model-"))
    assert manifest["trained_splits"] == ["train"]
    assert manifest["validation_split"] == "val"
    assert manifest["checkpoint_sha256"] == digest(read_manifest(str(checkpoint)))
    vision, language = manifest["changes"]["vision_model"], manifest["changes"]["language_model"]
    assert (vision["trained"], vision["changed"], vision["norm_of_change"]) == (0, 0, 0.0)
    assert (language["trained"], language["changed"]) == (16, 16)  # 7 linear layers in 2 blocks, embedding and head
    assert language["norm_of_change"] > 0
    assert manifest["agreement"]["iou_unmerged"] >= 0.999


def test_what_is_no_exported_model_is_not_deleted(exported: Path, checkpoint: Path, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    config = ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path))
    with pytest.raises(UserError, match="holds 1 files that are not of an exported model"):
        export(config)
    storage.download_folder(str(exported), tmp_path / "model")
    target.check_target(str(tmp_path / "model"))  # this one may be replaced
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds 1 files"):
        target.check_target(str(tmp_path / "model"))
    with pytest.raises(UserError, match="is a file"):
        target.check_target(str(tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_found_before_anything_is_written(checkpoint: Path, tmp_path: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(target.shutil, "disk_usage", lambda _: usage(2**40, 2**40, 2**20))
    with pytest.raises(UserError, match=r"needs 0\.07 GiB in .*, where 0\.00 GiB are free"):
        export(ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "model")))
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_replaced_in_a_store(checkpoint: Path, bucket_uri: str, exported: Path):
    """By way of the store and back: a remote checkpoint, a remote target that has a model."""
    storage.upload_folder(checkpoint, f"{bucket_uri}/run/step_00000007", last="manifest.json")
    storage.upload_folder(exported, f"{bucket_uri}/model", last=MODEL_MANIFEST)
    sha256 = export(ExportConfig(checkpoint=f"{bucket_uri}/run", out=f"{bucket_uri}/model", name="second"))
    manifest = read_model_manifest(f"{bucket_uri}/model")
    assert (manifest["name"], digest(manifest)) == ("second", sha256)
    assert storage.list_files(f"{bucket_uri}/model").keys() == {MODEL_MANIFEST, *manifest["files"]}
    assert manifest["weights_sha256"] == read_model_manifest(exported)["weights_sha256"]


def test_upstreams_layout(make_checkpoint, tmp_path: Path):
    """All embeddings trained; read back by our reader of upstream's folders: the same masks, bit by bit."""
    checkpoint = make_checkpoint("model.architecture.max_dynamic_patch=12", "model.trainable.embeddings=all")
    out = tmp_path / "model"
    export(ExportConfig(checkpoint=str(checkpoint), out=str(out), layout="upstream"))
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Sa2VAChatModel"]
    assert config["llm_config"]["architectures"] == ["Qwen2ForCausalLM"]
    stored = {tensor.key for tensor in open_folder(out, "", "").tensors.values()}
    assert "vision_model.encoder.layers.0.attn.qkv.weight" in stored
    assert not list(out.glob("*.py"))
    merged, processor = merged_model(str(checkpoint))
    for tensor in merged.state_dict().values():
        tensor.copy_(tensor.bfloat16())
    loaded = load_model(out, dtype=torch.float32)
    request = Request(probe_images()[1], PROMPT, "Sure, [SEG].")
    ours, theirs = (
        segment(model.eval(), each, [request])[0]
        for model, each in ((merged, processor), (loaded.model, loaded.processor))
    )
    assert torch.equal(ours.mask_logits, theirs.mask_logits)


def test_a_model_that_upstreams_code_would_feed_otherwise_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"trained with \{'max_dynamic_patch': 1\}"):
        export(ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "model"), layout="upstream"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "needs a token of the Hugging Face hub"), ("hf_none", "hub cannot be used .* Check the")],
)
def test_the_hub_says_what_is_wrong_before_any_work(tmp_path: Path, token: str, message: str):
    """Really called, at an address of this machine where nobody answers."""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_TOKEN": token, "HF_ENDPOINT": "http://127.0.0.1:9"}
    arguments = ["checkpoint=/none", f"out={tmp_path}/model", "hub_repo=user/name"]
    command = [sys.executable, "-m", "jobs.export", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(message, line)
    assert not (tmp_path / "model").exists()


def test_the_card_tells_counts_and_metrics_and_no_places(make_checkpoint, tmp_path: Path):
    """Also the export of a bfloat16 base."""
    counts = {
        "train": {"samples": 31, "patients": 22, "objects": 31},
        "val": {"samples": 4, "patients": 3, "objects": 4},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000.parquet").write_bytes(b"rows")
    data_sha256 = write_manifest(tmp_path / "data", {"counts": counts})
    metrics = {"val/dice": 0.75, "val/dice_low": 0.7, "val/dice_high": 0.8, "train/loss": 0.5}
    checkpoint = make_checkpoint(
        f"data_uri={tmp_path}/data", "name=clinic-of-nn", precision="bf16", data_sha256=data_sha256, metrics=metrics
    )
    out = tmp_path / "model"
    export(ExportConfig(checkpoint=str(checkpoint), out=str(out), name="tiny"))
    card = (out / "README.md").read_text()
    assert "| train | 31 | 22 |" in card
    assert "| Dice ↑: `val/dice` | 0.750 | 0.700 to 0.800 |" in card
    assert "dice_low" not in card
    assert "Not a medical device" in card
    assert data_sha256 in card
    for place in ("clinic-of", "s3://", str(tmp_path)):
        assert place not in card


def test_places_are_left_out_of_a_config():
    settings = {"name": "doe", "lr": 1.0, "model": {"base": {"source": "x", "other": "/data/doe"}, "rank": 8}}
    assert without_places(settings) == {"lr": 1.0, "model": {"base": {}, "rank": 8}}
