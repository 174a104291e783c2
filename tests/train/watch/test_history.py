"""The rows that a run's curves are drawn from."""

from sa2va_ray import storage
from sa2va_ray.train.watch import history
from sa2va_ray.train.watch.history import HISTORY_FILE, RunHistory, read_history


def test_a_run_that_goes_on_has_each_step_once(tmp_path):
    first = RunHistory()
    for step in range(1, 31):
        first.add(step, {"train/loss": 1.0})
    first.add(20, {"val/dice": 0.5})
    first.add(30, {"val/dice": 0.6})
    storage.write_bytes(str(tmp_path / HISTORY_FILE), first.to_bytes())
    second = read_history(str(tmp_path), last_step=20)
    second.add(21, {"train/loss": 2.0})
    assert [row["step"] for row in second.rows if "train/loss" in row] == list(range(1, 22))
    assert [row["step"] for row in second.rows if "val/dice" in row] == [20]
    assert len(read_history(str(tmp_path)).rows) == 32


def test_validations_stay_however_long_a_run_is(monkeypatch):
    monkeypatch.setattr(history, "_MAX_TRAIN_ROWS", 10)
    long = RunHistory()
    for step in range(1, 101):
        long.add(step, {"train/loss": 1.0})
        if step % 10 == 0:
            long.add(step, {"val/dice": 0.5})
    trained = [row["step"] for row in long.rows if "train/loss" in row]
    assert len(trained) <= 10
    assert (trained[0], trained) == (1, sorted(trained))
    assert [row["step"] for row in long.rows if "val/dice" in row] == list(range(10, 101, 10))


def test_what_is_damaged_or_missing_is_begun_anew(tmp_path):
    assert read_history(str(tmp_path)).rows == []
    for content in (b'{"step": 1', b'{"loss": 1}\n', b"[]\n", b"\xff"):
        (tmp_path / HISTORY_FILE).write_bytes(content)
        assert read_history(str(tmp_path), last_step=5).rows == []
        assert read_history(str(tmp_path)).rows == [], "the driver reads it before a run begins"
