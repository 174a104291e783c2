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
    "downscale_delay_s": 2,  # of replicas that were measured before
    "metrics_interval_s": 1,
    "look_back_period_s": 3,
}
SCALING_LIMIT_S = 300
_POLL_S = 0.2


def time_to_second_replica(folder: Path, config: dict[str, Any], url: str, images: list[bytes]) -> float:
    """Seconds from the beginning of a load of four full batches; upscale_delay_s is part of them.

    Raises:
        RuntimeError: there is no single replica to begin with, or no second one came.
        aiohttp.ClientError: the load ended early.
    """
    model = model_args(config)
    batch = max_batch(config)
    model["autoscaling"] = {**SCALING, "target_ongoing_requests": batch}
    model["gpus_per_replica"] /= 2  # both on one GPU
    config["applications"][0].pop("deployments", None)
    deploy(folder, config)
    _wait_for_one()
    return asyncio.run(_load_until_two(url, images, clients=4 * batch))


def _wait_for_one() -> None:
    """More may run from what was measured before."""
    end_s = time.perf_counter() + SCALING_LIMIT_S
    while (number := num_running()) != 1:
        if time.perf_counter() > end_s:
            raise RuntimeError(f"{number} replicas run after {SCALING_LIMIT_S} s without load, where 1 should")
        time.sleep(_POLL_S)


async def _load_until_two(url: str, images: list[bytes], clients: int) -> float:
    start_s = time.perf_counter()
    load = asyncio.create_task(send_load(url, images, clients, SCALING_LIMIT_S))
    try:
        while await asyncio.to_thread(num_running) < 2:
            if load.done():
                refused = load.result().refused  # or what ended it
                raise RuntimeError(f"no second replica came under load; {refused} requests were refused")
            await asyncio.sleep(_POLL_S)
        return time.perf_counter() - start_s
    finally:
        load.cancel()
