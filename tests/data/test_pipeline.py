"""The Ray Data pipeline gives the planned samples, in order, once, and as they would be made in one process."""

import io
import logging
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.data import pipeline
from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import ReadAndPreprocess, Undecodable, preprocess, stream_steps
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.images.skeleton import tubed_skeleton
from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.step import _ignored_of_objects
from tests.data.conftest import BROKEN, to_row

CONFIG = PipelineConfig(actors_per_rank=1, cpus_per_actor=0.25)


@pytest.fixture(scope="module")
def processor():
    run = TrainConfig.load([str(Path(__file__).parents[2] / "jobs/configs/demo.yaml")])
    return build_model(run.model)[1]


def plan(rank: int, world_size: int) -> EpochPlan:
    return EpochPlan(9, 2, seed=3, epoch=1, global_batch_size=4, micro_batch_size=2, rank=rank, world_size=world_size)


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if field.name == "sample_ids":
            assert mine == its
        else:
            torch.testing.assert_close(mine, its, rtol=0, atol=0)


def test_two_ranks_see_every_sample_as_often_as_planned(prepared_uri, processor):
    seen = []
    for rank in range(2):
        steps = list(stream_steps(prepared_uri, [plan(rank, 2)], CONFIG, processor))
        assert [[len(b) if b else 0 for b in step] for step in steps] == [
            plan(rank, 2).micro_batch_sizes(step) for step in range(plan(rank, 2).num_steps)
        ]
        seen += [sample_id for step in steps for batch in step if batch for sample_id in batch.sample_ids]
    samples = SampleIndex(prepared_uri, "train")
    assert sorted(seen) == sorted([samples[i]["sample_id"] for i in range(len(samples))] * 2)


def test_rows_are_those_of_one_process(prepared_uri, processor):
    samples, whole = SampleIndex(prepared_uri, "train"), plan(0, 1)
    config = CONFIG.model_copy(update={"skeleton_radius_px": 1})
    batch = next(stream_steps(prepared_uri, [whole], config, processor))[1]
    positions = whole.positions(0)[2:4]
    expected = [
        preprocess(samples[index], config, processor, np.random.default_rng([3, 1, position]))
        for position, index in zip(positions, whole.samples(positions), strict=True)
    ]
    assert_equal(batch, collate(expected))
    for row, each in enumerate(expected):
        length = len(each["input_ids"])
        assert batch.input_ids[row, :length].tolist() == each["input_ids"].tolist()
        assert batch.attention_mask[row].sum() == length
        np.testing.assert_array_equal(batch.masks[row], each["masks"])
        np.testing.assert_array_equal(batch.skeletons[row], [tubed_skeleton(mask, 1) for mask in each["masks"]])


def test_tiles_are_what_the_model_took_before(prepared_uri, processor):
    sample = SampleIndex(prepared_uri, "train")[0]
    row = preprocess(sample, PipelineConfig(augment=AugmentConfig.off()), processor, np.random.default_rng(0))
    picture = Image.open(io.BytesIO(sample["image"])).convert("RGB")
    tiles = normalize_tiles(collate([row]).pixel_values)
    torch.testing.assert_close(tiles, processor.image_tiles(picture), rtol=0, atol=0)


def test_epochs_that_go_on_at_a_step_are_the_same_bit_by_bit(prepared_uri, processor, monkeypatch):
    first = plan(1, 2)
    second = replace(first, epoch=2)
    # Six steps: the first execution has an epoch of five and a part of the next.
    monkeypatch.setattr(pipeline, "_ROWS_PER_EXECUTION", 12)
    whole = list(stream_steps(prepared_uri, [first, second], CONFIG, processor))
    assert len(whole) == first.num_steps + second.num_steps == 10
    resumed = list(stream_steps(prepared_uri, [first, second], CONFIG, processor, start_step=2))
    alone = list(stream_steps(prepared_uri, [second], CONFIG, processor))
    for expected, found in [(whole[2:], resumed), (whole[5:], alone)]:
        for steps in zip(expected, found, strict=True):
            for one, other in zip(*steps, strict=True):
                assert (one is None) == (other is None)
                if one:
                    assert_equal(one, other)


