"""Asks a Label Studio server: with its token, within bounds, and nobody else.

No message here holds a path, the token or the address: names of files may be those of patients, and callers of an
endpoint need not know where its servers are.
"""

import json
import time
from typing import Any, Literal

import aiohttp
from yarl import URL

from sa2va_ray.label_studio.address import LabelStudioConfig

_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 64 * 1024
_ACCESS_S = 120.0  # an access token is good for five minutes
_MAX_SMALL_BYTES = 64 * 1024
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)


class LabelStudioError(Exception):
    """A server that does not give what it was asked for.

    Attributes:
        kind: away, refused (its token), missing, too_large, or failed for everything else.
        reason: a sentence with the numbers, without any name.
        cure: a sentence.
    """

    def __init__(self, kind: Literal["away", "refused", "missing", "too_large", "failed"], reason: str, cure: str):
        super().__init__(f"{reason} {cure}")
        self.kind, self.reason, self.cure = kind, reason, cure


class LabelStudio:
    """A server, and the token for it. To be used in one event loop."""

    def __init__(self, config: LabelStudioConfig) -> None:
        """Raises `UserError` where the environment has no token."""
        self.config = config
        self._token = config.read_token()
        self._access = ""
        self._access_until = 0.0

    async def get_json(self, url: URL, max_bytes: int) -> Any:
        """Raises `LabelStudioError`, also for what is no JSON."""
        data = await self.get(url, max_bytes)
        try:
            return json.loads(data) if isinstance(data, bytes) else None
        except ValueError:
            raise self._error("failed", "answered with something that is no JSON.") from None

    async def get(self, url: URL, max_bytes: int) -> bytes | URL:
        """What is at an address of this server, or the address elsewhere that it sends to: that is not asked.

        Raises:
            LabelStudioError: nothing came, too much, or not what was asked for.
        """
        for _ in range(1 + _MAX_REDIRECTS):
            if not self.config.holds(url):
                return url
            try:
                async with self._session() as session:
                    answer = await self._get_once(session, url, max_bytes)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
                raise self._error("away", "does not answer, or breaks off.") from None
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise self._error("failed", f"redirects more than {_MAX_REDIRECTS} times.")

    async def post(self, url: URL, body: Any, max_bytes: int) -> Any:
        """Sends JSON, or a file as a form, to an address of this server, once; returns the JSON of the answer.

        Args:
            body: what JSON can say, or an `aiohttp.FormData`.

        Raises:
            LabelStudioError: it was not taken, or nothing came back.
        """
        assert self.config.holds(url)
        sent = {"data": body} if isinstance(body, aiohttp.FormData) else {"json": body}
        try:
            async with self._session() as session:
                headers = {"Authorization": await self._authorization(session)}
                async with session.post(url, allow_redirects=False, headers=headers, **sent) as response:
                    await self._check_status(response)
                    return json.loads(await self._read(response, max_bytes))
        except json.JSONDecodeError:
            raise self._error("failed", "answered with something that is no JSON.") from None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise self._error("away", "does not answer, or breaks off.") from None

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_TIMEOUT,
            auto_decompress=False,  # few bytes may decompress to many
            headers={"Accept-Encoding": "identity"},
        )

    async def _get_once(self, session: aiohttp.ClientSession, url: URL, max_bytes: int) -> bytes | URL:
        headers = {"Authorization": await self._authorization(session)}
        async with session.get(url, allow_redirects=False, headers=headers) as response:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return url.join(URL(response.headers["Location"]))
            await self._check_status(response)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise self._error("failed", "compressed its answer, although asked not to.")
            return await self._read(response, max_bytes)

    async def _authorization(self, session: aiohttp.ClientSession) -> str:
        """A legacy token is good for all; a personal access token buys one that is good for minutes."""
        if self._token.count(".") != 2:
            return f"Token {self._token}"
        if time.monotonic() > self._access_until:
            url = self.config.address("/api/token/refresh")
            async with session.post(url, json={"refresh": self._token}, allow_redirects=False) as response:
                await self._check_status(response)
                content = json.loads(await self._read(response, _MAX_SMALL_BYTES))
            access = content.get("access") if isinstance(content, dict) else None
            if not isinstance(access, str):
                raise self._error("failed", "gave no access token for the personal access token.")
            self._access, self._access_until = access, time.monotonic() + _ACCESS_S
        return f"Bearer {self._access}"

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        if response.status in (200, 201):
            return
        if response.status in (401, 403):
            said = await response.content.read(_MAX_SMALL_BYTES)
            self._access_until = 0.0
            if b"legacy token" in said:
                raise self._error("refused", "takes no legacy tokens.", "Make a personal access token there.")
            raise self._error("refused", f"refuses the token ({response.status}).")
        if response.status == 404:
            raise self._error("missing", "has nothing at this address, or nothing that the token may see.")
        raise self._error("failed", f"answered with status {response.status}.")

    async def _read(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            body += chunk
            if len(body) > max_bytes:
                raise self._error("too_large", f"has more than the {max_bytes:,} bytes that are allowed.", "")
        return bytes(body)

    def _error(
        self, kind: Literal["away", "refused", "missing", "too_large", "failed"], what: str, cure: str | None = None
    ) -> LabelStudioError:
        cures = {
            "away": "Start it, and check label_studio.url: it must be reached from where this runs.",
            "refused": f"Check the token in {self.config.token_env}, and what its user may do there.",
            "missing": "Check that it is there, and that the token's user may see it.",
        }
        known = cures.get(kind, "Check label_studio.url, and the server's log.")
        return LabelStudioError(kind, f"Label Studio {what}", known if cure is None else cure)
