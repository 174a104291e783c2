"""The count, and the jobs of a real cluster that it starts."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import ray
from ray.job_submission import JobSubmissionClient

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.serve import retraining
from sa2va_ray.serve.problems import Problem
from sa2va_ray.serve.retraining import RetrainConfig, RetrainingCounter, check_state


@pytest.fixture
def config(bucket_uri):
    return RetrainConfig(retrain_after=3, entrypoint="sleep 60", state_uri=f"{bucket_uri}/state.json")


@pytest.fixture
def client(stack):
    return JobSubmissionClient(stack.dashboard_url)


def state(config):
    return json.loads(storage.read_bytes(config.state_uri))


def end(client, job):
    client.stop_job(job)
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.2)


def test_counts_of_several_ingresses_are_one_and_one_job_runs_at_a_time(ray_cluster, config, client):
    first, second = RetrainingCounter(config), RetrainingCounter(config)
    assert first.count([1]) == {"annotations": 1, "retrain_after": 3, "job": None}
    assert second.count([1, 2])["annotations"] == 2, "each annotation counts once"
    job = second.count([None])["job"]
    assert client.get_job_info(job).entrypoint == "sleep 60"
    assert state(config) == {"ids": [], "num_untold": 0, "submitting": None}
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda number: (first, second)[number % 2].count([number]), range(10, 16)))
    assert {each["job"] for each in told} == {None}, "the first job still runs"
    assert sorted(each["annotations"] for each in told) == [1, 2, 3, 4, 5, 6]
    end(client, job)
    ray.kill(first._actor)
    again = RetrainingCounter(config).count([16])  # another actor goes on from the file
    assert again["job"] == f"{job[:-1]}2"
    end(client, again["job"])


def test_what_is_told_at_once_is_counted_also_where_nobody_waits_for_the_reply(ray_cluster, config):
    """As Label Studio does, which closes its connection after a second."""
    config = config.model_copy(update={"retrain_after": 1000})

    async def tell_all():
        counter = RetrainingCounter(config)
        told = [asyncio.wait_for(counter.tell([number]), 0.05) for number in range(1, 301)]
        replies = await asyncio.gather(*told, return_exceptions=True)
        assert {type(each) for each in replies} <= {dict, TimeoutError}
        assert any(isinstance(each, TimeoutError) for each in replies)
        began = time.monotonic()
        return await counter.tell([301]), time.monotonic() - began

    reply, took_s = asyncio.run(tell_all())
    assert reply["annotations"] == 301
    assert took_s < 20, "they are counted together, and not each by a round of its own through the store"


def test_what_could_not_be_counted_is_counted_with_the_next_annotation(ray_cluster, tmp_path, client):
    folder = tmp_path / "state"
    config = RetrainConfig(retrain_after=1000, entrypoint="sleep 60", state_uri=f"{folder}/state.json")
    folder.write_text("a file where the folder was: the disk is away")

    async def tell():
        counter = RetrainingCounter(config)
        for number in (1, None):
            with pytest.raises(Problem, match="wait to be counted"):
                await counter.tell([number])
        folder.unlink()
        return await counter.tell([2])

    assert asyncio.run(tell())["annotations"] == 3
    assert state(config) == {"ids": [1, 2], "num_untold": 1, "submitting": None}


@ray.remote(num_cpus=0)
class Silent:
    """In the place of `Retraining` where Ray's jobs have taken a request and do not answer it."""

    def count(self, config, annotations):
        time.sleep(60)


def test_an_actor_that_does_not_answer_is_not_waited_for_for_ever(ray_cluster, config, monkeypatch):
    """Each webhook waited behind the first one, and what they told was kept without a bound."""
    options = {"name": retraining._actor_name(config), "namespace": retraining._NAMESPACE}
    silent = Silent.options(**options).remote()

    async def tell():
        counter = RetrainingCounter(config)
        with monkeypatch.context() as patch:
            patch.setattr(retraining, "_ANSWERS_WITHIN_S", 0.5)
            with pytest.raises(Problem, match="wait to be counted"):
                await counter.tell([1])
        ray.kill(silent)
        return await counter.tell([2])

    assert asyncio.run(tell())["annotations"] == 2


def test_what_is_counted_without_a_job_is_not_counted_again(ray_cluster, config, client):
    config = config.model_copy(update={"retrain_after": 2, "runtime_env": {"working_dir": "/proc/nowhere"}})

    async def tell():
        counter = RetrainingCounter(config)
        await counter.tell([None])
        for _ in range(2):
            with pytest.raises(Problem, match="no job could be started"):
                await counter.tell([None])

    asyncio.run(tell())
    assert state(config)["num_untold"] == 3


def test_a_job_that_was_submitted_before_its_actor_died_is_not_submitted_again(ray_cluster, config, client):
    counter = RetrainingCounter(config)
    job = counter.count([1, 2, 3])["job"]
    cut_off = {"ids": [1, 2, 3], "num_untold": 0, "submitting": job}
    storage.write_bytes(config.state_uri, json.dumps(cut_off).encode())
    assert counter.count([])["job"] == job
    assert state(config)["ids"] == []
    end(client, job)
    storage.delete_files(config.state_uri.rpartition("/")[0], ["state.json"])  # counted from 0, jobs go on
    another = counter.count([1, 2, 3])["job"]
    assert another == f"{job[:-1]}2"
    end(client, another)


def test_a_file_that_is_none_of_ours_is_refused(stack, config):
    check_state(config)
    storage.write_bytes(config.state_uri, b'{"ids": "x"}')
    with pytest.raises(UserError, match="delete the file to count from 0"):
        check_state(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state_uri": "{}"}, "is no state of retraining"),
        ({"runtime_env": {"env_vars": {"TOKEN": 4711}}}, "the values of TOKEN are no texts"),
        ({"runtime_env": {"working_dir": "/proc/nowhere"}}, "/proc/nowhere is not a valid path"),
        ({"runtime_env": {"pip": 5}}, "Ray does not take retrain.runtime_env"),
    ],
)
def test_what_could_never_start_a_job_is_refused_at_the_start(tmp_path, fields, message):
    known = {"retrain_after": 1, "entrypoint": "true", "state_uri": "{}/state.json"} | fields
    known["state_uri"] = known["state_uri"].format(tmp_path)
    with pytest.raises(UserError, match=message) as refused:
        check_state(RetrainConfig(**known))
    assert "4711" not in str(refused.value)


@pytest.mark.parametrize("fields", [{"retrain_after": 0}, {"retrain_after": 100_001}, {"entrypoint": ""}])
def test_bounds(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        RetrainConfig.parse({"retrain_after": 1, "entrypoint": "true", "state_uri": "/tmp/x", **fields})
