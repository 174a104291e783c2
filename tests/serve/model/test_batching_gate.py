"""The gate before Serve's own batches, in a replica: what a test asks of it runs there."""

import asyncio
import random
import sys
from collections.abc import Iterator

import pytest
from ray import cloudpickle, serve
from ray.serve.handle import DeploymentHandle

from sa2va_ray.serve.model.batching_gate import BatchingGate

MAX_MEGAPIXELS = 4


@serve.deployment(max_ongoing_requests=2 * MAX_MEGAPIXELS)
class Model:
    """As the model deployment: a batch takes a while, one at a time."""

    def __init__(self):
        self._thread = asyncio.Lock()
        self._run.set_max_batch_size(MAX_MEGAPIXELS)
        self._begin()

    def _begin(self) -> None:
        self._gate = BatchingGate(MAX_MEGAPIXELS)
        self._batches: list[list[int]] = []

    async def answer(self, megapixels: int) -> int:
        async with self._gate.admitted(megapixels):
            return await self._run(megapixels)

    @serve.batch(
        batch_size_fn=lambda items: sum(items) if len(items) > 1 else 1,
        batch_wait_timeout_s=0.002,
        max_concurrent_batches=2,
    )
    async def _run(self, questions: list[int]) -> list[int]:
        with self._gate.batch_running():
            async with self._thread:
                self._batches.append(questions)
                await asyncio.sleep(0.1)
                return questions

    async def load(self, num_clients: int, num_questions: int) -> list[list[int]]:
        """Clients who come back with their next question a while after each answer."""
        self._begin()
        chance = random.Random(1)

        async def client() -> None:
            for _ in range(num_questions):
                await asyncio.sleep(chance.uniform(0, 0.1))
                assert await self.answer(1) == 1

        await asyncio.gather(*(client() for _ in range(num_clients)))
        return self._batches

    async def ask(self, questions: list[int]) -> list[list[int]]:
        self._begin()
        assert await asyncio.gather(*map(self.answer, questions)) == questions
        return self._batches

    async def leave(self) -> list[list[int]]:
        """Callers who leave before their batch, while it fills, and while it runs; then those of one batch."""
        self._begin()
        for moment_s in (0, 0.001, 0.05):
            tasks = [asyncio.create_task(self.answer(1)) for _ in range(MAX_MEGAPIXELS + 1)]
            await asyncio.sleep(moment_s)
            for task in tasks:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*(self.answer(1) for _ in range(MAX_MEGAPIXELS))), timeout=10)
        return self._batches


@pytest.fixture(scope="module")
def model(ray_cluster, endpoint) -> Iterator[DeploymentHandle]:
    """Beside the endpoint, so that Serve runs."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield serve.run(Model.bind(), name="batching-gate", route_prefix=None)
    serve.delete("batching-gate")
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_small_batches_do_not_stay_small_under_load(model):
    batches = model.load.remote(num_clients=12, num_questions=10).result()
    assert sum(map(len, batches)) == 120
    middle = batches[3:-8]  # at the end there are too few clients left
    assert sum(map(len, middle)) / len(middle) > 0.95 * MAX_MEGAPIXELS


def test_batches_hold_what_they_may_and_a_larger_question_goes_alone(model):
    batches = model.ask.remote([1, 2, 9, 3, 1, 1, 2, 4]).result()
    assert [9] in batches
    assert all(sum(batch) <= MAX_MEGAPIXELS or batch == [9] for batch in batches)


def test_callers_who_leave_take_no_place(model):
    assert model.leave.remote().result()[-1] == [1] * MAX_MEGAPIXELS


def test_a_batch_that_fails_lets_the_next_one_in():
    gate = BatchingGate(1)

    async def fail() -> None:
        async with asyncio.timeout(10), gate.admitted(1):
            with gate.batch_running():
                raise ZeroDivisionError

    async def fail_three_times() -> list[BaseException | None]:
        return await asyncio.gather(*(fail() for _ in range(3)), return_exceptions=True)

    assert [type(error) for error in asyncio.run(fail_three_times())] == 3 * [ZeroDivisionError]


def test_a_full_batch_is_let_in_behind_one_that_runs_and_a_smaller_one_waits():
    gate, admitted = BatchingGate(4), []

    async def ask(name: str, megapixels: int) -> None:
        async with gate.admitted(megapixels):
            admitted.append(name)
            await asyncio.Event().wait()

    async def told(*questions: tuple[str, int]) -> list[str]:
        tasks.extend(asyncio.create_task(ask(*question)) for question in questions)
        admitted.clear()
        await asyncio.sleep(0.01)
        return sorted(admitted)

    async def load() -> None:
        assert await told(("a", 1), ("b", 2)) == ["a", "b"]
        with gate.batch_running():
            assert await told(("c", 3)) == [], "it could still grow"
            assert await told(("d", 2)) == ["c"], "nothing fits beside it"
            assert await told(("e", 9), ("f", 1)) == [], "one batch is at hand"
            with gate.batch_running():
                assert await told(("g", 4)) == []
            assert await told() == ["d"], "a question that is larger than a batch goes alone"
        assert await told() == []
        with gate.batch_running():
            pass
        assert await told() == ["e"]
        for task in tasks:
            task.cancel()

    tasks: list[asyncio.Task] = []
    asyncio.run(load())
