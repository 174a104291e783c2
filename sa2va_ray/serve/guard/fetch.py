"""Images by URI, from places that the operator allows and from nowhere else.

A server that fetches what a stranger names is a way into its own network (server-side request forgery). So a URI must
lie below an allowed prefix; its host must resolve to public addresses only; the connection goes to the very addresses
that were checked, since a second look-up may answer otherwise; and every redirect is checked as the first URI was.

No message here holds a path or a query: names of files may be those of patients, queries may hold signatures.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from pydantic import Field, field_validator
from yarl import URL

from sa2va_ray import storage
from sa2va_ray.config import Config
from sa2va_ray.serve.guard.thread_pool import BoundedThreadPool
from sa2va_ray.serve.problems import Problem

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 64 * 1024

_THREADS = BoundedThreadPool(
    32,
    Problem(
        503,
        "Too busy",
        "All threads that fetch images wait for a store or a name server.",
        "Try again after the seconds in Retry-After, or send the image itself.",
        retry_after_s=5,
    ),
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class UriPolicy(Config):
    """Which URIs may be fetched."""

    allowed_uri_prefixes: tuple[str, ...] = ()
    """`s3://bucket/folder/` or `https://host/folder/`, on whole folder names; another port than 443 stands in the
    prefix. Redirects must stay below them, too. None: URIs are refused."""
    timeout_s: float = Field(20.0, gt=0, le=86_400)
    """For all of a fetch: look-up, connection, redirects and body."""

    @field_validator("allowed_uri_prefixes")
    @classmethod
    def _are_places(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if "?" in prefix or "#" in prefix or _Place.of(prefix) is None:
                raise ValueError(f"{prefix} is neither s3://bucket/... nor https://host/... without query and user")
        return prefixes

    def allows(self, uri: str) -> bool:
        """Whether a URI lies below an allowed prefix."""
        place = _Place.of(uri)
        return place is not None and any(place.is_below(_Place.of(prefix)) for prefix in self.allowed_uri_prefixes)


def address_is_allowed(address: str) -> bool:
    """Whether an IP address is public: not loopback, private, link-local, shared, multicast, reserved or unspecified,
    and no IPv6 address that stands for an IPv4 one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        stands_for_ipv4 = ip.ipv4_mapped or ip.sixtofour or ip.teredo
        if stands_for_ipv4 or ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_link_local)


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system finds them. Raises `OSError` where there are none."""
    infos = await _THREADS.run(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in infos]


async def fetch(
    uri: str,
    policy: UriPolicy,
    max_bytes: int,
    *,
    resolve: Resolve = resolve_host,
    address_is_allowed: Callable[[str], bool] = address_is_allowed,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    """The bytes at a URI.

    Args:
        max_bytes: a body is read up to this size.
        resolve, address_is_allowed, ssl_context: other than the default in tests only.

    Raises:
        Problem: 403 not allowed; 413 too large; 422 not there, not reached, or not in time; 503 too many at a time.
    """
    _check_allowed(uri, policy)
    try:
        async with asyncio.timeout(policy.timeout_s):
            if storage.bucket_and_key(uri):
                return await _THREADS.run(_read_object, uri, max_bytes)
            return await _Https(policy, max_bytes, resolve, address_is_allowed, ssl_context).get(URL(uri))
    except TimeoutError:
        raise _not_fetched(f"It did not come within {policy.timeout_s:g} s.") from None


@dataclass(frozen=True)
class _Place:
    scheme: str
    host: str
    port: int | None
    folders: tuple[str, ...]

    @classmethod
    def of(cls, uri: str) -> Self | None:
        """None where a URI is of another scheme, says who asks, or could mean another place than it seems to."""
        try:
            uri.encode()  # half of a surrogate pair is no text
            if s3 := storage.bucket_and_key(uri):
                bucket, key = s3
                return cls("s3", bucket, None, _folders(key)) if bucket and _is_plain(key) else None
            url = URL(uri)
            if url.scheme != "https" or not url.host or url.raw_user is not None or url.raw_password is not None:
                return None
            return cls("https", url.host, url.port, _folders(url.raw_path[1:])) if _is_plain(url.raw_path) else None
        except ValueError:
            return None

    def is_below(self, other: Self | None) -> bool:
        return (
            other is not None
            and (self.scheme, self.host, self.port) == (other.scheme, other.host, other.port)
            and self.folders[: len(other.folders)] == other.folders
        )


def _folders(path: str) -> tuple[str, ...]:
    return tuple(path.removesuffix("/").split("/")) if path.removesuffix("/") else ()


def _is_plain(path: str) -> bool:
    """No way up, and no slash in disguise, however often a server decodes it."""
    decoded = path
    while decoded != unquote(decoded):
        decoded = unquote(decoded)
    return not (
        {".", ".."} & set(decoded.split("/"))
        or decoded.count("/") != path.count("/")
        or any(character == "\\" or ord(character) < 32 for character in decoded)
    )


class _Checked(AbstractResolver):
    """Answers with addresses that were checked, whatever the name means by now."""

    def __init__(self, addresses: Sequence[str]):
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class _Https:
    policy: UriPolicy
    max_bytes: int
    resolve: Resolve
    address_is_allowed: Callable[[str], bool]
    ssl_context: ssl.SSLContext | None

    async def get(self, url: URL) -> bytes:
        for _ in range(1 + _MAX_REDIRECTS):
            try:
                answer = await self._get_once(url)
            except (aiohttp.ClientError, OSError, ValueError):
                raise _not_fetched("Its server could not be reached, or did not speak HTTPS.") from None
            if isinstance(answer, bytes):
                return answer
            _check_allowed(str(answer), self.policy, "a redirect leads to where nothing may be fetched from")
            url = answer
        raise _not_fetched(f"It was redirected more than {_MAX_REDIRECTS} times.")

    async def _get_once(self, url: URL) -> bytes | URL:
        """The body, or where it is said to be."""
        connector = aiohttp.TCPConnector(
            resolver=_Checked(await self._addresses(url)),
            ssl=self.ssl_context or True,
            use_dns_cache=False,
            force_close=True,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # that of `fetch` is for all of it
                auto_decompress=False,  # few bytes may decompress to many
            ) as session,
            session.get(url, allow_redirects=False, headers={"Accept-Encoding": "identity"}) as response,
        ):
            if response.status in _REDIRECTS and "Location" in response.headers:
                return url.join(URL(response.headers["Location"]))
            if response.status != 200:
                raise _not_fetched(f"Its server answered with status {response.status}.")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise _not_fetched("Its server compressed it, although asked not to.")
            return await self._read(response)

    async def _addresses(self, url: URL) -> Sequence[str]:
        addresses = await self.resolve(url.host or "", url.port or 443)
        if not addresses:
            raise OSError("no address")
        if not all(map(self.address_is_allowed, addresses)):
            raise _not_allowed("its host has an address that is not public")
        return addresses

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.content_length is not None:
            _check_size(response.content_length, self.max_bytes)
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            _check_size(len(body), self.max_bytes)
        return bytes(body)


def _read_object(uri: str, max_bytes: int) -> bytes:
    try:
        _check_size(storage.size_bytes(uri), max_bytes)
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise _not_fetched("There is no such object.") from None
    except storage.StorageError:
        raise _not_fetched("The object store does not answer, or refuses.") from None


def _check_allowed(uri: str, policy: UriPolicy, otherwise: str = "it is not below an allowed prefix") -> None:
    if not policy.allowed_uri_prefixes:
        raise _not_allowed("this server fetches none")
    if not policy.allows(uri):
        raise _not_allowed(otherwise)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise Problem(
            413,
            "Image too large",
            f"The image at the URI has {size:,} bytes or more, the limit is {max_bytes:,}.",
            "Use a smaller image, or one that is better compressed.",
        )


def _not_allowed(why: str) -> Problem:
    return Problem(
        403,
        "URI not allowed",
        f"The URI may not be fetched: {why}.",
        "Send the image itself, or ask whoever runs the server to add its place to allowed_uri_prefixes.",
    )


def _not_fetched(why: str) -> Problem:
    return Problem(
        422, "Image not fetched", f"The image at the URI was not fetched: {why}", "Check the URI, or send the image."
    )
