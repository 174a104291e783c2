"""What strangers send, to every route of the real endpoint: a 4xx, and nothing of it in a log."""

import base64
import json
import socket
from pathlib import Path

import httpx
import pytest

MARK = "Mustermann"  # as a patient's name that somebody sends in any field
OPEN_ROUTES = ["/", "/page.js", "/livez", "/readyz", "/v2", "/v2/health/live", "/v2/health/ready", "/openapi.json"]
READ_ROUTES = [*OPEN_ROUTES, "/v1/models", "/v1/models/tiny", "/v2/models/tiny", "/v2/models/tiny/ready"]
READ_ROUTES += ["/label_studio/health"]
POST_ROUTES = ["/v1/segment", "/v1/segment/batch", "/label_studio/setup", "/label_studio/predict"]
POST_ROUTES += ["/label_studio/webhook"]
HTTP = httpx.Client(timeout=60)
CONFIG = (
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="tag" toName="image"><Label value="{}"/></BrushLabels></View>'
)
VALUES = {
    "half of a surrogate pair": f'"{MARK}\\ud800"',
    "a key that is half of one": f'{{"\\udfff": "{MARK}"}}',
    "deep": "[" * 50_000,
    "NaN": "NaN",
    "infinite": "1e400",
    "5000 digits": "9" * 5000,
    "twice": f'{{"{MARK}": 1, "{MARK}": 1}}',
}


def refused(reply: httpx.Response) -> dict:
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:500])
    assert reply.headers["content-type"] == "application/problem+json"
    return reply.json()


def post_json(url: str, text: str) -> httpx.Response:
    return HTTP.post(url, content=text, headers={"content-type": "application/json"})


@pytest.fixture(scope="module")
def base64_png(png) -> str:
    return base64.b64encode(png).decode()


@pytest.fixture(scope="module", autouse=True)
def nothing_is_logged(stack, endpoint):
    yield
    logs = [path for path in Path(stack.runtime_dir, "ray/session_latest/logs").rglob("*") if path.is_file()]
    assert any("serve" in path.parts for path in logs)
    assert [path.name for path in logs if MARK.encode() in path.read_bytes()] == []


def test_every_route_is_sent_something(endpoint):
    paths = HTTP.get(f"{endpoint}/openapi.json").json()["paths"]
    by_method = {
        method: {path.replace("{name}", "tiny") for path, methods in paths.items() if method in methods}
        for method in ("get", "post")
    }
    assert by_method["get"] <= set(READ_ROUTES)
    assert by_method["post"] == set(POST_ROUTES)


@pytest.mark.parametrize("path", READ_ROUTES + POST_ROUTES)
def test_rebound_names_foreign_pages_and_proxies_are_refused_everywhere(endpoint, path):
    method = "POST" if path in POST_ROUTES else "GET"
    for headers in (
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"via": "1.1 proxy"},
        {"x-forwarded-host": "localhost"},
        {"forwarded": "for=127.0.0.1"},
        {"sec-fetch-site": "cross-site"},
    ):
        reply = HTTP.request(method, endpoint + path, headers=headers)
        assert reply.status_code == 403, (headers, reply.text[:200])
        assert refused(reply)["title"] == "Not allowed"
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    reply = HTTP.options(endpoint + path, headers=preflight)
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


def test_no_websocket(endpoint):
    host, port = endpoint.removeprefix("http://").split(":")
    head = "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    for name in ("localhost", "evil.example"):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"{head.format(name)}Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize("path", READ_ROUTES)
def test_head_is_get_without_its_body_and_a_slash_more_is_another_route(endpoint, path):
    head, get = HTTP.head(endpoint + path), HTTP.get(endpoint + path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"] == str(len(get.content))
    if path != "/":
        reply = HTTP.get(f"{endpoint}{path}/", headers={"host": "localhost"})
        assert reply.status_code == 404
        assert "location" not in reply.headers


@pytest.mark.parametrize("path", POST_ROUTES)
def test_routes_for_bodies_have_no_head_and_no_other_slash(endpoint, path):
    assert HTTP.head(endpoint + path).status_code == 405
    reply = HTTP.post(f"{endpoint}{path}/", content=b"{}")
    assert reply.status_code == 404
    assert "location" not in reply.headers


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_that_are_no_json_or_no_text_in_every_field(endpoint, base64_png, value):
    config, data = json.dumps(CONFIG.format("a")), f'{{"image": "data:image/png;base64,{base64_png}"}}'
    for field in ("prompt", "model", "threshold", "cleanup", "output", "more"):
        refused(post_json(f"{endpoint}/v1/segment", f'{{"image": "{base64_png}", "{field}": {value}}}'))
        refused(post_json(f"{endpoint}/v1/segment/batch", f'{{"images": ["{base64_png}"], "{field}": {value}}}'))
    for field in ("image", "uri"):
        refused(post_json(f"{endpoint}/v1/segment", f'{{"{field}": {value}}}'))
    refused(post_json(f"{endpoint}/v1/segment/batch", f'{{"images": [{value}]}}'))
    refused(post_json(f"{endpoint}/label_studio/setup", f'{{"project": {value}}}'))
    refused(post_json(f"{endpoint}/label_studio/webhook", f'{{"action": {value}}}'))
    told = f'{{"action": "ANNOTATION_CREATED", "annotation": {{"id": {value}}}}}'
    refused(post_json(f"{endpoint}/label_studio/webhook", told))
    for task, labels in (
        (f'{{"id": 1, "data": {data}}}', value),
        (f'{{"id": {value}, "data": {data}}}', config),
        (f'{{"id": 1, "data": {{"image": {value}}}}}', config),
        (value, config),
    ):
        body = f'{{"tasks": [{task}], "label_config": {labels}}}'
        refused(post_json(f"{endpoint}/label_studio/predict", body))


@pytest.mark.parametrize("path", POST_ROUTES)
@pytest.mark.parametrize("body", [b"", b"\xff", b'{"a": 1, "a": 1}', '{"a": "\\ud800"}'.encode("utf-16"), b"{}x"])
def test_bodies_that_are_no_json(endpoint, path, body):
    reply = HTTP.post(endpoint + path, content=body, headers={"content-type": "application/json"})
    assert refused(reply)["title"] == "Not JSON"


@pytest.mark.parametrize("field", ["threshold", "cleanup", "output", "model", "more"])
@pytest.mark.parametrize("value", [*VALUES.values(), b"\xff", "a\0b", MARK], ids=[*VALUES, "no UTF-8", "NUL", "a name"])
def test_values_of_a_form(endpoint, png, field, value):
    refused(HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={field: value}))


