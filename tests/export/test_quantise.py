"""A model of 8-bit weights: it draws what the full one does, or is not exported."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sa2va_ray.config import UserError
from sa2va_ray.export import quantise as quantise_module
from sa2va_ray.export.checks.folder import FolderResult, check_folder
from sa2va_ray.export.checks.probe import probe_images
from sa2va_ray.export.config import ExportConfig
from sa2va_ray.export.run import export
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.model_manifest import read_model_manifest, update_model_manifest
from sa2va_ray.models.quantisation import is_quantised, quantise
from sa2va_ray.predict.compiled_passes import CompiledPasses
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query
from sa2va_ray.telemetry import Progress

PROMPT = "Please segment blood vessels in this image."
MIB = 2**20


@pytest.fixture(scope="module")
def full(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has been calibrated."""
    folder = Path(shutil.copytree(exported, tmp_path_factory.mktemp("full") / "model"))
    update_model_manifest(folder, {"threshold": 0.375})
    return folder


@pytest.fixture(scope="module")
def checked() -> dict[Path, FolderResult]:
    """What the checks of folders have found."""
    return {}


@pytest.fixture(scope="module")
def small(full: Path, checked: dict[Path, FolderResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantised") / "model"

    def check(folder: Path, progress: Progress) -> FolderResult:
        checked[folder] = check_folder(folder, progress)
        return checked[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise_module, "check_folder", check)
        export(ExportConfig(model=str(full), out=str(out), quantise="int8", max_shard_gib=1.5 / 1024))
    return out


def queries() -> list[Query]:
    return [Query(image, PROMPT, answer="Sure, [SEG].") for image in probe_images()]


def test_it_draws_what_the_full_model_does(full: Path, small: Path):
    expected, found = (load_predictor(str(folder)).predict(queries()) for folder in (full, small))
    for one, other in zip(expected, found, strict=True):
        assert one.text == other.text
        assert one.threshold == other.threshold == 0.375
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
        assert not np.array_equal(one.probabilities, other.probabilities), "nothing was quantised"


def test_its_manifest_says_what_it_is(full: Path, small: Path):
    before, after = read_model_manifest(full), read_model_manifest(small)
    quantisation = after["quantisation"]
    assert after["name"] == f"{before['name']} int8"
    assert quantisation["iou"] >= 0.995
    assert 0 < quantisation["logits_error"] < 0.01
    assert after["weights_sha256"] != before["weights_sha256"]
    assert after["checkpoint_sha256"] == before["checkpoint_sha256"]
    card = (small / "README.md").read_text()
    assert f"# {after['name']}\n" in card
    assert "needs torch, transformers, sam2 and torchao" in card
    assert f"| weights in this folder | `{after['weights_sha256']}` |" in card
    assert card.index(quantisation["made_from"]) < card.index("## Use")
    assert "agreement" not in after


def test_only_the_layers_of_the_language_model_are_in_8_bits(small: Path):
    files = list(small.glob("*.safetensors"))
    assert len(files) > 1
    dtypes = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            dtypes |= {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    whole = {name.removesuffix("._weight_qdata") for name, dtype in dtypes.items() if dtype == torch.int8} - {
        name for name in dtypes if name.endswith("zero_point")
    }
    layers = [name for name in whole if name.endswith("_proj")]
    assert whole == {*layers, "language_model.lm_head"}
    assert all(name.startswith("language_model.model.layers.") for name in layers)
    assert dtypes["language_model.model.embed_tokens.weight"] == torch.bfloat16


def test_the_error_of_a_weight_is_half_a_step():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    step = weight.float().abs().amax(dim=1, keepdim=True) / 127
    assert ((quantise(weight).dequantize(torch.float32) - weight.float()).abs() <= 0.51 * step).all()


def test_a_model_that_draws_something_else_is_not_exported(full, small, checked, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(quantise_module, "quantise", lambda weight: quantise(0.5 * weight))
    # The full model is not checked once more.
    monkeypatch.setattr(
        quantise_module, "check_folder", lambda folder, progress: checked.get(folder) or check_folder(folder, progress)
    )
    with pytest.raises(
        UserError, match=r"nothing is left behind: .* checks failed\n  masks of the full model: IoU 0\."
    ):
        export(ExportConfig(model=str(full), out=str(tmp_path / "model"), quantise="int8"))
    assert list(tmp_path.iterdir()) == []


def test_it_is_for_answers_only(small: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"holds quantised weights \(torchao\). Give the folder of its full weights"):
        load_model(small)
    with pytest.raises(UserError, match="has weights of 8 bits already"):
        export(ExportConfig(model=str(small), out=str(tmp_path / "model"), quantise="int8"))


def test_a_lost_tensor_is_told(small: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small, tmp_path / "model"))
    (folder / "sa2va_manifest.json").unlink()
    lost = "language_model.lm_head._weight_scale"
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kept = {name: file.get_tensor(name) for name in file.keys() if name != lost}  # noqa: SIM118
            metadata = file.metadata()
        save_file(kept, path, metadata)
    with pytest.raises(UserError, match="does not hold the 8-bit weights"):
        load_predictor(str(folder))


def changed(small: Path, folder: Path, change) -> Path:
    """A copy without a manifest, whose tensors `change` has changed in place."""
    shutil.copytree(small, folder)
    (folder / "sa2va_manifest.json").unlink()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors, metadata)
        save_file(tensors, path, metadata)
    return folder


def _no_scale(tensors, metadata):
    for name in tensors:
        if name.endswith("_weight_scale"):
            tensors[name].zero_()


def _one_scale(tensors, metadata):
    for name in tensors:
        if name.endswith("_weight_scale"):
            tensors[name] = tensors[name][:1].clone()


def _unsigned(tensors, metadata):
    for name in tensors:
        if name.endswith("_weight_qdata"):
            tensors[name] = tensors[name].to(torch.uint8)


def _no_names(tensors, metadata):
    metadata.pop("tensor_names", None)


@pytest.mark.parametrize("change", [_no_scale, _one_scale, _unsigned, _no_names])
def test_what_would_compute_something_else_is_refused(small: Path, tmp_path: Path, change):
    with pytest.raises(UserError, match="does not hold the 8-bit weights"):
        load_predictor(str(changed(small, tmp_path / "model", change)))


def test_a_config_of_another_version_is_refused_with_what_is_here(small: Path, tmp_path: Path):
    folder = changed(small, tmp_path / "model", lambda tensors, metadata: None)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["quant_type"]["default"]["_version"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"another torchao than 0\."):
        load_predictor(str(folder))


def test_a_cut_shard_is_named(small: Path, tmp_path: Path):
    folder = changed(small, tmp_path / "model", lambda tensors, metadata: None)
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"{shard.name} is not a readable safetensors file"):
        load_predictor(str(folder))


def test_without_torchao_it_says_what_to_install(full: Path, small: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match=r"pip install 'sa2va-ray\[quantise\]'"):
        load_predictor(str(small))
    with pytest.raises(UserError, match=r"pip install 'sa2va-ray\[quantise\]'"):
        export(ExportConfig(model=str(full), out=str(tmp_path / "model"), quantise="int8"))


def test_it_runs_by_other_passes(small: Path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    predictor = load_predictor(str(small))
    expected = predictor.predict(queries())
    predictor._passes = CompiledPasses(predictor._model)
    for one, other in zip(expected, predictor.predict(queries()), strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "you gave none"),
        ({"checkpoint": "/c", "model": "/m", "out": "/o"}, "you gave checkpoint and model"),
        ({"checkpoint": "/c", "out": "/o", "quantise": "int8"}, "export the checkpoint first"),
        ({"model": "/m", "out": "/o"}, "model=... is exported already"),
        ({"model": "/m", "quantise": "int8"}, "out=... is missing"),
        ({"verify": "/m", "out": "/o"}, "leave out"),
        ({"model": "/m", "out": "/o", "quantise": "int8", "layout": "upstream"}, "layout=own"),
        ({"model": "/m", "out": "/o", "quantise": "int3"}, "quantise"),
    ],
)
def test_one_task_at_a_time(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        ExportConfig.parse(values)


def test_which_weights():
    assert is_quantised("language_model.model.layers.3.mlp.down_proj.weight")
    assert is_quantised("language_model.lm_head.weight")
    for name in (
        "language_model.model.layers.3.self_attn.q_proj.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.norm.weight",
        "vision_model.encoder.layer.0.attention.q_proj.weight",
        "text_hidden_fcs.0.weight",
    ):
        assert not is_quantised(name)
