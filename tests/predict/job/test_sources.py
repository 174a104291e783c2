"""What `source` may be."""

import os
from pathlib import Path

import huggingface_hub.constants
import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.predict.job.sources import find_sources, takes

NAMES = ["a/Doe.jpg", "a/b/Doe_2.PNG", "c.tif", "run.MP4", "d/1.2.840.33", "e/im0001.ppm", "f/g.GIF", "plain"]
LEFT_OUT = [
    "a/._Doe.jpg",
    "notes.txt",
    "a/Thumbs.db",
    "__MACOSX/Doe.jpg",
    "im0002.ppm.gz",
    ".hidden/x.png",
    "labels.json",
]


def fill(uri: str) -> str:
    for name in [*NAMES, *LEFT_OUT]:
        storage.write_bytes(storage.join(uri, name), b"x")
    return uri


@pytest.fixture(params=["path", pytest.param("s3", marks=pytest.mark.cluster)])
def folder(request, tmp_path):
    return fill(str(tmp_path / "Doe" / "images") if request.param == "path" else request.getfixturevalue("bucket_uri"))


def names(images: str) -> list[str]:
    return [source.name for source in find_sources(images)]


def test_a_folder_is_all_images_and_videos_below_it(folder):
    sources = find_sources(folder)
    assert [source.name for source in sources] == sorted(NAMES)
    assert {source.name for source in sources if source.kind == "video"} == {"run.MP4"}
    assert all(storage.read_bytes(source.uri) == b"x" for source in sources)


def test_names_that_are_not_utf8_are_refused(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.jpg")).touch()
    with pytest.raises(UserError, match=r"not UTF-8") as refused:
        find_sources(str(tmp_path))
    assert "ller" not in str(refused.value)


def test_globs(folder):
    assert names(f"{folder}/*.tif") == ["c.tif"]
    assert names(f"{folder}/**/*.[jP]*") == ["a/Doe.jpg", "a/b/Doe_2.PNG"]
    assert names(f"{folder}/a/*") == ["Doe.jpg"]
    assert names(f"{folder}/?/**/*.*") == sorted(
        ["a/Doe.jpg", "a/b/Doe_2.PNG", "d/1.2.840.33", "e/im0001.ppm", "f/g.GIF"]
    )


def test_a_glob_that_cannot_be_is_refused(folder):
    with pytest.raises(UserError, match=r"no file, folder or glob: .*'\*\*' can only be an entire"):
        find_sources(f"{folder}/**.png")


def test_a_glob_of_thirty_wildcards_comes_to_an_end(tmp_path):
    (tmp_path / ("a_" * 60 + ".tif")).touch()
    with pytest.raises(UserError, match="no image or video among its 0 files"):
        find_sources(f"{tmp_path}/{'*_' * 30}v.tif")


def test_one_file(folder):
    assert names(f"{folder}/a/b/Doe_2.PNG") == ["Doe_2.PNG"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    storage.write_bytes(str(tmp_path / "run[1].png"), b"x")
    assert names(str(tmp_path / "run[1].png")) == ["run[1].png"]


@pytest.mark.parametrize("name", ["prep [v2]", "a*b", "what?", "[", "100%", "#1"])
def test_a_folder_that_exists_is_a_folder_before_it_is_a_pattern(tmp_path, prepared_uri, name):
    folder = tmp_path / name
    fill(str(folder / "images"))
    assert names(str(folder / "images")) == names(f"{folder}/images/") == sorted(NAMES)
    assert names(f"{folder}/images/*.tif") == ["c.tif"]
    assert names(f"{folder}/*/a/*") == ["images/a/Doe.jpg"]
    storage.download_folder(prepared_uri, folder / "data")
    assert {source.kind for source in find_sources(str(folder / "data"))} == {"samples"}


def test_links_back_up_the_tree_end(tmp_path):
    fill(str(tmp_path / "images"))
    for name in ("images/a/up", "images/d/up"):
        (tmp_path / name).symlink_to(tmp_path / "images", target_is_directory=True)
    assert names(str(tmp_path / "images")) == sorted(NAMES)
    assert names(f"{tmp_path}/images/**/*.tif") == ["c.tif"]


def test_it_is_told_whether_a_glob_takes_a_file(tmp_path):
    fill(str(tmp_path))
    assert takes(f"{tmp_path}/**/*.png", f"{tmp_path}/out/masks/0.png")
    assert not takes(f"{tmp_path}/*.png", f"{tmp_path}/out/masks/0.png")
    assert not takes(f"{tmp_path}/**/*.jpg", f"{tmp_path}/out/masks/0.png")
    assert not takes(str(tmp_path), f"{tmp_path}/out/masks/0.png")


def test_stems_lose_known_suffixes_only(folder):
    assert {source.stem for source in find_sources(folder)} == {
        *("a/Doe", "a/b/Doe_2", "c", "run", "d/1.2.840.33", "e/im0001", "f/g", "plain")
    }


@pytest.mark.parametrize("wrong", ["nothing", "*.heic", "labels.json"])
def test_nothing_there_is_an_error_without_the_name(folder, wrong):
    with pytest.raises(UserError, match="has no image or video among its") as error:
        find_sources(f"{folder}/{wrong}")
    assert "Doe" not in str(error.value)


def test_a_prepared_data_set(prepared_uri):
    assert [source.kind for source in find_sources(prepared_uri)] == ["samples"] * 3
    assert names(prepared_uri) == ["test-00000.parquet", "train-00000.parquet", "val-00000.parquet"]
    assert [source.name for source in find_sources(prepared_uri, "val")] == ["val-00000.parquet"]


def test_a_split_needs_a_prepared_data_set(folder):
    with pytest.raises(UserError, match=r"split=test is for a prepared data set"):
        find_sources(folder, "test")


def test_a_folder_with_a_foreign_manifest_is_a_folder(folder):
    storage.write_bytes(f"{folder}/manifest.json", b'{"name": "of something else"}')
    assert names(folder) == sorted(NAMES)


def test_a_path_that_is_not_there_is_not_asked_for_at_the_hub(monkeypatch):
    """`patients/Doe_John` of another machine, or misspelt, looks like a data set and is a name."""
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *names, **options: asked.append(names))
    with pytest.raises(UserError, match=r"or does not exist.* is written hf://datasets/owner/name") as refused:
        find_sources("patients/Doe_John")
    assert asked == []
    assert "Doe" not in str(refused.value)


def test_a_data_set_of_the_hub_from_the_cache_without_network(tmp_path, monkeypatch):
    commit = "0" * 40
    cached = tmp_path / "datasets--owner--vessels"
    fill(str(cached / "snapshots" / commit))
    (cached / "blobs").mkdir()
    storage.write_bytes(str(cached / "refs/main"), commit.encode())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert names("hf://datasets/owner/vessels") == names(str(cached)) == sorted(NAMES)
    assert names("hf://datasets/owner/vessels/a/b") == ["Doe_2.PNG"]
    assert names(f"hf://datasets/owner/vessels@{commit}/*.tif") == ["c.tif"]
    with pytest.raises(UserError, match="could not be fetched from the Hugging Face hub"):
        find_sources("hf://datasets/owner/other")
    with pytest.raises(
        UserError, match=r"names no data set\. A data set of the .* is written hf://datasets/owner/name"
    ):
        find_sources("hf://owner/vessels")
