"""The door to storage against a real S3 store."""

import time
from pathlib import Path

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.demo.stack import Stack


def test_bytes_round_trip(bucket_uri: str) -> None:
    uri = storage.join(bucket_uri, "a", "b.bin")
    assert not storage.exists(uri)
    storage.write_bytes(uri, b"\x00\x01")
    assert storage.exists(uri)
    assert storage.read_bytes(uri) == b"\x00\x01"
    assert storage.size_bytes(uri) == 2
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(bucket_uri, "none"))
    for no_file in ("none", "a"):
        with pytest.raises(FileNotFoundError):
            storage.size_bytes(storage.join(bucket_uri, no_file))


def test_folder_round_trip(bucket_uri: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (source / "manifest.json").write_bytes(b"{}")
    (source / "sub" / "weights").write_bytes(b"12345")

    storage.upload_folder(source, bucket_uri, last="manifest.json")
    assert storage.list_files(bucket_uri) == {"manifest.json": 2, "sub/weights": 5}
    assert storage.list_folders(bucket_uri) == ["sub"]

    storage.download_folder(bucket_uri, target)
    assert {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*") if p.is_file()} == {
        "manifest.json": b"{}",
        "sub/weights": b"12345",
    }
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")] == []

    storage.delete_folder(bucket_uri)
    assert storage.list_files(bucket_uri) == {}


def test_delete_of_a_folder_that_never_was_does_nothing(bucket_uri: str) -> None:
    storage.delete_folder(bucket_uri)


def test_broken_upload_leaves_out_the_last_file(bucket_uri: str, tmp_path: Path) -> None:
    (tmp_path / "a_manifest").write_bytes(b"{}")
    (tmp_path / "b_readable").write_bytes(b"1")
    (tmp_path / "c_unreadable").symlink_to("/proc/self/mem")  # a file whose first byte cannot be read, also by root
    with pytest.raises(UserError):
        storage.upload_folder(tmp_path, bucket_uri, last="a_manifest")
    assert "a_manifest" not in storage.list_files(bucket_uri)


def test_wrong_credentials_name_the_endpoint(stack: Stack, bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=stack.endpoint_url):
        storage.check_writable(bucket_uri)


def test_unreachable_endpoint_is_told_soon(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start_s = time.monotonic()
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9"):
        storage.check_writable(bucket_uri)
    assert time.monotonic() - start_s < 20
