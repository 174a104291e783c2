"""What is said of a run that cannot go as it is planned."""

import re
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.memory import plan_memory
from sa2va_ray.train.plan.refusals import too_large, too_long
from sa2va_ray.train.plan.sizes import read_model_sizes
from sa2va_ray.train.plan.table import GIB

SIZE = SampleSize(num_tokens=2000, num_tiles=1)


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig.load(["jobs/configs/demo.yaml", "use_gpu=true", "model.trainable.image_encoder=frozen"])


@pytest.fixture(scope="module")
def sizes(config):
    return read_model_sizes(config.model, torch.bfloat16)


def gib_after(text: str, message: str) -> float:
    return float(re.search(rf"{text}.*?([\d.]+)", message)[1])


def test_what_fits_is_not_refused(sizes, config):
    for gpu_bytes in (None, 80 * GIB):
        plan = plan_memory(sizes, config, size=SIZE, gpu_bytes=gpu_bytes)
        assert (too_long(plan), too_large(plan)) == ("", "")


@pytest.mark.parametrize(
    ("most_tiles", "cures"),
    [
        (1, "Set pipeline.max_length=2000, or prepare"),
        (4, "Set pipeline.max_length=2000, lower model.architecture.max_dynamic_patch, or prepare"),
    ],
)
def test_a_sample_that_is_too_long_is_told_with_both_numbers_and_what_helps(sizes, config, most_tiles, cures):
    limit = config.model_copy(update={"pipeline": config.pipeline.model_copy(update={"max_length": 1999})})
    architecture = deepcopy(sizes.architecture)
    architecture.max_dynamic_patch = most_tiles
    tiled = replace(sizes, processor=Sa2VAProcessor(architecture, sizes.processor.tokenizer))
    message = too_long(plan_memory(tiled, limit, size=SIZE))
    assert "can have 2000 tokens, pipeline.max_length is 1999. " + cures in message
    assert not too_long(plan_memory(sizes, config, size=SIZE))


@pytest.mark.parametrize("strategy", ["auto", "zero3"])
def test_a_run_that_does_not_fit_is_told_with_what_helps(sizes, config, strategy):
    plan = plan_memory(sizes, config.model_copy(update={"strategy": strategy}), size=SIZE, gpu_bytes=GIB)
    message = too_large(plan)
    assert f"with strategy={plan.strategy} and micro batches of 2 x 2000 tokens" in message
    assert gib_after("it needs", message) == pytest.approx(plan.peak_bytes / GIB, abs=0.05)
    assert "there are 0.9 GiB (92 % of 1.0)" in message
    for name in ("zero2", "zero3", "zero3_offload"):
        other = plan_memory(sizes, config.model_copy(update={"strategy": name}), size=SIZE)
        assert f"{name} {other.peak_bytes / GIB:.1f}" in message
    assert gib_after(rf"activation_checkpointing=true \({plan.strategy} then needs", message) < plan.peak_bytes / GIB
    assert gib_after(rf"micro_batch_size=1 \({plan.strategy} then needs", message) < plan.peak_bytes / GIB
    assert "max_length" not in message
    assert message.endswith("a smaller model.trainable.lora_rank; more or larger GPUs.")


def test_another_strategy_that_fits_is_named(sizes, config):
    peaks = {
        name: plan_memory(sizes, config.model_copy(update={"strategy": name}), size=SIZE).peak_bytes
        for name in ("zero2", "zero3")
    }
    assert peaks["zero2"] < peaks["zero3"]  # of a model so small ZeRO-3 gathers all
    plan = plan_memory(sizes, config, size=SIZE, gpu_bytes=int(peaks["zero2"] / 0.92) + 1)
    assert "What helps: strategy=zero2; " in too_large(plan)


def test_where_the_data_set_does_not_tell_it_is_to_be_prepared_again(sizes, config):
    message = too_large(plan_memory(sizes, config, gpu_bytes=GIB))
    assert "What helps: to prepare the data set, so that" in message
    assert "a pipeline.max_length below 4096" in message
