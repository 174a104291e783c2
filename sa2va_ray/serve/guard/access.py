"""Who may ask: API keys with a rate limit; without any, this machine alone.

    python -m sa2va_ray.serve.guard.access new ID

makes a key. What is stored of it, a JSON list of `ApiKey`, is in a file or in the environment variable SA2VA_API_KEYS.
"""

import argparse
import base64
import hashlib
import hmac
import json
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from ray.serve._private.constants import RAY_SERVE_ENABLE_HA_PROXY

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.serve.guard import loopback
from sa2va_ray.serve.problems import Problem

KEYS_VARIABLE = "SA2VA_API_KEYS"
LOOPBACK_ID = "(loopback)"
"""Key id of a request from this machine where no keys are configured."""

_COMMAND = "python -m sa2va_ray.serve.guard.access"
_KEY_BYTES = 32


class ApiKey(Config):
    """What is stored of a key."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Stands in the audit log; not secret."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """SHA-256 of the key. A key is 32 random bytes, which nobody can guess however fast the hash is: the slow hashes
    with salt are for passwords, which people choose."""
    scopes: Annotated[tuple[Literal["predict"], ...], Field(min_length=1)] = ("predict",)
    """What it may be used for. `predict` is all there is, so a request is not checked against it."""
    requests_per_minute: int | None = Field(None, gt=0, le=1_000_000)
    """How often it may be used, in each process that checks keys, and how often at once; None is no limit."""

    @field_validator("scopes", mode="before")
    @classmethod
    def _has_no_former_scope(cls, scopes: Any) -> Any:
        if isinstance(scopes, list | tuple) and "admin" in scopes:
            raise ValueError("there is no scope 'admin' any more, nothing ever needed it: leave it out")
        return scopes


class Access:
    """Checks the key of each request. To be called from one thread, as an event loop does."""

    def __init__(self, keys: Iterable[ApiKey], clock: Callable[[], float] = time.monotonic):
        """
        Args:
            clock: seconds, never going back.
        """
        self._keys = tuple(keys)
        self._buckets = {
            key.id: _Bucket(key.requests_per_minute, clock) for key in self._keys if key.requests_per_minute
        }

    @classmethod
    def load(cls, path: str | None) -> "Access":
        """The keys in the file at `path` (a path or URI), else in the environment; neither: no keys.

        Raises:
            UserError: no such file, or not a list of keys; no keys where they are obligatory. The message holds none of
                their values.
        """
        if path is not None:
            keys = _parse(_read(path), where=path)
        else:
            keys = _parse(os.environ.get(KEYS_VARIABLE) or "[]", where=f"environment variable {KEYS_VARIABLE}")
        if RAY_SERVE_ENABLE_HA_PROXY and not keys:
            raise UserError(
                "Serve runs with HAProxy here (RAY_SERVE_ENABLE_HA_PROXY=1), which listens on all interfaces, and "
                "behind which every request seems to come from this machine: without API keys anybody would be "
                f"answered. Make keys with `{_COMMAND} new ID`, or start Ray without that variable."
            )
        return cls(keys)

    def describe(self) -> str:
        """One sentence on who may ask, for the log."""
        if not self._keys:
            return (
                "No API keys are configured: requests from this machine only are answered, and none that a proxy "
                f"forwards. Make keys with `{_COMMAND} new ID`."
            )
        return f"{len(self._keys)} API key(s) are configured; requests without one are refused."

    def check_open(self, request: Request) -> None:
        """What routes that need no key ask of a request, too: without any keys it has to be from this machine.

        Raises:
            Problem: 403.
        """
        if not self._keys:
            loopback.check_request(request)

    def identify(self, headers: Mapping[str, str], client_host: str | None) -> str:
        """Id of the key that a request brings, as `Authorization: Bearer KEY` or `X-API-Key: KEY`.

        Label Studio can send a password only: `Authorization: Basic` with the key as the password is taken, too.

        Args:
            headers: with names in lower case, or without regard to case.
            client_host: address of the other end of the connection.

        Raises:
            Problem: 401 no valid key; 403 no keys and not from this machine.
        """
        if not self._keys:
            loopback.check_headers(headers, client_host)
            return LOOPBACK_ID
        return self._find(_presented(headers)).id

    def admit(self, key_id: str) -> None:
        """Counts a request against the limit of its key.

        Args:
            key_id: from `identify`.

        Raises:
            Problem: 429 too often.
        """
        if key_id in self._buckets:
            self._buckets[key_id].take()

    def _find(self, presented: str) -> ApiKey:
        digest = _sha256(presented)
        # All of them are compared, so that the time tells nothing of which one was near.
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if not found:
            raise _unauthorized("The API key is not known." if presented else "The request has no API key.")
        return found[0]


class _Bucket:
    """A token bucket: filled evenly, one token for each request, as many at most as come in a minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]):
        self._per_minute, self._clock = per_minute, clock
        self._tokens, self._filled_s = float(per_minute), clock()

    def take(self) -> None:
        """Takes a token.

        Raises:
            Problem: 429, there is none.
        """
        now_s = self._clock()
        filled = self._tokens + (now_s - self._filled_s) * self._per_minute / 60
        self._tokens, self._filled_s = min(filled, float(self._per_minute)), now_s
        if self._tokens < 1:
            wait_s = math.ceil((1 - self._tokens) * 60 / self._per_minute)
            raise Problem(
                429,
                "Too many requests",
                f"The key may be used {self._per_minute} times a minute.",
                f"Try again in {wait_s} s.",
                retry_after_s=wait_s,
            )
        self._tokens -= 1