def test_a_broken_image_is_named_and_left_out(ray_cluster, damaged_uri, processor, caplog):
    config = CONFIG.model_copy(update={"skeleton_radius_px": 0})
    # In one repeat the broken sample shares a micro batch, in the other it is alone in one.
    plan = EpochPlan(9, 2, seed=4, epoch=0, global_batch_size=3, micro_batch_size=2, rank=0, world_size=1)
    with caplog.at_level(logging.WARNING, LOGGER.name):
        steps = list(stream_steps(damaged_uri, [plan], config, processor))
    warnings = [record.message for record in caplog.records if record.name == LOGGER.name]
    assert warnings == ["sample sample4 is left out: OSError on decoding it"] * 2
    batches = [batch for step in steps for batch in step]
    assert sorted(len(batch) if batch else 0 for batch in batches) == [0, *[1] * 6, *[2] * 5]
    seen = sorted(sample_id for batch in batches if batch for sample_id in batch.sample_ids)
    assert seen == sorted(f"sample{index}" for index in range(9) for _ in range(2) if index != BROKEN)


def test_an_actor_that_begins_later_refuses_a_data_set_that_was_written_anew_meanwhile(damaged_uri, processor):
    with pytest.raises(UserError, match=r"written anew while it was in use: it was 000000000000, is \w{12}"):
        ReadAndPreprocess(damaged_uri, "0" * 64, CONFIG, processor, seed=0)


def test_a_broken_mask_is_undecodable(processor):
    sample = to_row(0)
    sample["objects"][0]["rle"]["size"] = [64]
    with pytest.raises(Undecodable, match="Error"):
        preprocess(sample, CONFIG, processor, np.random.default_rng(0))


def test_a_sequence_is_refused_and_not_cut(processor):
    short = PipelineConfig(max_length=10)
    with pytest.raises(UserError, match=r"tokens, pipeline\.max_length is 10"):
        preprocess(to_row(0), short, processor, np.random.default_rng(0))


@pytest.mark.parametrize("radius", [None, 2])
def test_of_an_image_without_the_object_the_answer_is_that_there_is_none(processor, radius):
    sample = to_row(0)
    nothing = {"phrase": "Line.", "rle": mask_to_rle(np.zeros((64, 64), bool))}
    config = CONFIG.model_copy(update={"skeleton_radius_px": radius})
    rows = [
        preprocess({**sample, "objects": objects}, config, processor, np.random.default_rng(0))
        for objects in ([nothing], [nothing, *sample["objects"]])
    ]
    texts = [processor.tokenizer.decode(row["input_ids"]) for row in rows]
    assert re.search(r"(There is|shows|I see) no line( in this image)?\.", texts[0])
    assert [text.count("[SEG]") for text in texts] == [0, 1]
    batch = collate(rows)
    assert [tuple(mask.shape) for mask in batch.masks] == [(0, 64, 64), (1, 64, 64)]
    assert [len(each) for each in batch.skeletons or []] == ([] if radius is None else [0, 1])
    assert batch.num_masks == 1


def test_what_is_ignored_moves_with_the_image(processor):
    sample = to_row(0)
    row = preprocess({**sample, "ignored": sample["objects"][0]["rle"]}, CONFIG, processor, np.random.default_rng(3))
    assert row["masks"].any()
    np.testing.assert_array_equal(row["ignored"], row["masks"])
    batch = collate([row, preprocess(sample, CONFIG, processor, np.random.default_rng(3))])
    assert [tuple(each.shape) for each in batch.ignored] == [(1, 64, 64), (0, 64, 64)]
    of_first, of_second = _ignored_of_objects(batch)
    assert torch.equal(of_first, batch.masks[0][0])
    assert not of_second.any()
