"""Results in the browser."""

import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.console.viewer import ViewerServer, find_page, start_server
from sa2va_ray.train.watch.page.silence import PLACE


@contextmanager
def served(folder: str) -> Iterator[ViewerServer]:
    with start_server(str(folder), 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_a_report_on_a_store_is_shown_as_it_is_now(bucket_uri):
    report = storage.join(bucket_uri, "report.html")
    storage.write_bytes(report, b"<p>one")
    storage.write_bytes(storage.join(bucket_uri, "pictures/a b#.png"), b"png")
    assert find_page(bucket_uri) == (bucket_uri, "report.html")
    assert find_page(report) == (bucket_uri, "report.html")
    with served(bucket_uri) as server:
        assert get(f"{server.base_url}/report.html") == (200, "text/html; charset=utf-8", "<p>one")
        storage.write_bytes(report, b"<p>two")
        assert get(f"{server.base_url}/report.html")[2] == "<p>two"
        status, _, listing = get(f"{server.base_url}/")
        assert status == 200
        assert '<a href="report.html">' in listing
        assert get(f"{server.base_url}/pictures/a%20b%23.png")[:2] == (200, "image/png")
        assert get(f"{server.base_url}/nothing.png")[0] == 404


def test_the_page_of_a_run_comes_first(tmp_path):
    for name in ("contact_sheet.png", "report.html", "run.html"):
        (tmp_path / name).write_bytes(b"x")
    assert find_page(str(tmp_path))[1] == "run.html"


def test_pictures_of_a_folder_without_a_page_are_shown_overlays_first(tmp_path):
    """As `jobs.predict` writes them."""
    for name in ("masks/1.png", "overlays/a b#.png", "results.json"):
        storage.write_bytes(str(tmp_path / name), b"x")
    with served(tmp_path) as server:
        page = get(f"{server.base_url}/")[2]
        shown = re.findall('<img src="([^"]+)"', page)
        assert shown == ["overlays/a%20b%23.png", "masks/1.png"]
        assert [get(f"{server.base_url}/{each}")[:2] for each in shown] == [(200, "image/png")] * 2
    assert "img-src data: 'self'" in page
    assert '<a href="results.json">results.json</a>' in page


def test_others_cannot_guess_the_address_and_nobody_leaves_the_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.txt").write_text("a")
    (tmp_path / "secret.txt").write_text("patient")
    with served(tmp_path / "inner") as server:
        host = f"http://127.0.0.1:{server.server_port}"
        assert get(f"{server.base_url}/a.txt")[2] == "a"
        for path in ("/", "/a.txt", "/wrong/a.txt", f"/{server.secret[:-1]}/a.txt"):
            assert get(host + path)[0] == 404
        for way in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", f"/{tmp_path}/secret.txt"):
            status, _, text = get(f"{server.base_url}/{way}")
            assert (status, "patient" in text) == (404, False)


def test_what_is_not_there_or_empty_is_told(tmp_path, bucket_uri):
    (tmp_path / "empty").mkdir()
    page = storage.join(bucket_uri, "validation/report.html")
    storage.write_bytes(page, b"x")
    storage.delete_folder(storage.join(bucket_uri, "validation"))
    for uri in (tmp_path / "nothing", tmp_path / "empty", storage.join(bucket_uri, "validation"), page):
        with pytest.raises(UserError, match="There is nothing at"):
            find_page(str(uri))


def test_a_port_that_is_taken_is_told(tmp_path):
    with served(tmp_path) as server, pytest.raises(UserError, match=f"Port {server.server_port} cannot be used"):
        start_server(str(tmp_path), server.server_port)


def test_the_page_of_a_run_that_was_killed_says_so_once_its_lock_is_silent(tmp_path, monkeypatch):
    (tmp_path / "run.html").write_text(f"<h1>run</h1>{PLACE}<p>Training")
    (tmp_path / "lock.json").write_text("{}")
    with served(tmp_path) as server:
        assert "No sign of life" not in get(f"{server.base_url}/run.html")[2]
        monkeypatch.setattr(server.watch(str(tmp_path)), "_since_s", time.monotonic() - 60)
        assert "<h1>run</h1><div" in (page := get(f"{server.base_url}/run.html")[2])
        assert "No sign of life</strong> since 20" in page
        (tmp_path / "lock.json").write_text('{"beat": 1}')
        assert "No sign of life" not in get(f"{server.base_url}/run.html")[2]
