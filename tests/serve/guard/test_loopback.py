"""Without keys: who passes for somebody on this machine, and who does not."""

import pytest
from starlette.requests import Request

from sa2va_ray.serve.guard.access import Access
from sa2va_ray.serve.problems import Problem

HERE = "127.0.0.1"
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


def request(headers, client=HERE, method="POST") -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "method": method, "path": "/", "headers": raw, "client": (client, 1)})


def status(check, *arguments) -> int:
    try:
        check(*arguments)
    except Problem as problem:
        return problem.status
    return 200


def is_let_in(headers, client=HERE, method="POST") -> bool:
    """The same answer for routes that want a key and for those that do not."""
    asked = request(headers, client, method)
    found = status(Access([]).check_open, asked)
    assert status(Access([]).identify, asked.headers, client) == found
    assert found in (200, 403)
    return found == 200


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:8000", "127.9.8.7:1", "[::1]", "[::1]:8000"],
)
def test_names_of_this_machine(host):
    assert is_let_in([("host", host)])
    assert is_let_in([("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")])
    assert is_let_in([("host", host), ("origin", "http://localhost:8080"), ("sec-fetch-site", "same-site")])


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evil.localhost"),
        *("0.0.0.0:8000", "10.0.0.1", "128.0.0.1", "[::]", "[::2]:8000", "::1", "127.1", "2130706433", "0x7f.0.0.1"),
        *("", " ", "127.0.0.1:", "127.0.0.1:x", "localhost:8000:1", "evil@localhost", "localhost/x", "localhost, a"),
        *("loc\xe4lhost", "localhost.", "[::ffff:10.0.0.1]", "localhost\x00", "127.0.0.\xb2"),
    ],
)
def test_other_names(host):
    assert not is_let_in([("host", host)])
    assert not is_let_in([("host", "localhost"), ("host", host)])
    assert not is_let_in([("host", host), ("host", "localhost")])
    assert not is_let_in([("host", "localhost"), ("origin", f"http://{host}")])


@pytest.mark.parametrize("origin", ["null", "", "https://evil.example", "file://", "localhost", "ftp://localhost", "*"])
def test_pages_of_others(origin):
    assert not is_let_in([("host", "localhost:8000"), ("origin", origin)])


def test_what_a_browser_says_of_the_page_that_asks():
    host = ("host", "localhost:8000")
    assert not is_let_in([host, ("sec-fetch-site", "cross-site")], method="GET")
    for site in ("none", "same-origin", "same-site"):
        assert is_let_in([host, ("sec-fetch-site", site)], method="GET")


def test_a_link_on_another_site_opens_the_page_and_a_form_there_sends_nothing():
    headers = [("host", "localhost:8000"), *LINK.items()]
    assert status(Access([]).check_open, request(headers, method="GET")) == 200
    assert not is_let_in(headers, method="POST")
    assert not is_let_in([*headers, ("origin", "https://evil.example")], method="POST")


@pytest.mark.parametrize(
    "name",
    [
        *("via", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded", "x-real-ip"),
        *("x-client-ip", "true-client-ip", "cf-connecting-ip", "x-original-url", "x-envoy-external-address"),
        *("x-remote-addr", "x-originating-ip", "client-ip", "x-azure-clientip", "cdn-loop", "x-original-forwarded-for"),
    ],
)
def test_what_proxies_add(name):
    assert not is_let_in([("host", "localhost"), (name, HERE)])


def test_what_clients_add():
    usual = ("user-agent", "accept", "accept-encoding", "connection", "content-type", "x-request-id", "referer", "dnt")
    assert is_let_in([("host", "localhost"), *((name, "x") for name in usual)])


@pytest.mark.parametrize("client", ["10.0.0.1", "203.0.113.5", "::ffff:10.0.0.1", ""])
def test_other_machines(client):
    assert not is_let_in([("host", "localhost")], client)