def new_key(id: str, requests_per_minute: int | None = None) -> tuple[str, ApiKey]:
    """A new random key, and what is to be stored of it.

    Raises:
        UserError: an id or a limit that cannot be used.
    """
    key = secrets.token_urlsafe(_KEY_BYTES)
    return key, ApiKey.parse({"id": id, "sha256": _sha256(key), "requests_per_minute": requests_per_minute})


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _presented(headers: Mapping[str, str]) -> str:
    """The key that a request brings, empty where it brings none."""
    kind, _, credentials = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return credentials.strip()
    if kind.lower() == "basic":
        return _password(credentials.strip())
    return headers.get("x-api-key", "").strip()


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:  # of base64 or of UTF-8
        raise _unauthorized("The header Authorization: Basic is not base64 of user:key.") from None


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "No valid API key", detail, "Send a valid one as Authorization: Bearer KEY or X-API-Key: KEY.")


def _read(path: str) -> str:
    try:
        return storage.read_bytes(path).decode()
    except FileNotFoundError:
        raise UserError(f"There is no file of API keys at {path}. Correct api_keys_file, or leave it out.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file, so it holds no API keys.") from None


def _parse(text: str, where: str) -> list[ApiKey]:
    try:
        keys = TypeAdapter(list[ApiKey]).validate_json(text)
    except ValidationError as error:
        # Not the values: somebody may have put a key itself where its hash belongs.
        problems = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'all'}: {p['msg']}" for p in error.errors())
        raise UserError(
            f"The API keys in {where} are not a JSON list of objects as `{_COMMAND} new ID` prints them ({problems}). "
            "The file begins with [ and ends with ], also where it holds one key."
        ) from None
    for what in ("id", "sha256"):
        num_different = len({getattr(key, what) for key in keys})
        if num_different != len(keys):
            raise UserError(
                f"The {len(keys)} API keys in {where} have {num_different} different {what}s; each its own."
            )
    return keys


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=_COMMAND, description="API keys of the endpoint.")
    new = parser.add_subparsers(required=True).add_parser("new", help="make a key")
    new.add_argument("id", help="stands in the audit log")
    new.add_argument("--requests-per-minute", type=int)
    chosen = parser.parse_args(arguments)
    try:
        key, stored = new_key(chosen.id, chosen.requests_per_minute)
    except UserError as error:
        parser.error(str(error))
    print(f"Give this key to its user; it is shown this once:\n{key}")
    print(f"Add this to the JSON list of keys, or save it as one:\n[{json.dumps(stored.model_dump(mode='json'))}]")


if __name__ == "__main__":
    main()
