"""The image of a task, from wherever the operator allows: Label Studio itself, or what `uris` allows."""

import asyncio

from sa2va_ray.label_studio.address import is_path
from sa2va_ray.label_studio.server import LabelStudio, LabelStudioError
from sa2va_ray.serve.guard.fetch import UriPolicy, fetch
from sa2va_ray.serve.http.label_studio.requests import TaskImage
from sa2va_ray.serve.problems import Problem

_SENT_ELSEWHERE = (
    "Label Studio sends to another address for the image, as with URLs that it signs, and that one is not below an "
    "allowed prefix."
)
_CURE_OF_SIGNED = (
    "Turn off pre-signed URLs in the settings of the project's cloud storage, so that Label Studio hands the file on "
    "itself, or ask whoever runs the endpoint to add the place to uris.allowed_uri_prefixes."
)


async def fetch_image(image: TaskImage, server: LabelStudio | None, policy: UriPolicy, max_bytes: int) -> bytes:
    """The bytes of a task's image. What Label Studio holds comes from it, with its token; where it sends elsewhere, as
    with links that it signs, and for all else, the rules of `guard/fetch.py` hold, and the token stays here.

    Raises:
        Problem: as of `fetch`; or Label Studio is not configured, is away, or does not give the image.
    """
    uri = image.uri
    address = server and not policy.allows(uri) and server.config.image_address(uri, image.task)
    if server and address:
        try:
            async with asyncio.timeout(policy.timeout_s):
                found = await server.get(address, max_bytes)
        except TimeoutError:
            raise _problem("It did not come within the time of a fetch.", "Try again.") from None
        except LabelStudioError as error:
            raise _problem(error.reason, error.cure, 413 if error.kind == "too_large" else 422) from None
        if isinstance(found, bytes):
            return found
        uri = str(found)
        if not policy.allows(uri):
            raise Problem(403, "URI not allowed", _SENT_ELSEWHERE, _CURE_OF_SIGNED)
    elif is_path(uri):
        held = "is not one of its images" if server else "this endpoint's config names no Label Studio"
        cure = "Ask whoever runs the endpoint to set label_studio: {url, token_env} in its args."
        raise _problem(f"The image is a path of Label Studio itself, and {held}.", cure)
    return await fetch(uri, policy, max_bytes)


def _problem(detail: str, cure: str, status: int = 422) -> Problem:
    return Problem(status, "Image too large" if status == 413 else "Image not fetched", detail, cure)
