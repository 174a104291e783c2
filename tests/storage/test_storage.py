"""The door to storage against a real S3 store."""

import errno
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.demo.stack import Stack
from sa2va_ray.storage import SilentStoreError, StorageError
from sa2va_ray.storage.stores import translated
from sa2va_ray.submission import JOB_CONFIG_VARIABLE


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
    storage.delete_tree(bucket_uri)


def test_a_tree_is_deleted_with_its_folder(bucket_uri: str, tmp_path: Path) -> None:
    for uri in (bucket_uri, str(tmp_path)):
        for name in ("a/x/1", "a/2", "b/3"):
            storage.write_bytes(f"{uri}/{name}", b"x")
        storage.delete_tree(f"{uri}/a")
        assert storage.list_files(uri) == {"b/3": 1}
    assert storage.list_folders(str(tmp_path)) == ["b"]


def test_a_full_disk_here_is_not_told_as_the_stores(bucket_uri: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket_uri}/weights", bytes(2**20))
    (tmp_path / "weights").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"This machine's disk is full, or .*, to which s3://") as caught:
        storage.download_files(bucket_uri, ["weights"], tmp_path)
    assert not isinstance(caught.value, SilentStoreError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_nor_is_a_quota(number: int) -> None:
    """No retry would help: the quota of a user's home is used up."""

    def copy() -> None:
        raise OSError(number, os.strerror(number))

    with pytest.raises(StorageError, match="This machine's disk is full, or its quota used up") as caught:
        translated("s3://bucket/weights", copy)
    assert not isinstance(caught.value, SilentStoreError)


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("UNKNOWN (HTTP status 400) during GetObject operation: Unable to parse ExceptionName: ExpiredToken Message: M",
         "AWS Error UNKNOWN (HTTP status 400) during GetObject operation: Unable to parse ExceptionName: ExpiredToken"),
        ("SLOW_DOWN during GetObject operation: Mueller", "AWS Error SLOW_DOWN during GetObject operation"),
        ("[code 136] during GetObject operation: The operation is not valid for the object's storage class", None),
        ("ACCESS_DENIED during GetObject operation: Access Denied.", None),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one_object_is_no_silent_store(reason: str, failure: str | None) -> None:
    """As pyarrow says it, of Amazon's answers."""

    def read() -> None:
        raise OSError(f"When reading information for key 'Mueller' in bucket 'b': AWS Error {reason}")

    with pytest.raises(StorageError) as caught:
        translated("s3://bucket/Mueller", read)
    assert (caught.value.failure if isinstance(caught.value, SilentStoreError) else None) == failure


def test_broken_upload_leaves_out_the_last_file(bucket_uri: str, tmp_path: Path) -> None:
    (tmp_path / "a_manifest").write_bytes(b"{}")
    (tmp_path / "b_readable").write_bytes(b"1")
    (tmp_path / "c_unreadable").symlink_to("/proc/self/mem")  # a file whose first byte cannot be read, also by root
    with pytest.raises(UserError):
        storage.upload_folder(tmp_path, bucket_uri, last="a_manifest")
    assert "a_manifest" not in storage.list_files(bucket_uri)


def test_wrong_credentials_name_the_endpoint(stack: Stack, bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match=stack.env["AWS_ENDPOINT_URL"]):
        storage.check_writable(bucket_uri)


def test_a_client_serves_as_long_as_the_environment_stays(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = storage.resolve(bucket_uri)[0], storage.resolve(bucket_uri)[0]
    assert first is again
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert storage.resolve(bucket_uri)[0] is not first
    monkeypatch.undo()
    assert storage.resolve(bucket_uri)[0] is first


def test_a_forked_process_has_a_client_of_its_own(bucket_uri: str) -> None:
    storage.write_bytes(f"{bucket_uri}/a", b"1")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(storage.read_bytes, (f"{bucket_uri}/a",)).get(timeout=30) == b"1"


def test_a_local_copy_is_the_file_itself_or_gone_afterwards(bucket_uri: str, tmp_path: Path) -> None:
    for uri in (bucket_uri, str(tmp_path)):
        for name in ("a", "sub/b"):
            storage.write_bytes(f"{uri}/{name}", name.encode())
        with storage.local_copy(uri) as folder:
            assert (folder / "sub/b").read_bytes() == b"sub/b"
        assert folder.exists() == storage.is_local(uri)
        with storage.local_copy(f"{uri}/sub/b") as file:
            assert (file.name, file.read_bytes()) == ("b", b"sub/b")
        with storage.local_copy(uri, ["a"]) as folder:
            assert (folder / "a").exists()
            assert (folder / "sub/b").exists() == storage.is_local(uri)
        with pytest.raises(UserError, match="nothing at"), storage.local_copy(f"{uri}/none"):
            pass


def test_unreachable_endpoint_is_told_soon(bucket_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start_s = time.monotonic()
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9"):
        storage.check_writable(bucket_uri)
    assert time.monotonic() - start_s < 20


def test_a_file_that_many_write_at_once_is_that_of_one_of_them(tmp_path: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(8)]
    start = threading.Barrier(len(contents))

    def write(data: bytes) -> None:
        start.wait()
        for _ in range(20):
            storage.write_bytes(f"{tmp_path}/run/lock.json", data)

    with ThreadPoolExecutor(len(contents)) as pool:
        list(pool.map(write, contents))
    assert storage.read_bytes(f"{tmp_path}/run/lock.json") in contents
    assert storage.list_files(str(tmp_path)).keys() == {"run/lock.json"}


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match="Storage does not work at"):
        storage.write_bytes(f"{tmp_path}/taken", b"1")
    assert storage.list_files(str(tmp_path)) == {}


@pytest.mark.parametrize("uri", ["", " ", "file://", "s3://"])
def test_an_empty_uri_is_no_working_directory(uri: str) -> None:
    with pytest.raises(ValidationError, match="is empty: give a path"):
        TypeAdapter(storage.Uri).validate_python(uri)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("gs://bucket/x", "storage of kind 'gs' is not supported; use a path, file:// or s3://"),
        ("s3:///x", "names no bucket: give s3://bucket/key"),
        ("file://x/y", "is no path in full: give file:///path"),
        ("~no.such.user/x", "this machine has no home of a user 'no.such.user'"),
    ],
)
def test_a_uri_that_leads_nowhere_is_refused_where_it_is_read_and_where_it_is_used(uri: str, words: str) -> None:
    with pytest.raises((ValidationError, UserError), match=words):
        TypeAdapter(storage.Uri).validate_python(uri)
    with pytest.raises(UserError, match=words):
        storage.exists(uri)


