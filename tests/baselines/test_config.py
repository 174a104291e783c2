"""The shipped configs, and keys that would have no effect."""

from pathlib import Path
from typing import get_args

import pytest

from sa2va_ray.baselines.config import BaselineConfig, BaselineKind, UnetTrainingConfig
from sa2va_ray.baselines.run import FITTERS
from sa2va_ray.baselines.unet_training import explain_room
from sa2va_ray.config import UserError
from sa2va_ray.predict.load import LOADERS

CONFIGS = Path(__file__).parents[2] / "jobs/configs"


@pytest.mark.parametrize(
    ("name", "kind"), [("baseline_unet", "unet"), ("baseline_filter", "vessel_filter"), ("baseline_nnunet", "nnunet")]
)
def test_a_config_fits_what_its_name_says(name, kind):
    assert BaselineConfig.load([str(CONFIGS / f"{name}.yaml")]).kind == kind


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vessel_filter.method=sato", "no effect"),
        ("unet.network.image_size=500", "multiple of 16"),
        ("unet.num_workers=9", "global_batch_size 8 gives nothing to some of num_workers 9"),
        ("unet.network.depth=3", "valid here: image_size, width"),
    ],
)
def test_what_makes_no_sense_is_refused(override, message):
    with pytest.raises(UserError, match=message):
        BaselineConfig.load([str(CONFIGS / "baseline_unet.yaml"), override])


@pytest.mark.parametrize("widths", ["[0]", "[-3]", "[129]", "[6,.nan]", "[]", str([6.0] * 21)])
def test_widths_of_vessels_are_bounded(widths):
    with pytest.raises(UserError, match="widths_px"):
        BaselineConfig.load([str(CONFIGS / "baseline_filter.yaml"), f"vessel_filter.widths_px={widths}"])


def test_every_kind_has_its_settings_is_fitted_and_is_loaded():
    kinds = set(get_args(BaselineKind))
    assert kinds <= BaselineConfig.model_fields.keys()
    assert kinds == FITTERS.keys() == LOADERS.keys() - {"sa2va"}


@pytest.mark.parametrize("use_gpu", [True, False])
def test_a_cluster_that_is_too_small_is_told_what_helps(use_gpu):
    told = explain_room(UnetTrainingConfig(use_gpu=use_gpu))
    assert ("unet.use_gpu=false" in told) == use_gpu
    assert "unet.pipeline.cpus_per_actor (0.5" in told
