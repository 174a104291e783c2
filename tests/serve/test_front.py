"""The endpoint with API keys, behind the nginx that we ship a configuration for, and what is sent half-way."""

import io
import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from sa2va_ray.client import Client
from sa2va_ray.demo.stack import free_port
from sa2va_ray.serve.guard.access import new_key
from tests.serve.test_load import PATIENCE_S, Endpoint, ask, pictures, png_of, replicas

pytestmark = pytest.mark.soak

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve_configs/nginx.conf"
HEADER_TIMEOUT_S, BODY_TIMEOUT_S, MOST_OF_ONE_CALLER = 10, 10, 32  # of that file
KEY, STORED = new_key("clinic")
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
NUM_REQUESTS = 3000
SLEEP_S = 60


@pytest.fixture(scope="module")
def endpoint(stack, exported_uri, tmp_path_factory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("front")
    (folder / "keys.json").write_text(json.dumps([STORED.model_dump(mode="json")]))
    (folder / "audit").mkdir()
    endpoint = Endpoint(folder, exported_uri, api_keys_file=str(folder / "keys.json"), audit_dir=str(folder / "audit"))
    yield endpoint
    endpoint.shutdown()


@pytest.fixture(scope="module")
def front(endpoint, tmp_path_factory) -> Iterator[httpx.Client]:
    """nginx with our file, its ports and certificate replaced; `/sa2va/` is the same under a prefix."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    assert Path(program).exists(), "there is no nginx to put in front: apt-get install nginx-light"
    folder, port = tmp_path_factory.mktemp("nginx"), free_port(preferred=8443)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    text = CONFIG.read_text()
    prefix = text[text.index("    location / {") :].replace("location / {", "location /sa2va/ {")
    text = text.rstrip().removesuffix("}") + prefix.replace("http://sa2va;", "http://sa2va/;")
    for ours, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8000", f"127.0.0.1:{endpoint.port}"),
        ("/etc/ssl/sa2va/fullchain.pem", str(certificate)),
        ("/etc/ssl/sa2va/privkey.pem", str(key)),
    ):
        assert ours in text
        text = text.replace(ours, here)
    (folder / "sa2va.conf").write_text(text)
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; user root;\n"
        "events { worker_connections 2048; }\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; "
        f"include {folder}/sa2va.conf; }}\n"
    )
    server = subprocess.Popen([program, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=f"https://localhost:{port}", verify=context, timeout=60, headers=AUTHORIZED) as http:
            http.port, http.context = port, context
            wait_for_port(port)
            yield http
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for_port(port: int) -> None:
    deadline_s = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline_s, "nginx does not listen"
        time.sleep(0.1)


def image_of(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, width), 50).save(buffer, "PNG")
    return buffer.getvalue()


def test_through_the_front_it_is_the_same(front, endpoint):
    data = png_of(pictures()[0])
    with httpx.Client(base_url=endpoint.url, headers=AUTHORIZED, timeout=60) as direct:
        expected = direct.post("/v1/segment", files={"file": data}).json()["answers"]
        assert direct.get("/v1/models").json() == front.get("/v1/models").json()
    for prefix in ("", "/sa2va"):
        reply = front.post(f"{prefix}/v1/segment", files={"file": data})
        assert (reply.status_code, reply.json()["answers"]) == (200, expected)
        lines = front.post(f"{prefix}/v1/segment/batch", files=[("file", data), ("file", b"none")]).text.splitlines()
        assert sorted("problem" in json.loads(line) for line in lines) == [False, True]
        assert "page.js" in front.get(f"{prefix}/").text
        assert front.get(f"{prefix}/page.js").status_code == front.head(f"{prefix}/livez").status_code == 200
        assert front.get(f"{prefix}/v1/models/").status_code == 404
    with Client(str(front.base_url.join("/sa2va")), api_key=KEY) as client:
        client._client._http._transport = httpx.AsyncHTTPTransport(verify=front.context)
        assert list(client.segment(data).answers) == expected


def test_without_a_key_a_front_asks_for_nobody(front):
    reply = front.get("/v1/models", headers={"Authorization": ""})
    assert (reply.status_code, reply.headers["content-type"]) == (401, "application/problem+json")


def test_bodies_that_are_too_large(front):
    ours = front.post("/v1/segment", files={"file": bytes(33 * 10**6 + 10**6)})
    assert ours.json()["title"] == "Request too large"
    assert front.post("/v1/segment", files={"file": bytes(36 * 10**6)}).status_code == 413


def test_lines_of_a_batch_come_when_they_are_ready(front):
    """Not when nginx has a buffer full of them, or all."""
    files = [("file", image_of(100)) for _ in range(8)]
    with front.stream("POST", "/v1/segment/batch", files=files) as reply:
        came_s = [time.monotonic() for _ in reply.iter_lines()]
    assert len(came_s) == 8
    assert came_s[-1] - came_s[0] > 0.05, "one forward pass of the tiny model takes longer than this"


def test_what_serve_would_obey_is_dropped(front, endpoint):
    """A timeout of a millisecond, and bytes at which Serve's proxy fails."""
    data = {"file": png_of(pictures()[0])}
    with httpx.Client(base_url=endpoint.url, headers=AUTHORIZED, timeout=60) as direct:
        hurried = direct.post("/v1/segment", files=data, headers={"X-Request-Timeout-Seconds": "0.001"})
        broken = direct.get("/livez", headers={"X-Request-ID": b"\xff"})
    print("direct:", hurried.status_code, broken.status_code)
    assert front.post("/v1/segment", files=data, headers={"X-Request-Timeout-Seconds": "0.001"}).status_code == 200
    assert front.get("/livez", headers={"X-Request-ID": b"\xff"}).status_code == 200


def half_sent(
    port: int, what: str, number: int, opened: ExitStack, context: ssl.SSLContext | None
) -> list[socket.socket]:
    head = f"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
    if what == "body":
        head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    sockets = []
    for _ in range(number):
        connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        if context:
            connection = opened.enter_context(context.wrap_socket(connection, server_hostname="localhost"))
        connection.sendall(head.encode())
        sockets.append(connection)
    return sockets


@pytest.mark.parametrize("what", ["header", "body"])
def test_half_sent_requests_do_not_hold_up_the_endpoint_itself(endpoint, what):
    with ExitStack() as opened, httpx.Client(timeout=60, headers=AUTHORIZED) as http:
        half_sent(endpoint.port, what, 400, opened, None)
        waits_s = []
        for _ in range(5):
            start_s = time.monotonic()
            ask(http, endpoint.url, png_of(pictures()[0]), Counter())
            waits_s.append(time.monotonic() - start_s)
    print(f"400 half-sent {what}: the next five took {[f'{wait:.1f}' for wait in waits_s]} s")
    assert max(waits_s) < 10  # the tiny model on a busy machine; a body may take 30


@pytest.mark.parametrize("what", ["header", "body"])
def test_half_sent_requests_end_in_time_at_the_front(front, endpoint, what):
    """And another caller, of another address, is answered meanwhile."""
    other = httpx.HTTPTransport(verify=front.context, local_address="127.0.0.2")
    with ExitStack() as opened, httpx.Client(base_url=front.base_url, transport=other, headers=AUTHORIZED) as http:
        start_s = time.monotonic()
        connections = half_sent(front.port, what, 400, opened, front.context)
        assert http.post("/v1/segment", files={"file": png_of(pictures()[0])}, timeout=60).status_code == 200
        answers = Counter(connection.recv(12).decode() for connection in connections)
        took_s = time.monotonic() - start_s
    print(f"400 half-sent {what}: {dict(answers)} in {took_s:.1f} s")
    assert set(answers) <= {"", "HTTP/1.1 408", "HTTP/1.1 503"}
    if what == "body":
        assert answers["HTTP/1.1 503"] >= 400 - MOST_OF_ONE_CALLER
    assert took_s < 3 * max(HEADER_TIMEOUT_S, BODY_TIMEOUT_S)


def memory_mib(command: str) -> float:
    found = [
        process for process in psutil.process_iter(["cmdline"]) if command in " ".join(process.info["cmdline"] or [])
    ]
    return sum(process.memory_info().rss for process in found) / 2**20


def test_three_thousand_requests_leave_memory_where_it_was(endpoint):
    """After a third of them, caches and pools are full; what grows then grows without end."""
    images = [png_of(picture) for picture in pictures()]
    parts = {"ingress": "ServeReplica:sa2va:Ingress", "replica": "ServeReplica:sa2va:model-tiny", "proxy": "ProxyActor"}
    statuses: Counter = Counter()
    with httpx.Client(timeout=PATIENCE_S, headers=AUTHORIZED) as http:

        def send(number: int) -> dict[str, float]:
            for turn in range(number // 6):
                ask(http, endpoint.url, images[turn % len(images)], statuses)
                for _ in range(3):
                    http.post(f"{endpoint.url}/v1/segment", files={"file": b"none"})
                for path in ("/v1/models", "/nothing"):
                    http.get(endpoint.url + path)
            return {name: memory_mib(command) for name, command in parts.items()}

        before, after = send(NUM_REQUESTS // 3), send(2 * NUM_REQUESTS // 3)
    growth = {name: after[name] - before[name] for name in parts}
    print(f"MiB after a third {before}, grown by {growth} in the other two; replies {dict(statuses)}")
    assert all(before.values())
    assert max(growth.values()) < 50  # 333 predictions: a leak of 1 MB each would be 300


def test_a_replica_that_is_stopped_for_a_minute(endpoint):
    """SIGSTOP, as a machine that swaps or is suspended looks to others; then it goes on, or another has its place."""
    (replica, *_) = replicas()
    statuses: Counter = Counter()
    data = png_of(pictures()[0])
    with httpx.Client(timeout=3 * PATIENCE_S, headers=AUTHORIZED) as http, ThreadPoolExecutor(1) as pool:
        expected = ask(http, endpoint.url, data, statuses)["answers"]
        replica.send_signal(signal.SIGSTOP)
        start_s = time.monotonic()
        try:
            meanwhile = pool.submit(ask, http, endpoint.url, data, statuses)
            assert http.get(f"{endpoint.url}/livez").status_code == 200
            time.sleep(SLEEP_S)  # what the test is about
        finally:
            if replica.is_running():
                replica.send_signal(signal.SIGCONT)
        assert meanwhile.result()["answers"] == expected
        took_s = time.monotonic() - start_s
        assert ask(http, endpoint.url, data, statuses)["answers"] == expected
    print(f"answered {took_s:.0f} s after the stop, {dict(statuses)}; same process: {replica.is_running()}")