def test_a_bucket_that_is_not_there_is_named(bucket_uri: str) -> None:
    with pytest.raises(
        StorageError, match=r"^There is no bucket s3://nowhere in the store \(endpoint: http://127\S+\)\. "
    ):
        storage.write_bytes("s3://nowhere/a", b"1")


def test_a_shell_that_names_no_store_is_told_how_it_is_connected(monkeypatch) -> None:
    def ask() -> None:
        raise OSError("curlCode: 6, Could not resolve hostname")

    for address, is_told in ((None, True), ("http://127.0.0.1:1", False)):
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        if address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(StorageError) as told:
            translated("s3://bucket/a", ask)
        assert ('eval "$(sa2va-ray env)"' in str(told.value)) == is_told


def test_what_lies_below_a_file_is_not_there_and_what_fails_here_is_no_fault_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{tmp_path}/file/manifest.json")
    assert storage.list_folders(f"{tmp_path}/file") == []
    with pytest.raises(StorageError, match=r"on this machine: .*Check the path, its permissions") as told:
        storage.write_bytes(f"{tmp_path}/file/inner/a", b"x")
    assert "credentials" not in str(told.value)


def test_a_submitted_job_writes_nothing_into_rays_copy_of_the_working_directory(monkeypatch) -> None:
    kept = TypeAdapter(storage.KeptUri)
    assert kept.validate_python("out") == str(Path("out").absolute())
    monkeypatch.setenv(JOB_CONFIG_VARIABLE, "{}")
    with pytest.raises(ValidationError, match=r"is relative.*s3://bucket/runs/a, or .*\"\$PWD/runs/a\""):
        kept.validate_python("runs/a")
    for uri in ("/data/out", "~/out", "s3://bucket/out", "file:///data/out"):
        assert kept.validate_python(uri) == storage.absolute(uri)
    assert TypeAdapter(storage.Uri).validate_python(".demo/synthetic") == str(Path(".demo/synthetic").absolute())


