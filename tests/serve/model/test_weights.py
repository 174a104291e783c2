"""The node's model cache: what is used stays, what nobody uses goes."""

import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from sa2va_ray import storage
from sa2va_ray.manifest import DamagedError, verify_files
from sa2va_ray.models.model_manifest import MODEL_MANIFEST, read_model_manifest, write_model_manifest
from sa2va_ray.serve.model.weights import ModelSource, load_on_node, local_model
from sa2va_ray.telemetry import LOGGER

USE = """
import sys
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.serve.model.weights import ModelSource, local_model
local_model(ModelSource(sys.argv[1], sys.argv[2], 0.5, CleanupConfig()), sys.argv[3])
print("loaded", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sources(stack, bucket_uri, tmp_path) -> list[ModelSource]:
    """Seven small models in the store."""
    for number in range(7):
        folder = tmp_path / f"model{number}"
        folder.mkdir()
        (folder / "weights").write_text(f"{number}")
        write_model_manifest(folder, {"name": f"model{number}", "threshold": 0.5})
        storage.upload_folder(folder, f"{bucket_uri}/{number}", last=MODEL_MANIFEST)
    return [ModelSource.read(f"{bucket_uri}/{number}") for number in range(7)]


def use(source: ModelSource, cache: Path) -> subprocess.Popen:
    """A process that has the model, as a replica has, until its stdin ends."""
    arguments = [sys.executable, "-c", USE, source.uri, source.sha256, str(cache)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "loaded\n"
    return process


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("")], ids=["gone", "cut off"])
@pytest.mark.parametrize("name", ["weights", MODEL_MANIFEST])
def test_a_copy_that_is_damaged_is_fetched_anew_while_another_process_has_it(sources, tmp_path, caplog, name, damage):
    LOGGER.addHandler(caplog.handler)
    folder, replica, found = tmp_path / sources[0].sha256, use(sources[0], tmp_path), []
    try:
        damage(folder / name)
        another = Thread(target=lambda: found.append(local_model(sources[0], str(tmp_path))), daemon=True)
        another.start()
        another.join(30)
        assert found == [str(folder)], "it does not wait for the end of the other process"
        assert (folder / "weights").read_text() == "0"
        assert "is fetched anew" in caplog.text
        storage.delete_folder(sources[0].uri)
        caplog.clear()
        assert local_model(sources[0], str(tmp_path)) == str(folder), "it needs no store"
        assert not caplog.text
    finally:
        replica.communicate()
        LOGGER.removeHandler(caplog.handler)


def test_what_a_killed_download_has_left_goes_with_the_next_one(stack, bucket_uri, tmp_path):
    """A model's gigabytes for each replica that was killed while it started, on a node's disk for ever."""
    (tmp_path / "weights").write_text("w")
    write_model_manifest(tmp_path, {"name": "a", "threshold": 0.5})
    storage.upload_folder(tmp_path, bucket_uri, last=MODEL_MANIFEST)
    source, cache = ModelSource.read(bucket_uri), tmp_path / "cache"
    killed = "from sa2va_ray.storage import copies; import os, shutil; shutil.rmtree = lambda *_, **__: os._exit(9); "
    killed += f"copies.download_folder({source.uri!r}, copies.Path({str(cache / source.sha256)!r}))"
    assert subprocess.run([sys.executable, "-c", killed]).returncode == 9
    (left,) = cache.iterdir()
    assert (left / "weights").exists()
    another = cache / f"{'0' * 64}.1{storage.PARTIAL}"
    another.mkdir()
    folder = local_model(source, str(cache))
    assert {each.name for each in cache.iterdir() if each.is_dir()} == {folder.rpartition("/")[2], another.name}


def load(folder: str) -> str:
    verify_files(folder, read_model_manifest(folder))
    return (Path(folder) / "weights").read_text()


def test_a_copy_whose_content_is_damaged_is_fetched_anew_once(sources, tmp_path):
    """A power cut may leave zeros in a file of the right size."""
    folder = Path(local_model(sources[0], str(tmp_path)))
    (folder / "weights").write_text("\0")
    assert load_on_node(sources[0], str(tmp_path), load) == "0"
    storage.write_bytes(f"{sources[0].uri}/weights", b"\0")  # where the store's is damaged, too
    (folder / "weights").write_text("\0")
    with pytest.raises(DamagedError, match="does not have the content"):
        load_on_node(sources[0], str(tmp_path), load)


def test_replicas_that_find_a_copy_damaged_at_once_fetch_it_once(sources, tmp_path, monkeypatch):
    """The later one took the manifest of the new copy away, under the hands of who was loading it."""
    folder, was_there = Path(local_model(sources[0], str(tmp_path))), []
    (folder / "weights").write_text("\0")
    download = storage.download_folder

    def download_seen(uri: str, target: Path) -> None:
        was_there.append(target.exists())
        download(uri, target)

    def load_late(place: str) -> str:
        try:
            return load(place)
        except DamagedError:
            assert load_on_node(sources[0], str(tmp_path), load) == "0"
            raise

    monkeypatch.setattr(storage, "download_folder", download_seen)
    assert load_on_node(sources[0], str(tmp_path), load_late) == "0"
    assert was_there == [False], "what is left of a damaged copy is never a model without a manifest"
    assert [each.name for each in tmp_path.iterdir() if each.is_dir() and each.name.startswith(folder.name)] == [
        folder.name
    ]


@pytest.mark.soak
def test_models_in_use_stay_however_many_they_are(sources, tmp_path):
    cache = tmp_path / "cache"
    replicas = [use(source, cache) for source in sources[:4]]
    try:
        for source in sources[4:]:  # each by a process that has ended when the next comes
            use(source, cache).communicate()
        assert all((cache / source.sha256 / "weights").is_file() for source in sources)
    finally:
        for replica in replicas:
            replica.communicate()
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights").write_text("other")
    write_model_manifest(other, {"name": "other"})
    storage.upload_folder(other, f"{sources[0].uri}-other", last=MODEL_MANIFEST)
    source = ModelSource.read(f"{sources[0].uri}-other")
    use(source, cache).communicate()
    kept = {each.name for each in cache.iterdir() if each.is_dir()}
    assert kept == {source.sha256, *(each.sha256 for each in sources[4:])}  # the three that were used last, and it


def test_a_model_of_another_calibration_is_another_source(stack, bucket_uri, tmp_path):
    (tmp_path / "weights").write_text("w")
    read = []
    for threshold in (0.5, 0.3):
        (tmp_path / MODEL_MANIFEST).unlink(missing_ok=True)
        write_model_manifest(tmp_path, {"name": "a", "threshold": threshold})
        storage.upload_folder(tmp_path, bucket_uri, last=MODEL_MANIFEST)
        read.append(ModelSource.read(bucket_uri))
    assert read[0].sha256 == read[1].sha256
    assert [source.threshold for source in read] == [0.5, 0.3]
    cache = str(tmp_path / "cache")
    assert local_model(read[0], cache) == local_model(read[1], cache)
