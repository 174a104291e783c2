"""The three ways to ask, and clients that each send their next image when they have the mask of the last one."""

import asyncio
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import numpy as np
import torch
from PIL import Image

from benchmarks.serve.endpoint import PROMPT, max_batch, model_args, num_threads, serve_args
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query
from sa2va_ray.serve.model.compile_cache import compile_cache

WARM_UP_SHARE = 0.2  # of a turn's seconds, before them


@dataclass(frozen=True)
class Turn:
    """What one way did in one turn.

    Attributes:
        latencies_s: of the images that were answered.
        seconds: in which they were.
        mean_batch: images of a forward pass.
        parts_ms: of each image, by the name of the part: the stages that the endpoint tells of, and what its caller
            waited beyond them.
    """

    latencies_s: list[float]
    seconds: float
    refused: int = 0
    mean_batch: float = 1.0
    parts_ms: dict[str, list[float]] = field(default_factory=dict)


def direct(config: dict[str, Any], images: list[bytes]) -> Callable[[int, float], Turn]:
    """Loads the predictor, compiled as a replica's is; returns the function that takes its turns."""
    torch.set_num_threads(num_threads(config))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = compile_cache(serve_args(config).cache_dir)  # the replica's
    predictor = load_predictor(model_args(config)["uri"])
    predictor.compile()
    decoded = [Image.open(io.BytesIO(file)).convert("RGB") for file in images]
    largest = max_batch(config)

    def take_turn(clients: int, seconds: float) -> Turn:
        batch = min(clients, largest)
        # Copies: of an image that several queries share, the encoding is shared, too.
        queries = [Query(decoded[index % len(decoded)].copy(), PROMPT) for index in range(batch)]
        _for_seconds(WARM_UP_SHARE * seconds, partial(predictor.predict, queries))
        latencies_s, wall_s = _for_seconds(seconds, partial(predictor.predict, queries))
        return Turn(np.repeat(latencies_s, batch).tolist(), wall_s, mean_batch=batch)

    return take_turn


def over_http(url: str, images: list[bytes], clients: int, seconds: float) -> Turn:
    """A turn of any server with the route `/v1/segment`."""
    return asyncio.run(send_load(url, images, clients, seconds))


async def send_load(url: str, images: list[bytes], clients: int, seconds: float) -> Turn:
    """The requests that end within the seconds after the warm-up."""
    begin_s = time.perf_counter() + WARM_UP_SHARE * seconds
    answered: list[tuple[float, bytes]] = []
    refused = 0

    async def client(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal refused
        while (start_s := time.perf_counter()) < begin_s + seconds:
            form = aiohttp.FormData({"prompt": PROMPT})
            form.add_field("file", images[number % len(images)], filename="image", content_type="image/jpeg")
            async with http.post(f"{url}/v1/segment", data=form) as reply:
                body = await reply.read()
            if begin_s <= (end_s := time.perf_counter()) < begin_s + seconds:
                refused += not reply.ok
                answered.extend([(end_s - start_s, body)] if reply.ok else [])
            number += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as http:
        await asyncio.gather(*(client(http, number) for number in range(clients)))
    stages = [json.loads(body).get("timing_ms", {}) for _, body in answered]
    # A replica tells all images of a batch the same time, to the last digit.
    num_batches = len({each["predict"] for each in stages if each}) or len(answered) or 1
    latencies_s = [latency_s for latency_s, _ in answered]
    return Turn(latencies_s, seconds, refused, len(answered) / num_batches, _parts(latencies_s, stages))


def _parts(latencies_s: list[float], stages: list[dict[str, float]]) -> dict[str, list[float]]:
    parts: dict[str, list[float]] = {}
    for latency_s, each in zip(latencies_s, stages, strict=True):
        for name, milliseconds in (each | {"outside": 1000 * latency_s - sum(each.values())} if each else {}).items():
            parts.setdefault(name, []).append(milliseconds)
    return parts


def _for_seconds(seconds: float, call: Callable[[], Any]) -> tuple[list[float], float]:
    """(duration of each call, of all of them), in s; one call at least."""
    begin_s = time.perf_counter()
    durations_s: list[float] = []
    while not durations_s or time.perf_counter() - begin_s < seconds:
        start_s = time.perf_counter()
        call()
        durations_s.append(time.perf_counter() - start_s)
    return durations_s, time.perf_counter() - begin_s
