"""Base weights from a folder and from a stand-in of the hub: what comes, what is checked, what is refused."""

import json
import logging
from pathlib import Path

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest
from sa2va_ray.models.fetching.config import FetchConfig
from sa2va_ray.models.fetching.fetch import RECORD, fetch
from sa2va_ray.models.loading.load import load_model
from sa2va_ray.models.model_manifest import read_model_manifest, write_model_manifest
from sa2va_ray.telemetry import LOGGER
from tests.models.fetching.hub import COMMIT, Hub, serving


@pytest.fixture
def model(parity, tmp_path: Path) -> Path:
    """An upstream folder, and things beside it that are no part of a model."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in parity.folder.iterdir():
        if file.suffix in (".json", ".txt", ".safetensors"):
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def hub(model, tmp_path, monkeypatch):
    hub = Hub({file.name: file.read_bytes() for file in model.iterdir()})
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    with serving(hub) as endpoint:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(LOGGER, "propagate", True)
    caplog.set_level(logging.INFO, LOGGER.name)
    return caplog


def bring(source: str | Path, out: Path, **values: object) -> str:
    return fetch(FetchConfig.parse({"source": str(source), "out": str(out), **values}))


def test_a_folder_comes_with_all_that_loading_needs(model, tmp_path, parity):
    bring(model, tmp_path / "out")
    assert load_model(tmp_path / "out", grounding_config=parity.grounding_config).model
    assert not (tmp_path / "out/pytorch_model.bin").exists()


def test_an_exported_folder_comes_whole_with_its_manifest_last(model, tmp_path):
    (model / "modeling_sa2va.py").write_text("pass")
    sha256 = write_model_manifest(model, {"name": "octa"})
    bring(model, tmp_path / "out")
    assert digest(read_model_manifest(tmp_path / "out")) == sha256
    assert not (tmp_path / "out" / RECORD).exists()
    bring(model, tmp_path / "small", only_config=True)
    assert {"config.json", RECORD} <= {file.name for file in (tmp_path / "small").iterdir()}
    assert not (tmp_path / "small/sa2va_manifest.json").exists()


def test_a_model_of_the_hub_comes_with_its_commit_and_leaves_nothing_behind(hub, tmp_path, parity, messages):
    bring("own/guide", tmp_path / "out")
    assert "source=own/guide is no folder here, and is taken for a model of the hub" in messages.text
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["commit"] == COMMIT
    assert "model.safetensors" in record["files"]
    assert load_model(tmp_path / "out", grounding_config=parity.grounding_config).model
    assert not list((tmp_path / "tmp").rglob("*.safetensors"))


def test_weights_that_are_there_are_not_fetched_again_and_damaged_ones_are(hub, tmp_path):
    bring("own/guide", tmp_path / "out")
    weights = tmp_path / "out/model.safetensors"
    hub.downloads.clear()
    bring("hf://own/guide", tmp_path / "out")
    assert weights.name not in hub.downloads
    content = weights.read_bytes()
    weights.write_bytes(bytes(len(content)))
    bring("own/guide", tmp_path / "out")
    assert weights.read_bytes() == content


def test_what_arrives_with_another_hash_is_refused(hub, tmp_path):
    hub.corrupted = {"model.safetensors"}
    with pytest.raises(UserError, match=r"model\.safetensors did not arrive as own/guide has it"):
        bring("own/guide", tmp_path / "out")
    assert not (tmp_path / "out/model.safetensors").exists()
    assert not (tmp_path / "out" / RECORD).exists()


def test_a_model_of_another_family_is_refused_before_its_weights_come(hub, tmp_path):
    hub.files["config.json"] = b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
    with pytest.raises(UserError, match="is a model of type 'llama'"):
        bring("own/guide", tmp_path / "out")
    assert "model.safetensors" not in hub.downloads


def test_the_config_alone_or_one_file_alone(hub, tmp_path):
    bring("own/guide", tmp_path / "small", only_config=True)
    assert (tmp_path / "small/config.json").is_file()
    assert not (tmp_path / "small/model.safetensors").exists()
    hub.files["sam2.pt"] = b"weights"
    assert bring("own/guide", tmp_path / "sam2", file="sam2.pt") == str(tmp_path / "sam2/sam2.pt")
    with pytest.raises(UserError, match=r"has no file sam3\.pt\. It has .*sam2\.pt"):
        bring("own/guide", tmp_path / "sam2", file="sam3.pt")


def test_a_path_is_a_path_and_the_log_says_so(hub, model, tmp_path, messages):
    (tmp_path / "own").mkdir()
    model.rename(tmp_path / "own/guide")
    bring("own/guide", tmp_path / "out")
    assert "source=own/guide is taken for the folder of this name, not for a model of the hub" in messages.text
    assert hub.downloads == []
    with pytest.raises(UserError, match="is a folder, which has no revision"):
        bring("own/guide", tmp_path / "out", revision="main")


def test_what_is_neither_is_answered_with_both_ways_of_writing_it(hub, tmp_path):
    with pytest.raises(UserError, match=r"written owner/name or hf://owner/name, a folder \./owner/name"):
        bring(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(UserError, match=r"own/other cannot be fetched .*hf download own/other --local-dir FOLDER"):
        bring("own/other", tmp_path / "out")


def test_a_hub_that_does_not_answer_is_answered_with_what_to_copy(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"own/other cannot be fetched .*\(ConnectError\).*Without a network"):
        bring("own/other", tmp_path / "out")


def test_the_address_of_a_models_page_is_answered_with_how_it_is_written(tmp_path):
    with pytest.raises(UserError, match=r"not fetched from\. A model of the hub is written owner/name"):
        bring("https://huggingface.co/OpenGVLab/InternVL3-8B", tmp_path / "out")


def test_a_model_that_is_named_as_on_the_hub_is_answered_with_the_verb(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"There is nothing at .* sa2va-ray fetch source=OpenGVLab/InternVL3-8B out="):
        load_model("OpenGVLab/InternVL3-8B")
