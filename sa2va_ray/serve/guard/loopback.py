"""Without API keys this machine alone is served: how a request shows that it comes from here, and for nobody else.

An address is not enough. A proxy on this machine connects from it for anybody; a browser on it connects for every page
that it shows, and a page may give its own name the address 127.0.0.1 (DNS rebinding), so that the endpoint is of its
own origin. So the name that was asked for and the page that asks must be of this machine, too.
"""

import ipaddress
import re
from collections.abc import Mapping

from fastapi import Request

from sa2va_ray.serve.problems import Problem

_FORWARDING = re.compile(
    r"via|cdn-loop|.*forward.*|.*(client|real|connecting|remote|originating)-?(ip|addr)|x-(original|rewrite|envoy)-.*|"
    r"x-host"
)
_AUTHORITY = r"(?P<host>localhost|[0-9.]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
_HOST, _ORIGIN = re.compile(_AUTHORITY, re.IGNORECASE), re.compile(f"https?://{_AUTHORITY}", re.IGNORECASE)
_LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def check_request(request: Request) -> None:
    """Does what `check_headers` does, but allows a link on another site, which cannot read what the link opens.

    Raises:
        Problem: 403.
    """
    is_link = request.method == "GET" and all(request.headers.get(name) == value for name, value in _LINK.items())
    check_headers(request.headers, request.client.host if request.client else None, is_link)


def check_headers(headers: Mapping[str, str], client_host: str | None, is_link: bool = False) -> None:
    """Checks that a request comes from this machine and for nobody elsewhere.

    Args:
        headers: with names in lower case; one may come several times in `items()`.
        client_host: address of the other end of the connection.
        is_link: somebody follows a link.

    Raises:
        Problem: 403, not from this machine, or for somebody elsewhere.
    """
    hosts = [value for name, value in headers.items() if name == "host"]
    origins = [value for name, value in headers.items() if name == "origin"]
    is_cross_site = headers.get("sec-fetch-site") == "cross-site" and not is_link
    if not is_loopback(client_host):
        raise _not_local("this one comes from elsewhere")
    if any(_FORWARDING.fullmatch(name) for name in headers):
        raise _not_local("this one was forwarded by a proxy, as its headers say")
    if not all(_is_local(_HOST, host) for host in hosts):  # browsers always send one
        raise _not_local("the Host of this one is not localhost, 127.0.0.0/8 or [::1]")
    if is_cross_site or not all(_is_local(_ORIGIN, origin) for origin in origins):
        raise _not_local("this one was sent by a page of another site")


def is_loopback(host: str | None) -> bool:
    """Whether an IP address is this machine's own."""
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _is_local(pattern: re.Pattern[str], text: str) -> bool:
    match = pattern.fullmatch(text)
    return match is not None and (match["host"].lower() == "localhost" or is_loopback(match["host"].strip("[]")))


def _not_local(why: str) -> Problem:
    return Problem(
        403,
        "Not allowed",
        f"No API keys are configured here, so that requests from the same machine only are answered, and {why}.",
        "On that machine ask http://127.0.0.1 or http://localhost directly; for others ask whoever runs the server to "
        "configure keys.",
    )
