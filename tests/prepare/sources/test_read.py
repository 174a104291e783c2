import json
import logging
import os
import shutil
import unicodedata
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.prepare.records import Annotation
from sa2va_ray.prepare.sources import read_source
from sa2va_ray.prepare.sources.items import DocumentLayout, build_item
from sa2va_ray.prepare.sources.json_labels import read as json_labels
from sa2va_ray.prepare.sources.shapes import to_polygon
from tests.prepare.sources.conftest import HIDDEN, OPTIONS, SQUARE, codes, write_image, write_json, write_mask


def refused(source: str, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        read_source(source, OPTIONS)
    error = caught.value
    assert HIDDEN not in str(error)
    assert error.__context__ is None or error.__suppress_context__, "the error below it may hold names"


def write_listed(folder: Path, stems: list[str]) -> None:
    for stem in stems:
        write_image(folder / f"images/{stem}.jpg")
    write_json(folder / "annotations.json", [{"image": f"images/{stem}.jpg", "mask": [SQUARE]} for stem in stems])


def test_what_fits_no_layout_is_refused_with_counts_by_kind(tmp_path):
    for name in (f"{HIDDEN}.jpg", "sub/roe.jpeg", "sub/doe.dcm", f"roe.{HIDDEN}", "data/train-0.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "x.json").write_text("{")
    refused(
        str(tmp_path), r"1 DICOM file\(s\), 2 JPEG file\(s\), 1 JSON file\(s\), 1 Parquet .*1 other.* 1 of the JSON"
    )


def test_missing_folders_are_refused(tmp_path):
    refused(str(tmp_path / HIDDEN), "is not a folder")
    refused(f"./{HIDDEN}/data", "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(str(tmp_path / "empty"), "holds no files")


def test_rubbish_and_hidden_files_are_no_orphans(tmp_path, read):
    write_listed(tmp_path, ["a"])
    for name in ("._a.jpg", ".cache/b.jpg", "__MACOSX/images/a.jpg", "images/.DS_Store", "images/Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = read()
    assert (len(source.records), source.quarantined) == (1, [])


def test_files_that_are_not_read_are_counted_by_kind(tmp_path, read):
    write_listed(tmp_path, ["a"])
    for name in (
        "b.avif",
        "c.AVIF",
        "d.heic",
        "list.csv",
        "rows.parquet",
        f"x.{HIDDEN}",
        "README",
        ".hidden.avif",
        "e.ppm.gz",
    ):
        (tmp_path / name).touch()
    assert read().unread == {"avif": 2, "heic": 1, "csv": 1, "gz": 1, "parquet": 1, "other": 2}


def test_an_image_that_two_layouts_name_is_quarantined_each_time(tmp_path, read):
    write_listed(tmp_path, ["a", "b"])
    shape = {"label": "left", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    write_json(tmp_path / "images/a.json", {"shapes": [shape]})
    source = read()
    assert source.layouts == {"flat": 2, "labelme": 1}
    assert codes(source) == {"path_twice": 2}
    assert [record.index for record in source.records] == [1]


def test_the_image_of_a_rejected_item_is_no_orphan(tmp_path, read):
    for stem in ("a", "b"):
        write_image(tmp_path / f"images/{stem}.jpg")
    write_json(tmp_path / "annotations.json", [{"image": "images/a.jpg", "mask": [[1, 2]]}])
    assert codes(read()) == {"short_polygon": 1, "orphan_image": 1}


def test_beside_json_labels_masks_are_not_labels(tmp_path, read):
    write_listed(tmp_path, ["a"])
    write_image(tmp_path / "images/b.jpg")
    write_mask(tmp_path / "masks/b.png")
    source = read()
    assert source.layouts == {"flat": 1}
    assert codes(source) == {"orphan_image": 1}


def test_names_that_differ_in_their_unicode_form_only_are_quarantined(tmp_path, read):
    write_listed(tmp_path, ["a"])
    for form in ("NFC", "NFD"):
        write_image(tmp_path / "images" / unicodedata.normalize(form, f"{HIDDEN}\u00fc.jpg"))
    assert codes(read()) == {"name_twice": 2}


def test_names_that_are_not_utf8_are_refused(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + f"/{HIDDEN}\xfc.jpg".encode("latin-1"))).touch()
    refused(str(tmp_path), "not UTF-8")


def test_the_order_does_not_depend_on_the_listing(tmp_path, monkeypatch):
    for stem in ("a", "b", "c"):
        write_image(tmp_path / f"images/{stem}.png")
        write_mask(tmp_path / f"masks/{stem}.png")
    usual, listed = read_source(str(tmp_path), OPTIONS), storage.list_files(str(tmp_path))
    for names in (sorted(listed), sorted(listed, reverse=True)):
        monkeypatch.setattr(storage, "list_files", lambda uri, names=names: {name: listed[name] for name in names})
        again = read_source(str(tmp_path), OPTIONS)
        assert [(r.name, r.label.uri) for r in again.records] == [(r.name, r.label.uri) for r in usual.records]


def test_a_listed_file_that_is_gone_is_not_named(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "list_files", lambda uri: {f"{HIDDEN}.json": 1, f"{HIDDEN}": 1})
    refused(str(tmp_path), "JSON.* cannot be read")
    monkeypatch.setattr(storage, "list_files", lambda uri: {f"{HIDDEN}": 1})
    refused(str(tmp_path), "cannot be read")


def write_hub_cache(home: Path) -> Path:
    """The cache as the hub's client leaves it: files are links to blobs."""
    folder = home / "hub/datasets--owner--vessels"
    write_listed(folder / "blobs", ["a"])
    for commit in ("0" * 40, "1" * 40):
        snapshot = folder / "snapshots" / commit
        (snapshot / "images").mkdir(parents=True)
        (snapshot / "images/a.jpg").symlink_to(folder / "blobs/images/a.jpg")
        (snapshot / "annotations.json").symlink_to(folder / "blobs/annotations.json")
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("0" * 40)
    (folder / "refs/v2").write_text("1" * 40)
    return folder


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # HF_HOME and HF_HUB_OFFLINE are read
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # when the library is imported
    return write_hub_cache(tmp_path)


def test_a_hub_data_set_is_read_from_the_hub_s_cache(hub_cache):
    for source, commit in (("hf://datasets/owner/vessels", "0" * 40), ("hf://datasets/owner/vessels@v2", "1" * 40)):
        (record,) = read_source(source, OPTIONS).records
        assert record.image_uri == str(hub_cache / "snapshots" / commit / "images/a.jpg")


def test_a_hub_data_set_that_cannot_be_fetched_is_refused(hub_cache, caplog):
    caplog.set_level(logging.DEBUG)
    for name in (HIDDEN, "vessels@v3", "vessels--x"):
        refused(f"hf://datasets/owner/{name}", "could not be fetched from the Hugging Face hub")
    assert HIDDEN not in caplog.text


def test_a_folder_that_is_not_there_is_not_asked_for_at_the_hub(monkeypatch):
    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *names, **options: asked.append(names))
    refused(f"patients/{HIDDEN}", r"not a folder that this machine sees\..* is written hf://datasets/owner/name")
    assert asked == []


def test_the_folder_of_a_hub_data_set_in_the_cache_is_read(hub_cache):
    refused(str(hub_cache), "2 revisions")
    assert len(read_source(str(hub_cache / "snapshots" / ("1" * 40)), OPTIONS).records) == 1
    shutil.rmtree(hub_cache / "snapshots" / ("1" * 40))
    assert len(read_source(str(hub_cache), OPTIONS).records) == 1


def test_a_source_in_a_store(bucket_uri, tmp_path):
    write_listed(tmp_path, ["a", HIDDEN])
    storage.upload_folder(tmp_path, bucket_uri, last="annotations.json")
    source = read_source(bucket_uri, OPTIONS)
    assert [record.name for record in source.records] == ["images/a.jpg", f"images/{HIDDEN}.jpg"]
    assert [storage.exists(record.image_uri) for record in source.records] == [True, True]
    refused(f"{bucket_uri}/{HIDDEN}", "holds no files")
    refused(f"s3://no-such-bucket/{HIDDEN}", "cannot be listed|holds no files")


def test_a_guide_data_set_as_it_is_published(tmp_path, read):
    """With masks beside the polygons, the polygons once more in the answer, a table, a notice and a list of hashes."""
    answer = f"<p>blood vessels</p><vp>{[SQUARE, SQUARE]}</vp>[SEG]"
    talk = [{"from": "human", "value": "<image>\nPlease segment the blood vessels."}, {"from": "gpt", "value": answer}]
    names = [f"subj{eye:02d}_frame_{eye:06d}" for eye in range(3)]
    for name in names:
        write_image(tmp_path / f"images/{name}.jpg")
        write_mask(tmp_path / f"masks/{name}.png")
    mask = [{"segmentation": [SQUARE]}, {"segmentation": [SQUARE]}]
    items = [{"image": f"images/{name}.jpg", "mask": mask, "conversations": talk} for name in names]
    write_json(tmp_path / "annotations.json", items)
    for name in ("meta.csv", "LICENSE-NOTICE.txt", "SHA256SUMS"):
        (tmp_path / name).write_text(HIDDEN)
    source = read()
    assert source.layouts == {"guide": 3}
    assert source.quarantined == []
    assert all(list(record.label.objects) == ["blood vessels"] for record in source.records)
    assert all(record.mask_uri and storage.exists(record.mask_uri) for record in source.records)


def test_a_layout_of_a_json_file_is_an_entry(tmp_path, monkeypatch):
    def read(folder, document, content, options):
        for name, polygon in content["drawn"].items():
            annotation = Annotation({options.phrase: [to_polygon(polygon)]}, None)
            yield build_item("toy", lambda name=name: folder.find_image(document, name), lambda found=annotation: found)

    toy = DocumentLayout(lambda content: isinstance(content, dict) and "drawn" in content, read, "a toy")
    monkeypatch.setattr(json_labels, "DOCUMENT_LAYOUTS", (*json_labels.DOCUMENT_LAYOUTS, toy))
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "drawn.json").write_text(json.dumps({"drawn": {"a.png": [1, 1, 9, 1, 9, 9]}}))
    source = read_source(str(tmp_path), OPTIONS)
    assert source.layouts == {"toy": 1}
    assert [record.name for record in source.records] == ["a.png"]
