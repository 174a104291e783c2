"""The real Label Studio, in an environment of its own: its pins fit no other. Made once, and kept for later runs."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from sa2va_ray.demo.stack import SCRIPTS_DIR, free_port

PACKAGES = ("label-studio==1.23.2", "label-studio-sdk==2.1.2")
_START_S = 400


def make_environment() -> Path:
    """Its interpreter."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sa2va_ray" / "-".join(PACKAGES)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, done = folder / "bin/python", folder / "done"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            uv = SCRIPTS_DIR / "uv"
            subprocess.run([uv, "venv", "--clear", "--python", sys.executable, folder], check=True, timeout=60)
            install = [str(uv), "pip", "install", "--system-certs", "--compile-bytecode", "--python", str(python)]
            subprocess.run([*install, *PACKAGES], check=True, timeout=500)
            done.touch()
    return python


@contextmanager
def real_label_studio(folder: Path, token: str) -> Iterator[str]:
    """Its address, on this machine. Its SQLite file is in `folder`; `token`, a legacy one, is a user's. It may serve
    files of the folders beside `folder`."""
    port = free_port(preferred=8080)
    url = f"http://127.0.0.1:{port}"
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        # Else it takes no back end at a private address, nor the webhook that comes with one.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder.parent),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    options = ["--internal-host", "127.0.0.1", "--port", str(port), "--user-token", token, "--enable-legacy-api-token"]
    user = ["--username", "robot@example.org", "--password", "robots-draw-well", "--log-level", "WARNING"]
    command = [str(make_environment().with_name("label-studio")), "start", "--no-browser", *options, *user]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | settings, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(f"{url}/health", server)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def personal_token(url: str, token: str) -> str:
    """A personal access token of the user who has the legacy `token`."""
    reply = httpx.post(f"{url}/api/token/", headers={"Authorization": f"Token {token}"}, json={}, follow_redirects=True)
    return reply.raise_for_status().json()["token"]


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise AssertionError(f"Label Studio has not started in {_START_S} s (exit status {server.poll()})")
