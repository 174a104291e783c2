"""A client of the endpoint, as small as the demo needs it: the standard library alone."""

import json
import time
import urllib.error
import urllib.request
from base64 import b64encode

from sa2va_ray.config import UserError

_READY_TIMEOUT_S = 120
_POLL_S = 0.5


def wait_ready(endpoint: str) -> None:
    """Waits until `/readyz` answers 200.

    Raises:
        UserError: it does not within two minutes.
    """
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{endpoint}/readyz", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(_POLL_S)
    raise UserError(
        f"{endpoint}/readyz has not answered for {_READY_TIMEOUT_S} s. Why, says `serve status`, in a shell that is "
        'connected: eval "$(sa2va-ray env)".'
    )


def post_image(endpoint: str, image: bytes) -> bytes:
    """Posts an encoded image to `/v1/segment` and returns the mask as PNG."""
    request = urllib.request.Request(
        f"{endpoint}/v1/segment",
        data=json.dumps({"image": b64encode(image).decode()}).encode(),
        headers={"Content-Type": "application/json", "Accept": "image/png"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.read()