def test_text_that_is_no_utf8_is_refused_and_not_guessed(endpoint, png):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": b"gr\xfcn"})
    assert "not UTF-8" in refused(reply)["detail"]
    body = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": "grün \0 😀"}).json()
    assert body["answers"][0]["prompt"] == "grün \0 😀"


@pytest.mark.parametrize("field", ["threshold", "cleanup", "output", "model"])
def test_a_field_that_is_given_twice_is_refused(endpoint, png, field):
    value = {"threshold": "0.5", "cleanup": "{}", "output": "rle", "model": "tiny"}[field]
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={field: [value, value]})
    assert refused(reply)["detail"] == f"{field}: Given 2 times."


def test_options_in_the_address_are_not_passed_over(endpoint, png):
    for path in ("/v1/segment", "/v1/segment/batch"):
        reply = HTTP.post(f"{endpoint}{path}", params={"threshold": 0.9}, files={"file": png})
        assert refused(reply)["title"] == "Wrong field"


def test_a_part_without_a_file_name_is_an_image_of_any_size(endpoint, png):
    named = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).json()
    unnamed = HTTP.post(f"{endpoint}/v1/segment", files={"file": (None, png)}).json()
    assert unnamed["answers"] == named["answers"]
    large = HTTP.post(f"{endpoint}/v1/segment", files={"file": (None, b"BM" + bytes(990_000))})
    assert refused(large)["title"] != "Not a form"
    parts = [("file", (None, png)), ("file", png)]
    assert refused(HTTP.post(f"{endpoint}/v1/segment", files=parts))["title"] == "Several images"
    assert len(HTTP.post(f"{endpoint}/v1/segment/batch", files=parts).text.splitlines()) == 2


@pytest.mark.parametrize(
    "uri",
    [
        "s3://\ud800/x",
        "s3://tests/\udfff",
        "https://\ud800/x",
        "data:\ud800,x",
        "data:;base64,\ud800",
        "s3://tests/a\0",
    ],
)
def test_uris_that_are_no_text(endpoint, uri):
    refused(post_json(f"{endpoint}/v1/segment", json.dumps({"uri": uri})))
    body = {"tasks": [{"id": 1, "data": {"image": uri}}], "label_config": CONFIG.format("a")}
    refused(post_json(f"{endpoint}/label_studio/predict", json.dumps(body)))


@pytest.mark.parametrize("labels", [MARK * 300, MARK + "\0", f"{MARK}<", '"/>' + f'<Label value="{MARK}"/>' * 20])
def test_labels_that_cannot_be_asked_for(endpoint, base64_png, labels):
    task = {"id": 1, "data": {"image": f"data:image/png;base64,{base64_png}"}}
    body = json.dumps({"tasks": [task], "label_config": CONFIG.format(labels)})
    refused(post_json(f"{endpoint}/label_studio/predict", body))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": b"Basic \xfc\xff"},
        {"authorization": b"Bearer \xff"},
        {"authorization": "Basic " + base64.b64encode(b"a:\xff").decode()},
        {"x-api-key": b"\xff"},
        {"accept": b"\xff"},
        {"cookie": b"\xff"},
    ],
)
def test_headers_of_any_bytes_do_no_harm(endpoint, headers):
    assert HTTP.get(f"{endpoint}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("name", ["%ff", "%00", "%ED%A0%80", "..%2f..", "a" * 8000, MARK])
def test_names_of_models_that_are_none(endpoint, name):
    assert refused(HTTP.get(f"{endpoint}/v1/models/{name}"))["status"] == 404
    assert refused(HTTP.get(f"{endpoint}/v2/models/{name}/ready"))["status"] == 404
