"""The largest sample that is planned for, against the samples that `preprocess` makes."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sa2va_ray.data.augment import AugmentConfig
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.data.pipeline import preprocess
from sa2va_ray.data.sample_kinds import KINDS, SampleKind, distinct_kinds
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.models.build import random_architecture
from sa2va_ray.models.loading.source_folder import read_source_folder
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.activations import SampleSize
from sa2va_ray.train.plan.samples import configured_maximum, largest_of_data_set, largest_sample

ROOT = Path(__file__).parents[3]
PHRASES = ("blood vessels", "Left Anterior Descending Artery.", "vein", "É. coli <image> [SEG]", "optic disc")
SIZES = ((64, 64), (40, 120), (130, 60), (50, 75), (40, 100))
NO_AUGMENT = AugmentConfig.off()


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig.load(
        [str(ROOT / "jobs/configs/demo.yaml"), "model.architecture.max_dynamic_patch=6", "validation.every_steps=0"]
    )


@pytest.fixture(scope="module")
def processor(config):
    return Sa2VAProcessor(*random_architecture(config.model.architecture))


def mixed_kinds(seed: int) -> list[SampleKind]:
    """Eight kinds of one to four objects."""
    random = np.random.default_rng(seed)
    kinds = []
    for _ in range(8):
        phrases = random.choice(PHRASES, random.integers(1, 5), replace=False)
        kinds.append(SampleKind(*SIZES[random.integers(len(SIZES))], tuple(map(str, phrases))))
    return kinds


def to_sample(kind: SampleKind) -> dict[str, Any]:
    png, mask = io.BytesIO(), np.full((kind.height, kind.width), not kind.is_negative)
    Image.new("RGB", (kind.width, kind.height)).save(png, "PNG")
    objects = [{"phrase": phrase, "rle": mask_to_rle(mask)} for phrase in kind.phrases]
    return {"sample_id": "s", "image": png.getvalue(), "objects": objects, "ignored": None}


def made(kinds, processor, augment, num_draws: int, seed: int) -> SampleSize:
    """The largest of what `preprocess` makes of these kinds when each is drawn so often."""
    pipeline, random = PipelineConfig(augment=augment), np.random.default_rng(seed)
    rows = [
        preprocess(sample, pipeline, processor, random) for sample in map(to_sample, kinds) for _ in range(num_draws)
    ]
    return SampleSize(
        num_tokens=max(len(row["input_ids"]) for row in rows),
        num_tiles=max(len(row["pixel_values"]) for row in rows),
        num_objects=max(len(row["masks"]) for row in rows),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("augment", [NO_AUGMENT, AugmentConfig()], ids=["plain", "augmented"])
def test_no_sample_is_larger_than_planned_and_the_longest_is_close(processor, seed, augment):
    kinds = mixed_kinds(seed)
    planned = largest_sample(distinct_kinds(kinds), processor, augment)
    largest = made(kinds, processor, augment, num_draws=40, seed=seed)
    assert (largest.num_tiles, largest.num_objects) == (planned.num_tiles, planned.num_objects)
    assert largest.num_tokens <= planned.num_tokens <= max(1.1 * largest.num_tokens, largest.num_tokens + 16)


def test_the_plan_is_of_the_tokenizer_and_tiles_of_a_base():
    """Upstream's own: up to twelve tiles and a thumbnail, and so few merges that the text is most of the sequence."""
    base = read_source_folder(ROOT / "tests/fixtures/parity_a", "parity_a", None)
    processor, kinds = Sa2VAProcessor(base.config, base.tokenizer), mixed_kinds(seed=0)
    planned = largest_sample(distinct_kinds(kinds), processor, NO_AUGMENT)
    largest = made(kinds, processor, NO_AUGMENT, num_draws=40, seed=0)
    assert (largest.num_tiles, largest.num_objects) == (planned.num_tiles, planned.num_objects)
    assert 0.8 * planned.num_tokens < largest.num_tokens <= planned.num_tokens


def test_the_longest_question_and_answer_are_what_is_planned_for(processor):
    kind = SampleKind(64, 64, ("vein",))
    longest = made([kind], processor, NO_AUGMENT, num_draws=600, seed=0)
    assert largest_sample([kind], processor, NO_AUGMENT) == longest


def test_an_image_without_the_object_is_planned_by_its_own_answers(processor):
    """Which are longer than [SEG]; the model decodes one object all the same."""
    kind = SampleKind(64, 64, ("vein",), is_negative=True)
    longest, planned = made([kind], processor, NO_AUGMENT, 600, seed=0), largest_sample([kind], processor, NO_AUGMENT)
    assert planned == replace(longest, num_objects=1)
    assert longest.num_objects == 0


def test_an_image_may_be_turned_into_one_of_more_tiles(processor):
    """An aspect ratio of 2.5 is as near to 2 x 1 tiles as to 3 x 1; one of 0.4 is nearer to 1 x 3 than to 1 x 2."""
    kind, still = SampleKind(40, 100, ("vein",)), AugmentConfig(turn_probability=0.0)
    assert largest_sample([kind], processor, still).num_tiles == 2 + 1
    assert largest_sample([kind], processor, AugmentConfig()).num_tiles == 3 + 1


def test_the_validation_split_counts_where_the_run_validates(processor, config):
    small, large = SampleKind(64, 64, ("vein",)), SampleKind(64, 64, ("vein", "artery"))
    listed, counts = {"train": [small], "val": [large]}, {key: {"samples": 1} for key in ("train", "val")}
    kinds = {split: [kind._asdict() for kind in of_split] for split, of_split in listed.items()}
    manifest = json.loads(json.dumps({KINDS: kinds, "counts": counts}))
    on = config.model_copy(update={"validation": config.validation.model_copy(update={"every_steps": 5})})
    assert largest_of_data_set(manifest, processor, config) == largest_sample([small], processor, NO_AUGMENT)
    assert largest_of_data_set(manifest, processor, on) == largest_sample([large], processor, NO_AUGMENT)
    assert largest_of_data_set({"counts": {}}, processor, config) is None


def test_what_the_config_lets_through_has_the_tiles_that_there_is_room_for(processor, config):
    def at(max_length: int) -> int:
        pipeline = config.pipeline.model_copy(update={"max_length": max_length})
        return configured_maximum(processor.config, config.model_copy(update={"pipeline": pipeline})).num_tiles

    per_tile = processor.config.tokens_per_tile
    assert [at(tokens) for tokens in (per_tile // 2, 3 * per_tile, 4096)] == [1, 3, 7]
