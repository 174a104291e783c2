"""Manifests: an artefact without one, or with another content than it names, is refused."""

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.export.target import check_target
from sa2va_ray.manifest import MANIFEST, DamagedError, digest, read_manifest, verify_files, write_manifest
from sa2va_ray.models.model_manifest import MODEL_MANIFEST
from sa2va_ray.predict.load import load_predictor


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(b"a" * 10)
    (tmp_path / "sub" / "b.bin").write_bytes(b"b" * 20)
    write_manifest(tmp_path, {"note": "kept"})
    return tmp_path


def test_round_trip(folder):
    manifest = read_manifest(str(folder))
    assert manifest["note"] == "kept"
    assert set(manifest["files"]) == {"a.bin", "sub/b.bin"}
    verify_files(folder, manifest)


def test_the_digest_names_the_content_alone(folder):
    first = digest(read_manifest(str(folder)))
    assert write_manifest(folder, {"note": "another"}) == first
    (folder / "a.bin").write_bytes(b"c" * 10)
    assert write_manifest(folder, {"note": "kept"}) != first


def test_a_folder_without_manifest_is_no_artefact(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"not a complete checkpoint.*manifest\.json"):
        read_manifest(str(folder), what="checkpoint")


def test_a_truncated_file_is_found_by_its_size(folder):
    (folder / "a.bin").write_bytes(b"a" * 9)
    with pytest.raises(UserError, match=r"a\.bin has 9 bytes, its manifest says 10"):
        read_manifest(str(folder))


def test_a_changed_byte_is_found_by_its_hash(folder):
    (folder / "a.bin").write_bytes(b"a" * 9 + b"x")
    with pytest.raises(UserError, match=r"a\.bin does not have the content"):
        verify_files(folder, read_manifest(str(folder)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"of 0 bytes is empty or cut off, or no JSON"),
        (b'{"files": {"a.bin": {"sha', "is empty or cut off"),
        (b"\x00" * 40, "is empty or cut off"),
        (b"[" * 100_000 + b"]" * 100_000, "is empty or cut off"),
        (b"[]", "does not name files"),
        (b'{"files": null}', "does not name files"),
        (b'{"files": {"a.bin": {"size": 10}}}', "does not name files"),
        (b'{"files": {"a.bin": {"size": -1, "sha256": "%s"}}}' % (b"a" * 64), "does not name files"),
        (b'{"files": {"../a.bin": {"size": 1, "sha256": "%s"}}}' % (b"a" * 64), "outside its folder"),
        (b'{"files": {"/a.bin": {"size": 1, "sha256": "%s"}}}' % (b"a" * 64), "outside its folder"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_damage(folder, content, message):
    """Everywhere: a model is not loaded, and not taken for one of another kind; a target with it is not replaced."""
    for name in (MANIFEST, MODEL_MANIFEST):
        (folder / name).write_bytes(content)
    with pytest.raises(DamagedError, match=message):
        read_manifest(str(folder))
    with pytest.raises(DamagedError, match=message):
        load_predictor(str(folder))
    with pytest.raises(UserError, match=message.removeprefix("of 0 bytes ")):
        check_target(str(folder))
