"""What one caller may ask for: numbers have bounds, and what takes long or hangs holds up nobody else."""

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import cv2
import httpx
import numpy as np
import pytest

from sa2va_ray.config import LARGEST_IMAGE_PX
from sa2va_ray.data.conversation import evaluation_prompt
from sa2va_ray.predict.cleanup import CleanupConfig, clean_mask
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.serve.config import LimitsConfig, ModelArgs
from sa2va_ray.serve.guard.thread_pool import BoundedThreadPool
from sa2va_ray.serve.http.image_workers import ImageWorkers
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.weighted_semaphore import WeightedSemaphore
from tests.serve.processes import replicas_of

HTTP = httpx.Client(timeout=60)
BUSY = Problem(503, "Too busy", "All are busy.", "Wait.", 1)


@pytest.mark.parametrize(
    "cleanup",
    [
        {"close_px": 31},  # of an image of 60 x 80 px
        {"open_px": 31},
        {"close_px": 3000},
        {"close_px": 1e23},
        {"min_component_px": 1e23},
        {"max_hole_px": 10**30},
        {"max_hole_px": LARGEST_IMAGE_PX + 1},
        {"open_px": -1},
        {"close_px": float("inf")},
    ],
    ids=str,
)
def test_clean_up_beyond_the_image_is_refused_by_name(endpoint, png, cleanup):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"cleanup": json.dumps(cleanup)})
    assert (reply.status_code, reply.json()["title"]) == (422, "Wrong field")
    assert "cleanup" in reply.json()["detail"]


@pytest.mark.parametrize(
    "cleanup", [{"close_px": 30, "open_px": 30}, {"min_component_px": LARGEST_IMAGE_PX, "max_hole_px": 1}]
)
def test_clean_up_up_to_its_bounds_is_done(endpoint, png, cleanup):
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"cleanup": json.dumps(cleanup)})
    assert reply.status_code == 200, reply.text


def test_the_largest_radius_takes_two_seconds_at_most_on_four_megapixels():
    mask = np.random.default_rng(0).random((2000, 2000)) > 0.999
    started_s = time.process_time()
    clean_mask(mask, CleanupConfig(close_px=256, open_px=256))
    assert time.process_time() - started_s < 10  # 0.5 s on a free core


def test_prompts_are_bounded_by_their_tokens(endpoint, png):
    prompts = ["\N{ANATOMICAL HEART}" * 2000] * 8
    started_s = time.monotonic()
    reply = HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": prompts})
    assert (reply.status_code, reply.json()["title"]) == (422, "Wrong field")
    assert "tokens, the limit is 512" in reply.json()["detail"]
    assert time.monotonic() - started_s < 10
    assert HTTP.post(f"{endpoint}/v1/segment", files={"file": png}, data={"prompt": "vessel " * 250}).status_code == 200


def test_label_studio_brings_only_so_many_tasks(endpoint):
    tasks = [{"id": number, "data": {"image": "data:,"}} for number in range(10_000)]
    reply = HTTP.post(f"{endpoint}/label_studio/predict", json={"tasks": tasks, "label_config": "<View/>"})
    assert (reply.status_code, reply.json()["title"]) == (413, "Too many tasks")


def test_a_silent_store_holds_up_only_those_who_ask_for_it(endpoint, stack, png):
    store = stack.processes[0].find()

    def fetched(number: int) -> int:
        return HTTP.post(f"{endpoint}/v1/segment", json={"uri": f"s3://tests/silent/{number}.png"}).status_code

    with ThreadPoolExecutor(40) as pool:
        store.send_signal(signal.SIGSTOP)
        try:
            asked = [pool.submit(fetched, number) for number in range(40)]
            started_s = time.monotonic()
            assert HTTP.post(f"{endpoint}/v1/segment", files={"file": png}).status_code == 200
            assert time.monotonic() - started_s < 10  # the store's own time limits are 32 s
            statuses = Counter(each.result() for each in asked)
        finally:
            store.send_signal(signal.SIGCONT)
    assert statuses == {422: 32, 503: 8}


