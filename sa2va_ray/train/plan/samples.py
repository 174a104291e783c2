"""The largest sample of a run: what its memory is planned for."""

from collections.abc import Iterable, Mapping
from functools import cache, partial
from typing import Any

from sa2va_ray.data.augment import AugmentConfig, possible_sizes
from sa2va_ray.data.conversation import possible_answers, possible_questions
from sa2va_ray.data.sample_kinds import SampleKind, read_kinds
from sa2va_ray.models.sa2va.configuration_sa2va import Sa2VAConfig
from sa2va_ray.models.sa2va.processing_sa2va import Sa2VAProcessor
from sa2va_ray.train.config import TrainConfig
from sa2va_ray.train.plan.activations import SampleSize


def largest_of_data_set(
    data_manifest: Mapping[str, Any], processor: Sa2VAProcessor, config: TrainConfig
) -> SampleSize | None:
    """The largest sample of the training split, and of the validation split where the run validates. None where the
    data set was prepared by an older version, which did not list what its samples are like."""
    augments = {"train": config.pipeline.augment}
    if config.validation.every_steps:
        augments["val"] = AugmentConfig.off()
    largest = []
    for split, augment in augments.items():
        kinds = read_kinds(data_manifest, split)
        if kinds is None:
            return None
        largest.append(largest_sample(kinds, processor, augment))
    return _joined(largest)


def largest_sample(kinds: Iterable[SampleKind], processor: Sa2VAProcessor, augment: AugmentConfig) -> SampleSize:
    """The most tokens, tiles and objects that `preprocess` can make of samples of these kinds, whatever it draws."""
    tokens_of_turn = cache(partial(_most_tokens_of_turn, processor))
    most_tiles = cache(partial(_most_tiles, processor, augment))

    def size_of(kind: SampleKind) -> SampleSize:
        num_tiles = most_tiles(kind.height, kind.width)
        turns = [(phrase, min(number, 1), not kind.is_negative) for number, phrase in enumerate(kind.phrases)]
        text = sum(tokens_of_turn(*turn) for turn in turns)
        # Where there is no [SEG], the model decodes one object that stands for nothing.
        num_objects = 1 if kind.is_negative else len(kind.phrases)
        return SampleSize(num_tiles * processor.config.tokens_per_tile + text, num_tiles, num_objects)

    return _joined([size_of(kind) for kind in kinds])


def configured_maximum(architecture: Sa2VAConfig, config: TrainConfig) -> SampleSize:
    """The longest sequence that `pipeline.max_length` lets through, with as many tiles as it has room for."""
    num_tokens = config.pipeline.max_length
    most = _with_thumbnail(architecture.max_dynamic_patch, architecture)
    return SampleSize(num_tokens, num_tiles=max(1, min(most, num_tokens // architecture.tokens_per_tile)))


def _joined(sizes: list[SampleSize]) -> SampleSize:
    """The largest of each number: samples of one micro batch may be the largest in different ways."""
    return SampleSize(
        num_tokens=max(size.num_tokens for size in sizes),
        num_tiles=max(size.num_tiles for size in sizes),
        num_objects=max(size.num_objects for size in sizes),
    )


def _most_tokens_of_turn(processor: Sa2VAProcessor, phrase: str, number: int, is_there: bool) -> int:
    """Tokens of the longest question about a phrase and of the longest answer, those of the image's tiles not counted.

    Args:
        number: 0 for a sample's first phrase, whose question holds the image; else 1.
        is_there: whether the phrase's object is on the image.
    """
    num_tiles = 1 - number

    def num_tokens(question: str, answer: str) -> int:
        return len(processor.training_ids([(question, answer)], num_tiles)[0])

    longest = max(possible_questions(phrase, number), key=lambda question: num_tokens(question, ""))
    answers = possible_answers(phrase, is_there)
    return max(num_tokens(longest, answer) for answer in answers) - num_tiles * processor.config.tokens_per_tile


def _most_tiles(processor: Sa2VAProcessor, augment: AugmentConfig, height: int, width: int) -> int:
    """Tiles of an image of H x W pixels, whichever way it is turned."""
    grids = [processor.tile_grid(w, h) for h, w in possible_sizes(height, width, augment)]
    return _with_thumbnail(max(columns * rows for columns, rows in grids), processor.config)


def _with_thumbnail(num_tiles: int, architecture: Sa2VAConfig) -> int:
    return num_tiles + (1 if architecture.use_thumbnail and num_tiles > 1 else 0)
