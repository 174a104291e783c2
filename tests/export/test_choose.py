"""Which checkpoint of a run `which` names, and what is said of it."""

import shutil
from pathlib import Path

import pytest

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.export.choose import choose_checkpoint
from sa2va_ray.export.config import ExportConfig
from tests.train.saved_runs import run_config, save

SCORES = {10: {}, 15: {"val/dice": 0.7, "val/step": 15}, 20: {"val/dice": 0.7, "val/step": 15}, 25: {"val/dice": 0.6}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step, metrics in SCORES.items():
        save(tmp_path / f"disk{step}", step, run_config(tmp_path / "runs"), metrics=metrics)
    return tmp_path / "runs" / "run"


@pytest.mark.parametrize(
    ("which", "step", "reason"),
    [
        ("newest", 25, "the newest sound one of its run"),
        ("best", 15, "the best of 4 of its run by val/dice, 0.7000, measured at step 15"),
        (10, 10, "step 10 of its run, which was named"),
    ],
)
def test_what_is_named_is_taken_and_said(run, which, step, reason):
    chosen = choose_checkpoint(str(run), which)
    assert (Path(chosen.uri).name, chosen.reason) == (f"step_{step:08d}", reason)


def test_a_best_one_that_is_damaged_is_passed_over(run):
    weights = next((run / "step_00000015").glob("model-*"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert Path(choose_checkpoint(str(run), "best").uri).name == "step_00000020"


def test_one_that_a_run_at_work_deletes_meanwhile_is_passed_over(run, monkeypatch):
    read = storage.read_bytes

    def deleted(uri: str) -> bytes:
        if uri.endswith("step_00000010/train_state.json"):
            shutil.rmtree(run / "step_00000010")
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", deleted)
    assert Path(choose_checkpoint(str(run), "best").uri).name == "step_00000015"


def test_what_is_not_there_is_answered_with_the_steps_that_are(run, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint of step 11\. It has those of the steps 10, 15, 20, 25\."):
        choose_checkpoint(str(run), 11)
    save(tmp_path / "disk", 5, run_config(tmp_path / "others"))
    with pytest.raises(UserError, match=r"best_metric val/dice: .*which=newest, or one of its steps: 5\."):
        choose_checkpoint(str(tmp_path / "others" / "run"), "best")
    with pytest.raises(UserError, match="neither a checkpoint"):
        choose_checkpoint(str(tmp_path), "best")


def test_one_checkpoint_stands_for_itself(run):
    uri = str(run / "step_00000010")
    assert choose_checkpoint(uri, "newest").uri == uri
    with pytest.raises(UserError, match="is one checkpoint: leave out which=best"):
        choose_checkpoint(uri, "best")


def test_which_is_a_word_or_a_step_of_a_run():
    assert ExportConfig.load(["checkpoint=/r", "out=/m", "which=500"]).which == 500
    for wrong in ("last", "0", "1.5"):
        with pytest.raises(UserError, match="give best, newest, or the number of a step"):
            ExportConfig.load(["checkpoint=/r", "out=/m", f"which={wrong}"])
    with pytest.raises(UserError, match="give checkpoint=RUN"):
        ExportConfig.load(["verify=/m", "which=best"])
