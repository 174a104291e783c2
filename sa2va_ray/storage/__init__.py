"""The one door to storage: everything that reads or writes an artefact takes a URI and goes through here."""

from sa2va_ray.storage.copies import (
    check_exists,
    download_files,
    download_folder,
    local_copy,
    upload_file,
    upload_folder,
)
from sa2va_ray.storage.files import (
    PARTIAL,
    check_writable,
    delete_files,
    delete_folder,
    exists,
    list_files,
    list_folders,
    modified_s,
    read_bytes,
    sha256,
    size,
    size_bytes,
    write_bytes,
)
from sa2va_ray.storage.stores import NotUtf8Error, StorageError, resolve
from sa2va_ray.storage.uris import KeptUri, Uri, absolute, bucket_and_key, check_outside, is_local, join

__all__ = [
    "PARTIAL",
    "KeptUri",
    "NotUtf8Error",
    "StorageError",
    "Uri",
    "absolute",
    "bucket_and_key",
    "check_exists",
    "check_outside",
    "check_writable",
    "delete_files",
    "delete_folder",
    "download_files",
    "download_folder",
    "exists",
    "is_local",
    "join",
    "list_files",
    "list_folders",
    "local_copy",
    "modified_s",
    "read_bytes",
    "resolve",
    "sha256",
    "size",
    "size_bytes",
    "upload_file",
    "upload_folder",
    "write_bytes",
]
