"""Client of an endpoint that sa2va_ray serves: `Client`, and `AsyncClient` with the same methods to be awaited.

    with Client("http://127.0.0.1:8000") as client:
        mask = client.segment(Path("image.png"), "Please segment blood vessels in this image.").mask()

Of the project it imports nothing, and of others httpx alone; masks are decoded by pycocotools.
"""

from sa2va_ray.client.asynchronous import AsyncClient
from sa2va_ray.client.errors import EndpointError, NoReplyError, ProblemError
from sa2va_ray.client.folders import FolderCounts
from sa2va_ray.client.options import AskOptions, Options, Prompt
from sa2va_ray.client.results import Result
from sa2va_ray.client.synchronous import Client

__all__ = [
    "AskOptions",
    "AsyncClient",
    "Client",
    "EndpointError",
    "FolderCounts",
    "NoReplyError",
    "Options",
    "ProblemError",
    "Prompt",
    "Result",
]
