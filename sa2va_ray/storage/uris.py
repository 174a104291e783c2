"""How places are written: a local path, `file:///path` or `s3://bucket/key`. No store is asked here."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from sa2va_ray.config import UserError
from sa2va_ray.submission import is_submitted


def path_of(uri: str) -> str:
    """The part of a URI that its filesystem understands: a full path, or `bucket/key`.

    Raises:
        UserError: a URI that is empty, or of another scheme than `file://` and `s3://`.
    """
    if fault := _fault(uri):
        raise UserError(f"{uri or 'The path'}: {fault}")
    scheme, separator, path = uri.partition("://")
    if not separator:
        return _absolute(uri)
    return path.rstrip("/") if scheme == "s3" else path


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def absolute(uri: str) -> str:
    """A local path made absolute, so that other processes with another working directory find it; a URI as it is."""
    return uri if "://" in uri else _absolute(uri)


def _absolute(path: str) -> str:
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError:
        user = path.partition("/")[0].removeprefix("~")
        raise UserError(f"~{user}: this machine has no home of a user '{user}'. Write the path in full.") from None


def _fault(uri: str) -> str:
    """What is wrong with the way in which a URI is written; empty for nothing."""
    scheme, separator, path = uri.partition("://")  # not urlsplit: a key may hold "#" and "?"
    if not (path if separator else uri).strip():
        return "is empty: give a path, file:///path or s3://bucket/key"
    if separator and scheme not in ("s3", "file"):
        return f"storage of kind '{scheme}' is not supported; use a path, file:// or s3://"
    if scheme == "s3" and path.startswith("/"):
        return "names no bucket: give s3://bucket/key"
    if scheme == "file" and separator and not path.startswith("/"):
        return "is no path in full: give file:///path"
    return ""


def _checked(uri: str) -> str:
    if fault := _fault(uri):
        raise ValueError(fault)
    return absolute(uri)


Uri = Annotated[str, AfterValidator(_checked)]
"""A config's path or URI, not empty: a path is made absolute where the config is read, since workers run in other
folders."""


def _kept(uri: str) -> str:
    if is_submitted() and "://" not in uri and not uri.startswith(("/", "~")):
        raise ValueError(
            "is relative, and a submitted job runs in Ray's copy of --working-dir, which Ray deletes: what is written "
            f'there is lost. Give s3://bucket/{uri}, or where the cluster sees this disk "$PWD/{uri}", which your '
            "shell makes absolute"
        )
    kept = _checked(uri)
    if is_local(kept) and os.path.realpath(path_of(kept)) == "/":
        raise ValueError("is the root of this machine's disk, and a job writes to a folder of its own: name one")
    return kept


KeptUri = Annotated[str, AfterValidator(_kept)]
"""As `Uri`, of what a job writes, or what must not lie in a folder that is sent to the cluster: in a submitted job it
has to be absolute, and it is not the root of a disk, which would be listed for minutes. What a job reads may come along
with `--working-dir`, so a `Uri` may be relative there."""


def is_local(uri: str) -> bool:
    """Whether a URI is a path of the machine on which it is resolved."""
    return "://" not in uri or uri.startswith("file://")


def bucket_and_key(uri: str) -> tuple[str, str] | None:
    """The two parts of `s3://bucket/key`; None for any other URI."""
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    return (bucket, key) if scheme == "s3" else None


def check_outside(out: str, inputs: Mapping[str, str | None], key: str = "out", replaced: bool = False) -> None:
    """
    Args:
        inputs: by the name of their config key; None for what was not given.
        key: name of the config key of `out`.
        replaced: whether what is in `out` is deleted or written over, so that no input may lie in it.

    Raises:
        UserError: `out` is one of the inputs or lies in it, where it would be read with them at the next start; or an
            input lies in `out`. No path is repeated: it may tell a patient.
    """
    place = _place(out)
    for name, uri in inputs.items():
        other = _place(uri) if uri else None
        if place is None or other is None:
            continue
        if place == other or place.startswith(f"{other}/"):
            where = "is the same folder as" if place == other else "lies within"
            raise UserError(f"`{key}` {where} `{name}`, and would be read with it. Choose a folder beside it.")
        if replaced and other.startswith(f"{place}/"):
            raise UserError(f"`{name}` lies within `{key}`, which is replaced. Choose a folder beside it.")


def _place(uri: str) -> str | None:
    """Where a URI leads, links resolved, to be compared with others; None for what is no folder of ours."""
    if is_local(uri):
        return os.path.realpath(path_of(uri))
    scheme, _, path = uri.partition("://")
    return f"s3://{os.path.normpath(path)}" if scheme == "s3" else None
