import asyncio

import pytest

from sa2va_ray.label_studio.address import LabelStudioConfig
from sa2va_ray.label_studio.server import LabelStudio, LabelStudioError
from tests.label_studio.fake import LEGACY, PERSONAL, running

UPLOAD = "/data/upload/3/a.png"


def get(studio, path=UPLOAD, max_bytes=100):
    server = LabelStudio(LabelStudioConfig(url=studio.url))
    return asyncio.run(server.get(server.config.address(path), max_bytes))


def refused(studio, *arguments):
    with pytest.raises(LabelStudioError) as caught:
        get(studio, *arguments)
    assert LEGACY not in str(caught.value)
    assert "a.png" not in str(caught.value)
    return caught.value.kind


def test_a_legacy_token(studio):
    studio.files[UPLOAD] = b"image"
    assert get(studio) == b"image"
    assert studio.tokens == [f"Token {LEGACY}"]


def test_a_personal_token_buys_an_access_token_for_several_requests(studio, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", PERSONAL)
    studio.files[UPLOAD] = b"image"

    async def twice():
        server = LabelStudio(LabelStudioConfig(url=studio.url))
        return [await server.get(server.config.address(UPLOAD), 100) for _ in range(2)]

    assert asyncio.run(twice()) == [b"image", b"image"]
    assert studio.asked == ["/api/token/refresh", UPLOAD, UPLOAD]
    assert studio.tokens == ["Bearer good"] * 2


@pytest.mark.parametrize("token", [LEGACY[:-1] + "0", PERSONAL + "0"])
def test_a_wrong_token(studio, monkeypatch, token):
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", token)
    assert refused(studio) == "refused"


def test_legacy_tokens_that_are_off_are_told_so(studio):
    studio.legacy_is_off = True
    with pytest.raises(LabelStudioError, match="Make a personal access token"):
        get(studio)


def test_what_is_not_there_or_too_large_or_no_server(studio):
    assert refused(studio) == "missing"
    studio.files[UPLOAD] = b"i" * 101
    assert refused(studio) == "too_large"
    with pytest.raises(LabelStudioError, match=r"does not answer.* Start it"):
        asyncio.run(LabelStudio(LabelStudioConfig(url="http://127.0.0.1:9")).get_json(_url("http://127.0.0.1:9"), 9))


def test_redirects_stay_on_the_server(studio):
    studio.files |= {UPLOAD: "/data/upload/3/b.png", "/data/upload/3/b.png": b"image", "/round": "/round"}
    assert get(studio) == b"image"
    assert refused(studio, "/round") == "failed"
    with running() as other:
        studio.files[UPLOAD] = f"{other.url}/a.png?signature=1"
        assert str(get(studio)) == f"{other.url}/a.png?signature=1"
        assert other.asked == []


def _url(url):
    return LabelStudioConfig(url=url).address("/api/projects/7")