@pytest.mark.parametrize("root", ["/", "//", "/tmp/..", "file:///"])
def test_no_job_writes_to_the_root_of_the_disk_which_it_would_list(root) -> None:
    with pytest.raises(ValidationError, match="is the root of this machine's disk"):
        TypeAdapter(storage.KeptUri).validate_python(root)


def test_links_back_up_the_tree_are_not_followed_and_others_are(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    for folder in (source / "a", source / "b", other):
        folder.mkdir(parents=True)
    for name in ("source/x.png", "source/a/x.png", "other/x.png"):
        (tmp_path / name).write_bytes(b"123")
    for link, target in {"up": "..", "a/up": "..", "a/b": "../b", "b/a": "../a", "far": "../other"}.items():
        (source / link).symlink_to(target, target_is_directory=True)
    (source / "root").symlink_to("/", target_is_directory=True)
    (source / "itself").symlink_to("itself")
    (source / "broken").symlink_to("nowhere")
    (source / "file.png").symlink_to("x.png")
    expected = {"x.png", "a/x.png", "b/a/x.png", "far/x.png", "file.png"}
    assert storage.list_files(str(source)) == dict.fromkeys(expected, 3)
    (tmp_path / "link").symlink_to(source, target_is_directory=True)
    assert storage.list_files(f"file://{tmp_path}/link/").keys() == expected
    for nothing in ("none", "source/itself", "source/itself/out", "source/broken"):
        assert storage.list_files(str(tmp_path / nothing)) == {}


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path.joinpath("a") / "b\udcff.png").touch()
    with pytest.raises(storage.NotUtf8Error, match="Rename them"):
        storage.list_files(str(tmp_path))


def test_a_folder_that_cannot_be_made_is_told_as_such() -> None:
    with pytest.raises(storage.StorageError, match="Check the path"):
        storage.check_writable("/proc/nowhere/out")


@pytest.mark.parametrize(
    ("out", "source", "replaced", "refused"),
    [
        ("{0}/a", "{0}/a", False, "is the same folder as `source`"),
        ("{0}/a/", "file://{0}/a", False, "is the same folder as `source`"),
        ("{0}/a/out", "{0}/a", False, "lies within `source`"),
        ("{0}/link/out/deeper", "{0}/a", False, "lies within `source`"),
        ("{0}/b/../a/out", "{0}/link/", False, "lies within `source`"),
        ("s3://bucket/a/out/", "s3://bucket/a", False, "lies within `source`"),
        ("{0}", "{0}/a", True, "`source` lies within `out`"),
        ("s3://bucket", "s3://bucket/a/", True, "`source` lies within `out`"),
        ("{0}", "{0}/a", False, ""),
        ("{0}/ab", "{0}/a", True, ""),
        ("s3://bucket/ab", "s3://bucket/a", True, ""),
        ("s3://bucket/a", "/bucket/a", True, ""),
        ("{0}/a", "hf://datasets/owner/name", True, ""),
        ("{0}/a", None, True, ""),
    ],
)
def test_an_output_within_an_input_is_refused(tmp_path: Path, out, source, replaced, refused) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("a", target_is_directory=True)
    inputs = {"source": source and source.format(tmp_path)}
    if not refused:
        storage.check_outside(out.format(tmp_path), inputs, replaced=replaced)
        return
    with pytest.raises(UserError, match=refused) as caught:
        storage.check_outside(out.format(tmp_path), inputs, replaced=replaced)
    assert str(tmp_path) not in str(caught.value)
