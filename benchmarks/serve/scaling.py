"""How long it takes until a second replica runs."""

import asyncio
import time
from pathlib import Path
from typing import Any

from benchmarks.serve.endpoint import deploy, max_batch, model_args, num_running
from benchmarks.serve.load import send_load

SCALING = {  # Serve's own defaults wait half a minute before a second replica
    "min_replicas": 1,
    "max_replicas": 2,
    "upscale_delay_s": 2,
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
}
SCALING_LIMIT_S = 300


def time_to_second_replica(folder: Path, config: dict[str, Any], url: str, images: list[bytes]) -> float:
    """Seconds from the beginning of a load of four full batches; upscale_delay_s is part of them."""
    model = model_args(config)
    batch = max_batch(config)
    model["autoscaling"] = {**SCALING, "target_ongoing_requests": batch}
    model["gpus_per_replica"] /= 2  # both on one GPU
    config["applications"][0].pop("deployments", None)
    deploy(folder, config)
    return asyncio.run(_load_until_two(url, images, clients=4 * batch))


async def _load_until_two(url: str, images: list[bytes], clients: int) -> float:
    start_s = time.perf_counter()
    load = asyncio.create_task(send_load(url, images, clients, SCALING_LIMIT_S))
    while not load.done() and await asyncio.to_thread(num_running) < 2:
        await asyncio.sleep(0.2)
    seconds = time.perf_counter() - start_s
    load.cancel()
    return seconds
