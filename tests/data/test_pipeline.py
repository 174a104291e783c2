"""The Ray Data pipeline gives the planned samples, in order, once, and as they would be made in one process."""

import io
import logging
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.data import pipeline
from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.pipeline import PipelineConfig, SampleIndex, Undecodable, preprocess, stream_steps
from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.images.skeleton import tubed_skeleton
from sa2va_ray.manifest import write_manifest
from sa2va_ray.models.build import build_model
from sa2va_ray.models.sa2va.processing_sa2va import normalize_tiles
from sa2va_ray.telemetry import LOGGER
from sa2va_ray.train.config import TrainConfig

CONFIG = PipelineConfig(actors_per_rank=1, cpus_per_actor=0.25)
BROKEN = 4  # the sample of `damaged_uri` that cannot be decoded


@pytest.fixture(scope="module")
def processor():
    run = TrainConfig.load([str(Path(__file__).parents[2] / "jobs/configs/demo.yaml")])
    return build_model(run.model)[1]


@pytest.fixture(scope="module")
def damaged_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set of 9 samples in two files of 5 and 4; one image is cut off."""
    folder = tmp_path_factory.mktemp("damaged")
    rows = [to_row(index) for index in range(9)]
    rows[BROKEN]["image"] = rows[BROKEN]["image"][:300]
    files = {"train-00000.parquet": rows[:5], "train-00001.parquet": rows[5:]}
    for name, part in files.items():
        pq.write_table(pa.Table.from_pylist(part, schema=SCHEMA), folder / name, row_group_size=1)
    write_manifest(folder, {"num_rows": {name: len(part) for name, part in files.items()}})
    return str(folder)


def to_row(index: int) -> dict[str, Any]:
    """A noisy image with a line in it as its object."""
    pixels, png = np.random.default_rng(index).integers(0, 256, (64, 64, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    mask = np.zeros((64, 64), bool)
    mask[20 + index : 26 + index, 5:60] = True
    return {
        "sample_id": f"sample{index}",
        "image": png.getvalue(),
        "height": 64,
        "width": 64,
        "objects": [{"phrase": "line", "rle": mask_to_rle(mask)}],
        "split": "train",
    }


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
        steps = list(stream_steps(prepared_uri, plan(rank, 2), CONFIG, processor))
        assert [[len(b) if b else 0 for b in step] for step in steps] == [
            plan(rank, 2).micro_batch_sizes(step) for step in range(plan(rank, 2).num_steps)
        ]
        seen += [sample_id for step in steps for batch in step if batch for sample_id in batch.sample_ids]
    samples = SampleIndex(prepared_uri, "train")
    assert sorted(seen) == sorted([samples[i]["sample_id"] for i in range(len(samples))] * 2)


def test_rows_are_those_of_one_process(prepared_uri, processor):
    samples, whole = SampleIndex(prepared_uri, "train"), plan(0, 1)
    config = CONFIG.model_copy(update={"skeleton_radius_px": 1})
    batch = next(stream_steps(prepared_uri, whole, config, processor))[1]
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


def test_an_epoch_that_goes_on_at_a_step_is_the_same_bit_by_bit(prepared_uri, processor, monkeypatch):
    monkeypatch.setattr(pipeline, "_ROWS_PER_EXECUTION", 6)  # three steps; the whole epoch takes two executions
    whole = list(stream_steps(prepared_uri, plan(1, 2), CONFIG, processor))
    resumed = list(stream_steps(prepared_uri, plan(1, 2), CONFIG, processor, start_step=2))
    assert len(whole) == 5
    assert len(resumed) == 3
    for steps in zip_longest(whole[2:], resumed):
        for one, other in zip_longest(*steps):
            assert (one is None) == (other is None)
            if one:
                assert_equal(one, other)


def test_a_broken_image_is_named_and_left_out(ray_cluster, damaged_uri, processor, caplog):
    config = CONFIG.model_copy(update={"skeleton_radius_px": 0})
    # In one repeat the broken sample shares a micro batch, in the other it is alone in one.
    plan = EpochPlan(9, 2, seed=4, epoch=0, global_batch_size=3, micro_batch_size=2, rank=0, world_size=1)
    with caplog.at_level(logging.WARNING, LOGGER.name):
        steps = list(stream_steps(damaged_uri, plan, config, processor))
    warnings = [record.message for record in caplog.records if record.name == LOGGER.name]
    assert warnings == ["sample sample4 is left out: OSError on decoding it"] * 2
    batches = [batch for step in steps for batch in step]
    assert sorted(len(batch) if batch else 0 for batch in batches) == [0, *[1] * 6, *[2] * 5]
    seen = sorted(sample_id for batch in batches if batch for sample_id in batch.sample_ids)
    assert seen == sorted(f"sample{index}" for index in range(9) for _ in range(2) if index != BROKEN)


def test_a_broken_mask_is_undecodable(processor):
    sample = to_row(0)
    sample["objects"][0]["rle"]["size"] = [64]
    with pytest.raises(Undecodable, match="Error"):
        preprocess(sample, CONFIG, processor, np.random.default_rng(0))


def test_samples_are_found_across_files(damaged_uri):
    samples = SampleIndex(damaged_uri, "train")
    assert [samples[index]["sample_id"] for index in range(len(samples))] == [f"sample{index}" for index in range(9)]


def test_few_files_are_open_at_a_time(damaged_uri, monkeypatch):
    monkeypatch.setattr(pipeline, "RUNS_PER_WINDOW", 1)
    opened: list[int] = []
    open_file = SampleIndex._open

    def count(self: SampleIndex, number: int) -> pq.ParquetFile:
        opened.append(number)
        return open_file(self, number)

    monkeypatch.setattr(SampleIndex, "_open", count)
    samples = SampleIndex(damaged_uri, "train")
    assert opened == []
    for index in (0, 1, 5, 6, 0):
        samples[index]
    assert opened == [0, 1, 0]


def test_a_sequence_is_refused_and_not_cut(processor):
    short = PipelineConfig(max_length=10)
    with pytest.raises(ValueError, match=r"tokens, pipeline\.max_length is 10"):
        preprocess(to_row(0), short, processor, np.random.default_rng(0))


def test_an_empty_split_is_an_error(damaged_uri):
    with pytest.raises(UserError, match="no samples in the split 'test'"):
        SampleIndex(damaged_uri, "test")
