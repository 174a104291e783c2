"""The Ray Data pipeline gives the planned samples, in order, once, and as they would be made in one process."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sa2va_ray.config import UserError
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import PipelineConfig, SampleIndex, preprocess, stream_steps
from sa2va_ray.models.build import build_model
from sa2va_ray.train.config import TrainConfig

CONFIG = PipelineConfig(actors_per_rank=1, cpus_per_actor=0.25)


@pytest.fixture(scope="module")
def processor():
    run = TrainConfig.load([str(Path(__file__).parents[2] / "jobs/configs/demo.yaml")])
    return build_model(run.model)[1]


def plan(rank: int, world_size: int) -> EpochPlan:
    return EpochPlan(9, 2, seed=3, epoch=1, global_batch_size=4, micro_batch_size=2, rank=rank, world_size=world_size)


def test_two_ranks_see_every_sample_as_often_as_planned(prepared_uri, processor):
    seen: list[str] = []
    for rank in range(2):
        steps = list(stream_steps(prepared_uri, plan(rank, 2), CONFIG, processor))
        assert [[len(b) if b else 0 for b in step] for step in steps] == [
            plan(rank, 2).micro_batch_sizes(step) for step in range(plan(rank, 2).num_steps)
        ]
        seen += [sample_id for step in steps for batch in step if batch for sample_id in batch.sample_ids]
    samples = SampleIndex(prepared_uri, "train")
    assert sorted(seen) == sorted([samples[i]["sample_id"] for i in range(len(samples))] * 2)


def test_rows_are_those_of_one_process(prepared_uri, processor):
    samples, whole = SampleIndex(prepared_uri, "train"), plan(0, 1)
    batch = next(stream_steps(prepared_uri, whole, CONFIG, processor))[1]
    for row, position in enumerate(whole.positions(0)[2:4]):
        random = np.random.default_rng([3, 1, position])
        expected = preprocess(samples[whole.order()[position]], CONFIG, processor, random)
        length = len(expected["input_ids"])
        assert batch.sample_ids[row] == expected["sample_id"]
        assert batch.input_ids[row, :length].tolist() == expected["input_ids"].tolist()
        assert batch.attention_mask[row].sum() == length
        np.testing.assert_array_equal(batch.masks[row], expected["masks"])
        np.testing.assert_array_equal(batch.grounding_pixel_values[row], expected["grounding_pixel_values"])
        torch.testing.assert_close(batch.pixel_values[row : row + 1], torch.from_numpy(expected["pixel_values"]))


def test_a_sequence_is_refused_and_not_cut(prepared_uri, processor):
    short = PipelineConfig(max_length=10)
    with pytest.raises(ValueError, match=r"tokens, pipeline\.max_length is 10"):
        preprocess(SampleIndex(prepared_uri, "train")[0], short, processor, np.random.default_rng(0))


def test_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no samples in the split 'train'"):
        SampleIndex(str(tmp_path), "train")
