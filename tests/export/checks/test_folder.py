"""Folders that are wrong in one thing each: the check that is meant for it fails, and an export that fails is gone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sa2va_ray.config import UserError
from sa2va_ray.export import run
from sa2va_ray.export.checks.folder import NUM_STAGES, check_folder
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest, write_model_manifest
from sa2va_ray.telemetry import Progress

pytestmark = pytest.mark.soak

DECODER = "grounding_encoder.sam2_model.sam_mask_decoder.mask_tokens.weight"


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(exported, tmp_path / "model"))


def change(folder: Path, name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    file = folder / index["weight_map"][name]
    tensors = load_file(file)
    save_file({**tensors, name: to(tensors[name])}, file, {"format": "pt"})


def seal(folder: Path, **facts) -> None:
    """Writes the manifest again, so that hashes are no witness."""
    known = json.loads((folder / MODEL_MANIFEST).read_text())
    write_model_manifest(folder, {**{k: v for k, v in known.items() if k != "files"}, **facts})


def failed(folder: Path) -> set[str]:
    return {check.name for check in check_folder(folder, Progress("verify", NUM_STAGES)).checks if not check.passed}


def test_a_good_folder_passes(exported: Path, capfd):
    assert export(ExportConfig(verify=str(exported)))
    assert "FAIL" not in capfd.readouterr().err


def test_a_changed_weight(folder: Path):
    change(folder, DECODER, lambda tensor: tensor * 2)
    assert failed(folder) == {"hashes", "weights are the manifest's"}
    with pytest.raises(UserError, match=r"2 of 12 checks failed\n  hashes: "):
        export(ExportConfig(verify=str(folder)))


def test_a_weight_that_is_not_a_number(folder: Path):
    change(folder, DECODER, lambda tensor: tensor * float("nan"))
    seal(folder)
    assert failed(folder) == {"weights are the manifest's", "finite weights", "masks come out"}


def test_another_dtype(folder: Path):
    """transformers would hide it: it loads all in the dtype of config.json."""
    change(folder, DECODER, lambda tensor: tensor.float())
    seal(folder)
    assert failed(folder) == {"dtype of stored weights", "weights are the manifest's"}


def test_a_token_that_is_missing(folder: Path):
    text = (folder / "tokenizer.json").read_text()
    tokenizer = json.loads(text)
    tokenizer["added_tokens"] = [t for t in tokenizer["added_tokens"] if t["content"] != "</vp>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    seal(folder)
    assert failed(folder) == {"vocabulary"}
    (folder / "tokenizer.json").write_text(text.replace("[SEG]", "[SAG]"))
    seal(folder)
    assert failed(folder) == {"loads in a fresh process"}


def test_weights_of_the_base(folder: Path):
    manifest = json.loads((folder / MODEL_MANIFEST).read_text())
    seal(folder, base_weights_sha256=manifest["weights_sha256"])
    assert failed(folder) == {"weights are not the base's"}


def test_a_lost_tensor_and_a_lost_model_file(folder: Path):
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    file = folder / values["weight_map"].pop(DECODER)
    save_file({k: v for k, v in load_file(file).items() if k != DECODER}, file, {"format": "pt"})
    index.write_text(json.dumps(values))
    seal(folder)
    assert {"loads in a fresh process", "dtype of stored weights"} <= failed(folder)
    (folder / "grounding_sam2.py").unlink()
    seal(folder)
    assert {"model files", "loads in a fresh process"} <= failed(folder)


def test_not_an_exported_model(tmp_path: Path):
    with pytest.raises(UserError, match="is not a complete exported model"):
        export(ExportConfig(verify=str(tmp_path)))
    with pytest.raises(UserError, match=r"give one of checkpoint=.* you gave none"):
        ExportConfig.load([])


@pytest.mark.parametrize("moved", [0.0, 1e-4])
def test_a_checkpoint_whose_weights_are_the_bases(make_checkpoint, tmp_path: Path, moved: float):
    """Also where each value has moved by less than bfloat16 holds, 2^-8 of it: what would be exported is the base."""
    checkpoint = make_checkpoint(precision="bf16", moved=moved, is_relative=True)
    with pytest.raises(UserError, match="those of its base"):
        export(ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "model")))
    assert list(tmp_path.iterdir()) == []


def test_a_merge_that_is_wrong(checkpoint: Path, tmp_path: Path, monkeypatch, exported: Path):
    """Half the adapters' scale, one weight not merged, one frozen weight changed: each is found, the model that was
    there before stays, and nothing else is left."""
    out = Path(shutil.copytree(exported, tmp_path / "model"))

    class Wrong(run.Trained):
        def merge(self, name, base):
            self._scale = 1.0 if "layers.0.mlp.up_proj" in name else 2.0
            if "layers.1.mlp.up_proj" in name:
                return base.bfloat16()
            return super().merge(name, base) * (2 if name == "vision_model.encoder.layer.0.mlp.fc1.weight" else 1)

    monkeypatch.setattr(run, "Trained", Wrong)
    with pytest.raises(UserError) as error:
        export(ExportConfig(checkpoint=str(checkpoint), out=str(out)))
    message = str(error.value)
    layers = "language_model.model.layers"
    assert f"tensors that should have changed have: {layers}.1.mlp.up_proj.weight" in message
    assert "no others have: vision_model.encoder.layer.0.mlp.fc1.weight" in message
    wrong = message.partition("rounded once: ")[2]
    assert sorted(wrong.split(", ")) == [
        f"{layers}.0.mlp.up_proj.weight",
        f"{layers}.1.mlp.up_proj.weight",
        "vision_model.encoder.layer.0.mlp.fc1.weight",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert read_model_manifest(out)["name"] == "tiny"
