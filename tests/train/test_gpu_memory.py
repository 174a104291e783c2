"""CUDA's error is raised by hand: this machine has no GPU to be filled."""

from types import SimpleNamespace

import pytest
import torch

from sa2va_ray.config import UserError
from sa2va_ray.train import loop
from sa2va_ray.train.config import TrainConfig, ValidationConfig
from sa2va_ray.train.errors import RunStoppedError
from sa2va_ray.train.gpu_memory import NOTE, config_that_fits, full_memory_noted, keep_note_of

pytestmark = pytest.mark.usefixtures("one_rank")

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.60 GiB of which 1.20 GiB is "
    "free. If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF."
)

SHORT_ANSWERS = ({"validation": ValidationConfig(max_new_tokens=8)}, True)


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        name="run",
        data_uri="data",
        runs_uri=str(tmp_path),
        model={"architecture": {}},
        num_workers=1,
        micro_batch_size=11,
    )


def overfill(config):
    with (
        pytest.raises(UserError, match=r"Micro batches of 11 do not fit.* micro_batch_size=5"),
        full_memory_noted(config, config),
    ):
        raise torch.OutOfMemoryError(FULL)


def test_nothing_is_changed_where_all_fits(config):
    with full_memory_noted(config, config):
        pass
    assert config_that_fits(config, may_halve=True) == config


def test_a_micro_batch_that_was_chosen_by_the_plan_is_halved(config):
    overfill(config)
    smaller = config_that_fits(config, may_halve=True)
    assert (smaller.micro_batch_size, smaller.global_batch_size) == (5, config.global_batch_size)
    assert smaller.gradient_accumulation_steps() == 7


def test_a_run_that_is_started_again_by_hand_begins_with_what_fits(config):
    overfill(config)
    keep_note_of(config, may_halve=True)
    smaller = config_that_fits(config, may_halve=True)
    assert smaller.micro_batch_size == 5
    with pytest.raises(UserError, match="Micro batches of 5"), full_memory_noted(smaller, config):
        raise torch.OutOfMemoryError(FULL)
    keep_note_of(config, may_halve=True)
    assert config_that_fits(config, may_halve=True).micro_batch_size == 2


def test_what_fewer_workers_found_than_the_run_is_meant_for_does_not_count(config):
    """An elastic run while a node is missing: each worker held more."""
    two = config.model_copy(update={"num_workers": 2, "min_workers": 1})
    with pytest.raises(UserError), full_memory_noted(two, two):
        raise torch.OutOfMemoryError(FULL)
    assert config_that_fits(two, may_halve=True).micro_batch_size == 5
    keep_note_of(two, may_halve=True)
    assert config_that_fits(two, may_halve=True) == two


@pytest.mark.parametrize(
    ("changes", "may_halve"),
    [
        ({"micro_batch_size": 7}, True),
        ({"strategy": "zero2"}, True),
        ({"num_workers": 2}, True),
        ({}, False),
        SHORT_ANSWERS,
    ],
)
def test_what_another_plan_or_a_size_that_is_given_found_does_not_count(config, changes, may_halve):
    overfill(config)
    another = config.model_copy(update=changes)
    keep_note_of(another, may_halve)
    assert config_that_fits(another, may_halve) == another


def test_where_not_even_one_sample_fitted_all_is_tried_again(config):
    single = config.model_copy(update={"micro_batch_size": 1})
    with pytest.raises(UserError), full_memory_noted(single, config):
        raise torch.OutOfMemoryError(FULL)
    keep_note_of(config, may_halve=True)
    assert config_that_fits(config, may_halve=True) == config


def test_one_that_was_given_ends_the_run_with_what_helps(config):
    overfill(config)
    with pytest.raises(RunStoppedError, match=r"1\.20 GiB is free\. .*micro_batch_size=5 or auto") as raised:
        config_that_fits(config, may_halve=False)
    assert "PYTORCH_ALLOC_CONF" not in str(raised.value)


def test_one_sample_is_not_halved(config):
    single = config.model_copy(update={"micro_batch_size": 1})
    with pytest.raises(UserError), full_memory_noted(single, single):
        raise torch.OutOfMemoryError(FULL)
    with pytest.raises(RunStoppedError, match="What helps: activation_checkpointing=true"):
        config_that_fits(config, may_halve=True)


def test_another_error_stays_what_it_is(config, tmp_path):
    with pytest.raises(ValueError, match="another"), full_memory_noted(config, config):
        raise ValueError("another")
    assert not (tmp_path / "run" / NOTE).exists()


@pytest.mark.parametrize(
    ("full", "told"),
    [
        ("validate", "Micro batches of 11 do not fit into a GPU: .* What helps: micro_batch_size=5 or auto"),
        ("open_session", "The model does not fit into a GPU with strategy=zero3: .* a strategy that shards more"),
    ],
)
def test_a_full_gpu_is_told_wherever_it_is_met(config, monkeypatch, tmp_path, full, told):
    """In validation, which runs as many samples at once as a step; and before there is a batch, which is not noted."""

    def fill(*_):
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(loop, "open_session", lambda *_: None)
    monkeypatch.setattr(loop, "_open_reporter", lambda _: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(loop, "_train", lambda session, reporter: loop.validate(None, None, config))
    monkeypatch.setattr(loop, full, fill)
    with pytest.raises(UserError, match=told):
        loop.train_loop_per_worker(config.model_copy(update={"use_gpu": True}), "data", "commit", "owner", True)
    assert (tmp_path / "run" / NOTE).exists() == (full == "validate")