def test_an_endpoint_is_ready_while_its_replica_is_busy(endpoint, png):
    (replica,) = replicas_of("model-again")
    with ThreadPoolExecutor(3) as pool:
        replica.send_signal(signal.SIGSTOP)  # it predicts, for as long as we like
        try:
            asked = [
                pool.submit(HTTP.post, f"{endpoint}/v1/segment", files={"file": png}, data={"model": "again"})
                for _ in range(3)
            ]
            ready = HTTP.get(f"{endpoint}/readyz", timeout=10)
        finally:
            replica.send_signal(signal.SIGCONT)
    assert ready.status_code == 200, ready.text
    assert [each.result().status_code for each in asked] == [200] * 3


def test_threads_that_hang_are_counted_until_they_end():
    async def hang_and_leave() -> None:
        threads, go_on = BoundedThreadPool(2, BUSY), threading.Event()
        calls = [asyncio.create_task(threads.run(go_on.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        calls[0].cancel()  # its caller leaves, the thread hangs on
        with pytest.raises(asyncio.CancelledError):
            await calls[0]
        with pytest.raises(Problem):
            await threads.run(lambda: None)
        go_on.set()
        await calls[1]
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await threads.run(lambda: 3) == 3
                    return
                except Problem:
                    await asyncio.sleep(0)

    asyncio.run(hang_and_leave())


def test_amounts_are_given_in_order_and_given_back():
    async def share() -> None:
        semaphore, order = WeightedSemaphore(10), []

        async def work(name: str, amount: int) -> None:
            async with semaphore.hold(amount):
                order.append(name)
                await asyncio.sleep(0)

        async with semaphore.hold(8) as reduce_to:
            with pytest.raises(Problem):
                async with semaphore.hold(3, BUSY):
                    pass
            waiting = [asyncio.create_task(work(name, amount)) for name, amount in (("large", 99), ("small", 1))]
            await asyncio.sleep(0)
            with pytest.raises(Problem):  # it would fit, but others came first
                async with semaphore.hold(1, BUSY):
                    pass
            reduce_to(0)
            async with asyncio.timeout(10):
                await asyncio.gather(*waiting)
        assert order == ["large", "small"]
        left = asyncio.create_task(work("left", 1))
        async with semaphore.hold(10):
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
        async with asyncio.timeout(10), semaphore.hold(10, BUSY):
            pass

    asyncio.run(share())


def test_images_take_as_much_memory_as_they_have_pixels():
    """Sixteen fundus images at once fit into the memory of four of the largest images: none is told to come again."""
    workers = ImageWorkers(LimitsConfig(max_memory_bytes=4 * 3 * LARGEST_IMAGE_PX))
    fundus = cv2.imencode(".png", np.full((2048, 2048, 3), (10, 20, 30), np.uint8))[1].tobytes()
    inside = asyncio.Barrier(16)

    async def ask() -> None:
        async with workers.decoded(fundus, 1, with_probabilities=False, wait=False):
            await inside.wait()

    async def ask_at_once() -> None:
        async with asyncio.timeout(60):
            await asyncio.gather(*(ask() for _ in range(16)))

    asyncio.run(ask_at_once())


def test_an_answer_that_takes_too_long_is_a_problem_and_its_memory_is_free(png):
    workers = ImageWorkers(LimitsConfig(answer_timeout_s=0.05, max_memory_bytes=1))

    async def ask() -> None:
        async with workers.decoded(png, 1, with_probabilities=False, wait=False):
            await asyncio.sleep(60)

    async def ask_twice() -> None:
        for _ in range(2):
            with pytest.raises(Problem) as slow:
                await ask()
            assert (slow.value.status, slow.value.title) == (504, "Out of time")

    asyncio.run(ask_twice())


def test_the_default_question_is_one_that_models_are_trained_on():
    asked = "<image>\n" + ModelArgs(uri="/here").default_prompt
    assert asked == evaluation_prompt("blood vessels") == PredictConfig(model="m", source="s", out="o").prompt
