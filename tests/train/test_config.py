"""A training config that cannot mean what it says is refused."""

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.train.config import TrainConfig


@pytest.mark.parametrize("name", ["val/dise", "dice", "val/loss", "train/loss", "val/hd95"])
def test_checkpoints_are_kept_by_a_score_that_is_measured(name):
    """What is not, or of which less is better, is refused with the names that can be given."""
    with pytest.raises(UserError, match=f"best_metric.*'{name}'.*val/dice, .*val/seg_share"):
        TrainConfig.parse({"name": "a", "data_uri": "d", "runs_uri": "r", "model": {}, "best_metric": name})
