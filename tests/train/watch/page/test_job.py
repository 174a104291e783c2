"""What the driver writes of a run: before its workers have begun, and after it has ended."""

import json

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.storage import StorageError
from sa2va_ray.train.checkpoints.beat import LOCK_FILE
from sa2va_ray.train.watch.history import HISTORY_FILE
from sa2va_ray.train.watch.page.job import page_of_job

FACTS = {"name": "run", "config": {"model": {"trainable": {}}}, "num_steps": 9, "parameters": []}


@pytest.fixture
def run_uri(tmp_path):
    (tmp_path / LOCK_FILE).write_text(json.dumps({"owner": "me"}))
    return str(tmp_path)


def test_a_damaged_picture_of_the_validation_is_left_out_and_ends_no_run(run_uri):
    storage.write_bytes(f"{run_uri}/validation/sample.webp", b"cut off")
    with page_of_job(run_uri, FACTS, "me"):
        pass
    assert "run" in page(run_uri)
    assert "sample" not in page(run_uri)


def page(run_uri):
    return storage.read_bytes(f"{run_uri}/run.html").decode()


def state(run_uri):
    return json.loads(storage.read_bytes(f"{run_uri}/run.json"))["state"]


def begin(run_uri):
    """What the first worker leaves."""
    stored = {**FACTS, "num_steps": 9, "attempts": [], "warnings": [], "state": {"name": "training", "step": 7}}
    storage.write_bytes(f"{run_uri}/run.json", json.dumps(stored).encode())
    storage.write_bytes(f"{run_uri}/{HISTORY_FILE}", b'{"step": 7, "train/loss": 0.125}\n')


def end_with(error, run_uri):
    """A run whose first worker has begun, and that ends with an error."""
    with page_of_job(run_uri, FACTS, "me"):
        begin(run_uri)
        raise error


def end_as_lost(run_uri):
    with page_of_job(run_uri, FACTS, "me"):
        storage.write_bytes(f"{run_uri}/{LOCK_FILE}", json.dumps({"owner": "you"}).encode())
        raise UserError("the run was taken over")


def test_a_run_that_ends_well(run_uri):
    with page_of_job(run_uri, FACTS, "me"):
        assert "<strong>Waiting</strong>" in page(run_uri)
        begin(run_uri)
    assert "<strong>Ended well</strong>" in page(run_uri)
    assert "0.125" in page(run_uri)
    assert (state(run_uri)["name"], state(run_uri)["step"]) == ("ended", 7)


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (UserError("3 of 4 are bad"), "failed", "3 of 4 are bad"),
        (SystemExit(15), "stopped", "Start the same job again"),
        (KeyboardInterrupt(), "stopped", "Start the same job again"),
        (RuntimeError("p0_of_a_patient"), "failed", "The cause is in the job&#39;s log."),
    ],
)
def test_a_run_that_does_not(run_uri, error, name, words):
    with pytest.raises(type(error)):
        end_with(error, run_uri)
    assert state(run_uri)["name"] == name
    assert words in page(run_uri)
    assert "p0_of_a_patient" not in page(run_uri)


def test_a_run_that_another_job_has_taken_over_is_left_alone(run_uri):
    with pytest.raises(UserError, match="taken over"):
        end_as_lost(run_uri)
    assert "<strong>Waiting</strong>" in page(run_uri)


def test_a_store_that_does_not_answer_ends_no_run(run_uri, monkeypatch):
    monkeypatch.setattr(storage, "write_bytes", lambda *_: (_ for _ in ()).throw(StorageError("no answer")))
    with page_of_job(run_uri, FACTS, "me"):
        pass
    assert not storage.exists(f"{run_uri}/run.html")
