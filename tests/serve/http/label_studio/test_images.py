"""Images of tasks, from a server as Label Studio is (tests/label_studio/fake.py) and from elsewhere."""

import asyncio

import pytest

from sa2va_ray.label_studio.address import LabelStudioConfig
from sa2va_ray.label_studio.server import LabelStudio
from sa2va_ray.serve.guard.fetch import UriPolicy
from sa2va_ray.serve.http.label_studio.images import fetch_image
from sa2va_ray.serve.http.label_studio.requests import TaskImage
from sa2va_ray.serve.problems import Problem
from tests.label_studio.fake import LEGACY, running

UPLOAD = "/data/upload/3/1a2b3c4d-smith_john.png"


def get(studio, uri, max_bytes=100):
    server = LabelStudio(LabelStudioConfig(url=studio.url)) if studio else None
    return asyncio.run(fetch_image(TaskImage(5, uri), server, UriPolicy(), max_bytes))


def refused(*arguments):
    with pytest.raises(Problem) as caught:
        get(*arguments)
    told = f"{caught.value.detail} {caught.value.cure}"
    assert "smith" not in told
    assert LEGACY not in told
    assert "127.0.0.1" not in told
    return caught.value.status, told


def test_uploads_come_from_the_server(studio):
    studio.files[UPLOAD] = b"image"
    assert get(studio, UPLOAD) == b"image"
    assert get(studio, f"{studio.url}{UPLOAD}") == b"image"


def test_files_of_its_clouds_are_asked_for_by_the_task(studio):
    address = LabelStudioConfig(url=studio.url).image_address("s3://bucket/smith_john.png", 5)
    studio.files[address.raw_path_qs] = b"image"
    assert get(studio, "s3://bucket/smith_john.png") == b"image"


def test_a_path_without_a_server_in_the_config_is_an_error():
    status, told = refused(None, UPLOAD)
    assert status == 422
    assert "names no Label Studio" in told
    assert "label_studio: {url, token_env}" in told


def test_nothing_but_images_is_asked_of_the_server(studio):
    assert refused(studio, "/api/current-user/token")[0] == 422
    assert refused(studio, f"{studio.url}/api/current-user/token")[0] == 403
    assert refused(studio, "https://elsewhere/a.png")[0] == 403
    assert studio.asked == []


def test_where_it_sends_to_is_guarded_and_gets_no_token(studio):
    with running() as other:
        studio.files[UPLOAD] = f"{other.url}/a.png"
        status, told = refused(studio, UPLOAD)
        assert status == 403
        assert "Turn off pre-signed URLs" in told
        assert other.asked == []


def test_what_the_server_does_not_give_is_told(studio, monkeypatch):
    assert "has nothing at this address" in refused(studio, UPLOAD)[1]
    studio.files[UPLOAD] = b"i" * 101
    assert refused(studio, UPLOAD)[0] == 413
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", "wrong")
    assert "refuses the token (401)" in refused(studio, UPLOAD)[1]
