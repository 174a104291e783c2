"""Contradictions in `ServeArgs` are found when they are read, not when the first request comes."""

import re

import pytest

from sa2va_ray.config import UserError
from sa2va_ray.labelling.config import LabelQueueConfig
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.prepare.config import ChecksConfig
from sa2va_ray.serve.config import LimitsConfig, ServeArgs


def refusal(name: str = "m", **model) -> str:
    with pytest.raises(UserError) as error:
        ServeArgs.parse({"models": {name: {"uri": "/m", **model}}})
    return str(error.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"autoscaling": {"min_replica": 3}}, "unknown key min_replica; valid here: .*min_replicas"),
        ({"autoscaling": {"max_replicas": 3}, "num_replicas": 2}, "either num_replicas or autoscaling"),
        (
            {"autoscaling": {"target_ongoing_requests": 100}, "max_ongoing_requests": 8},
            "100 is more than max_ongoing_requests 8: no replica would ever be added",
        ),
        (
            {"batching": {"max_batch_megapixels": 64}, "max_ongoing_requests": 16},
            "16 is less than .* 64: .* never fill",
        ),
        ({"batching": {"batch_wait_timeout_s": 11}}, r"batch_wait_timeout_s.*less than or equal to 10"),
        (
            {"batching": {"max_megapixels": 1}},
            r"unknown key models\.m\.batching\.max_megapixels; valid here: batch_wait",
        ),
        ({"default_prompt": ""}, "default_prompt.*at least 1 character"),
        ({"gpus_per_replica": 1.5}, "gpus_per_replica.*less than or equal to 1"),
        ({"num_replicas": 10**18}, "num_replicas.*less than or equal to"),
    ],
)
def test_what_cannot_be_is_told(model, said):
    assert re.search(said, refusal(**model), re.DOTALL), refusal(**model)


@pytest.mark.parametrize("name", ["", "a/b", "a\n", 101 * "a", ".hidden"])
def test_names_of_models_are_those_that_ray_and_urls_can_have(name):
    assert "should match pattern" in refusal(name)


def test_the_largest_image_is_the_same_from_the_data_set_to_the_endpoint():
    jobs = {config.model_fields["max_pixels"].default for config in (ChecksConfig, PredictConfig, LabelQueueConfig)}
    assert jobs == {LimitsConfig().max_image_pixels} == {8192 * 8192}
