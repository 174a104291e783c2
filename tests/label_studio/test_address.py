import base64

import pytest
from yarl import URL

from sa2va_ray.config import UserError
from sa2va_ray.label_studio.address import LabelStudioConfig, project_number

CONFIG = LabelStudioConfig(url="http://host:8080/")
BELOW = LabelStudioConfig(url="https://host/labels")
UPLOAD = "/data/upload/3/1a2b3c4d-a%20b.png"


@pytest.mark.parametrize(
    ("config", "image", "address"),
    [
        (CONFIG, UPLOAD, f"http://host:8080{UPLOAD}"),
        (CONFIG, f"http://host:8080{UPLOAD}", f"http://host:8080{UPLOAD}"),
        (BELOW, UPLOAD, f"https://host/labels{UPLOAD}"),
        (BELOW, f"/labels{UPLOAD}", f"https://host/labels{UPLOAD}"),
        (CONFIG, "/data/local-files/?d=disk/a.png", "http://host:8080/data/local-files/?d=disk/a.png"),
        (CONFIG, "/tasks/5/presign/?fileuri=abc", "http://host:8080/tasks/5/presign/?fileuri=abc"),
    ],
)
def test_images_that_the_server_holds(config, image, address):
    assert str(config.image_address(image, 5)) == address


def test_a_file_of_a_cloud_storage_is_asked_for_by_its_task():
    url = CONFIG.image_address("s3://bucket/ä.png", 5)
    assert url.path == "/tasks/5/resolve/"
    assert base64.urlsafe_b64decode(url.query["fileuri"]).decode() == "s3://bucket/ä.png"


@pytest.mark.parametrize(
    "image",
    [
        "//elsewhere/data/upload/3/a.png",
        "http://elsewhere/data/upload/3/a.png",
        "http://host/data/upload/3/a.png",
        "https://host:8080/data/upload/3/a.png",
        "http://user@host:8080/data/upload/3/a.png",
        "http://host:8080@elsewhere/data/upload/3/a.png",
        "/api/projects/1/export",
        "/user/logout",
        "/data/upload/../../api/users",
        "/data/upload/%2e%2e/%2e%2e/api/users",
        "file:///etc/passwd",
        "http://[",
        "",
    ],
)
def test_nothing_else_is_asked_of_it(image):
    assert CONFIG.image_address(image, 5) is None


def test_another_application_of_its_host_is_not_the_server():
    assert BELOW.holds(URL("https://host/labels/a"))
    for url in ("https://host/other", "https://host/labelsx/a", "https://host/labels/../other", "http://host/labels/a"):
        assert not BELOW.holds(URL(url, encoded=True))


@pytest.mark.parametrize(
    "url", ["", "host:8080", "ftp://host", "http://user:word@host", "http://host/?a=b", "http://["]
)
def test_an_address_is_plain(url):
    with pytest.raises(UserError, match="no http:// or https:// address"):
        LabelStudioConfig.parse({"url": url})


def test_a_token_is_in_the_environment_and_in_no_message(monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_TOKEN", raising=False)
    with pytest.raises(UserError, match="no Label Studio token in LABEL_STUDIO_TOKEN"):
        CONFIG.read_token()
    with pytest.raises(UserError, match="is the name of an environment variable") as refused:
        LabelStudioConfig.parse({"url": "http://host", "token_env": "0123abcd"}).read_token()
    assert "0123abcd" not in str(refused.value)


def test_a_project_is_a_number():
    assert project_number("label_studio://12") == 12
    assert [project_number(each) for each in ("label_studio://", "label_studio://a", "/data", "label_studio://0")] == [
        None
    ] * 4
