"""A training config that cannot mean what it says is refused."""

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.train.config import TrainConfig


@pytest.mark.parametrize("name", ["val/dise", "dice", "val/loss", "train/loss", "val/hd95"])
def test_checkpoints_are_kept_by_a_score_that_is_measured(name):
    """What is not, or of which less is better, is refused with the names that can be given."""
    with pytest.raises(UserError, match=f"best_metric.*'{name}'.*val/dice, .*val/seg_share"):
        TrainConfig.parse({"name": "a", "data_uri": "d", "runs_uri": "r", "model": {}, "best_metric": name})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optim.betas", "[-0.1, 0.999]"),
        ("optim.betas", "[0.9, 1]"),
        ("pipeline.max_length", "0"),
        ("pipeline.max_length", str(10**30)),
        ("global_batch_size", str(10**9)),
        ("micro_batch_size", str(10**9)),
        ("num_epochs", str(10**9)),
        ("repeats", str(10**9)),
    ],
)
def test_numbers_with_which_no_worker_could_train_are_refused(key, value):
    with pytest.raises(UserError, match=rf"1 wrong value\(s\):\n  {key}"):
        TrainConfig.load(["jobs/configs/demo.yaml", f"{key}={value}"])
