"""The Ray Data pipeline that feeds one training rank.

```
positions of the rank ──Ray Data──▶ read rows ──▶ decode ─▶ augment ─▶ preprocess ──▶ rows ─▶ collate ─▶ Batch
(EpochPlan)                         └────────────── one CPU actor ───────────────┘
```

Only positions travel to the actors, and each actor reads the Parquet rows that it needs, so the order is exactly the
plan's, on any number of machines, and a run can go on at any step. The last step of an epoch is shorter where
`global_batch_size` does not divide the epoch: nothing is dropped or repeated to fill it. One epoch follows the other
without a pause, since they share their actors, which take seconds to start.

Memory: a row is its pixels in uint8, 0.6 MB for each tile of 448 px and 3.1 MB for SAM 2's 1024 px, and a bit per pixel
of each mask: 4 MB with one tile. However slow training is, a rank's rows in the object store are bounded by
`object_store_mib` and the `_ROWS_PER_TASK` rows that each actor is about to hand over. Measured on 2,000 images with
two actors (`benchmarks.data`): at most 231 MiB with the default of 192, nothing spilled, 0.9 GiB an actor.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from typing import Any, Protocol

import cv2
import numpy as np
import ray
import torch
from PIL import Image
from ray.data import ExecutionResources
from ray.data._internal.execution.execution_callback import ExecutionCallback
from torch import Tensor

from sa2va_ray.cluster.streams import user_errors
from sa2va_ray.config import UserError
from sa2va_ray.data.augment import augment
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.config import PipelineConfig
from sa2va_ray.data.conversation import training_turns
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.sample import decode_image, ignored_mask, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.skeleton import tubed_skeleton
from sa2va_ray.telemetry import LOGGER

_SCHEDULER_PAUSE_S = 0.02
_ROWS_PER_TASK = 8  # enough to make the cost of a Ray task small, few enough to keep memory and the first wait short
_ROWS_PER_EXECUTION = 32_768  # Ray Data lists all tasks before it starts, at 2 ms a task on a busy machine
_NOTHING = {  # in place of a sample that cannot be decoded
    "input_ids": np.zeros(0, np.int64),
    "labels": np.zeros(0, np.int64),
    "pixel_values": np.zeros((0, 3, 0, 0), np.uint8),
    "grounding_pixel_values": np.zeros((3, 0, 0), np.uint8),
    "masks": np.zeros((0, 0, 0), bool),
    "ignored": np.zeros((0, 0, 0), bool),
}


class _PacedExecution(ExecutionCallback):
    """A pause in each round of Ray Data's scheduler, which runs in this process.

    Without one it spins while the pipeline is ahead of its consumer, as it should be all the time: the scheduler then
    held Python's lock for three quarters of the time, and training steps on two cores took 2.3 times as long.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(_SCHEDULER_PAUSE_S)


class Processor(Protocol):
    """What the pipeline needs of `Sa2VAProcessor`."""

    def tile_pixels(self, image: Image.Image) -> Tensor: ...

    def grounding_image(self, image: Image.Image) -> Tensor: ...

    def training_ids(self, turns: Sequence[tuple[str, str]], num_tiles: int) -> tuple[list[int], list[int]]: ...


class ReadAndPreprocess:
    """Actor: positions of epochs -> rows ready for `collate`.

    In: `{"epoch": (R,), "position": (R,), "sample": (R,)}` int64. Out: R rows of `preprocess`, and `error`: "", or the
    name of the error's class where a sample cannot be decoded; there the arrays are empty.
    """

    def __init__(self, data_uri: str, data_sha256: str, config: PipelineConfig, processor: Processor, seed: int):
        # An actor is one core's worth; threads of several would wait for one another.
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
        # An actor that is started in place of a lost one, or for the next execution, would mix it with what was there.
        self._samples = SampleIndex(data_uri, "train", data_sha256)
        self._config = config
        self._processor = processor
        self._seed = seed

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        rows = list(map(self._row, batch["epoch"], batch["position"], self._samples.read(batch["sample"])))
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _row(self, epoch: int, position: int, sample: dict[str, Any]) -> dict[str, Any]:
        random = np.random.default_rng([self._seed, epoch, position])
        try:
            row = preprocess(sample, self._config, self._processor, random)
        except Undecodable as undecodable:
            nothing = _NOTHING | ({} if self._config.skeleton_radius_px is None else {"skeletons": _NOTHING["masks"]})
            return {**nothing, "sample_id": sample["sample_id"], "error": undecodable.error_class}
        return {**row, "error": ""}


class Undecodable(Exception):
    """The image or a mask of a sample is broken. `error_class`: what its decoder raised."""

    def __init__(self, error_class: str):
        super().__init__(error_class)
        self.error_class = error_class


def preprocess(
    sample: dict[str, Any], config: PipelineConfig, processor: Processor, random: np.random.Generator
) -> dict[str, Any]:
    """One sample, augmented and made ready for the model.

    Returns:
        `input_ids`, `labels` (L,) int64; `pixel_values` (T, 3, S, S) uint8; `grounding_pixel_values` (3, G, G) uint8;
        `masks` (N, H, W) bool, of the N objects that are on the image; `skeletons`, the same, if the config asks for
        them; `ignored` (1, H, W) bool, or (0, H, W) where all pixels count; `sample_id`.

    Raises:
        Undecodable: the image or a mask is broken.
        UserError: the sequence is longer than `max_length`.
    """
    stored, truths, ignored = _decode(sample)
    is_there = np.array([mask.any() for mask in truths])
    image, moved = augment(stored, np.concatenate([truths, ignored]), config.augment, random)
    masks = moved[: len(truths)][is_there]
    picture = Image.fromarray(image)
    tiles = processor.tile_pixels(picture)
    phrases = [each["phrase"] for each in sample["objects"]]
    turns = training_turns(zip(phrases, is_there.tolist(), strict=True), random)
    input_ids, labels = processor.training_ids(turns, len(tiles))
    if len(input_ids) > config.max_length:
        raise UserError(
            f"Sample {sample['sample_id']} has {len(input_ids)} tokens, pipeline.max_length is {config.max_length}. "
            "Raise it, or lower model.architecture.max_dynamic_patch: a sequence is not cut, since that loses masks."
        )
    row = {
        "input_ids": np.array(input_ids),
        "labels": np.array(labels),
        "pixel_values": tiles.numpy(),
        "grounding_pixel_values": processor.grounding_image(picture).numpy(),
        "masks": masks,
        "ignored": moved[len(truths) :],
        "sample_id": sample["sample_id"],
    }
    if config.skeleton_radius_px is not None:
        skeletons = [tubed_skeleton(mask, config.skeleton_radius_px) for mask in masks]
        row["skeletons"] = np.array(skeletons, bool).reshape(masks.shape)
    return row


def _decode(sample: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 image, (N, H, W) bool masks, (1, H, W) bool of what is ignored or (0, H, W) for nothing."""
    try:
        masks, ignored = object_masks(sample), ignored_mask(sample)
        return np.asarray(decode_image(sample)), masks, masks[:0] if ignored is None else ignored[None]
    except Exception as error:  # decoders have a dozen unrelated classes for broken data
        raise Undecodable(type(error).__name__) from None


def stream_steps(
    data_uri: str, plans: Sequence[EpochPlan], config: PipelineConfig, processor: Processor, start_step: int = 0
) -> Iterator[list[Batch | None]]:
    """One list per step of these epochs, from `start_step` of the first on: this rank's micro batches, None where it
    has no sample left for one.

    A sample that cannot be decoded is logged and missing in its batch, which is None if it was the only one. What all
    ranks miss of a step is `plan.step_size(step)` less the samples that they got; the training loop holds the sum
    against `max_bad_samples`.

    Args:
        plans: of one rank and one seed, in the order of their epochs.

    Raises:
        UserError: the data set was damaged or written anew meanwhile.
    """
    data_sha256 = SampleIndex(data_uri, "train").data_sha256
    steps = islice(_steps(plans), start_step, None)
    steps_per_execution = max(1, _ROWS_PER_EXECUTION * plans[0].world_size // plans[0].global_batch_size)
    while execution := list(islice(steps, steps_per_execution)):
        rows = _read(data_uri, data_sha256, execution, config, processor)
        for plan, step in execution:
            yield [_collate_good([next(rows) for _ in range(size)]) for size in plan.micro_batch_sizes(step)]


Step = tuple[EpochPlan, int]
"""An epoch, and the number of a step in it."""


def _steps(plans: Sequence[EpochPlan]) -> Iterator[Step]:
    return ((plan, step) for plan in plans for step in range(plan.num_steps))


def _collate_good(rows: Sequence[dict[str, Any]]) -> Batch | None:
    for row in rows:
        if row["error"]:
            LOGGER.warning("sample %s is left out: %s on decoding it", row["sample_id"], row["error"])
    good = [row for row in rows if not row["error"]]
    return collate(good) if good else None


def _read(
    data_uri: str, data_sha256: str, steps: Sequence[Step], config: PipelineConfig, processor: Processor
) -> Iterator[dict[str, Any]]:
    """Rows of `ReadAndPreprocess` in the order of `steps`."""
    items = list(_items(steps))
    rank, seed = steps[0][0].rank, steps[0][0].seed
    dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // _ROWS_PER_TASK)).map_batches(
        ReadAndPreprocess,
        fn_constructor_args=(data_uri, data_sha256, config, processor, seed),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=config.actors_per_rank),
        num_cpus=config.cpus_per_actor,
    )
    context = dataset.context
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=config.object_store_mib * 2**20)
    context.custom_execution_callback_classes = [_PacedExecution]
    dataset.set_name(f"train_rank_{rank}")
    with user_errors(dataset):
        yield from dataset.iter_rows()


def _items(steps: Sequence[Step]) -> Iterator[dict[str, int]]:
    """What `ReadAndPreprocess` takes, for each sample of `steps`."""
    for plan, of_epoch in groupby(steps, key=lambda each: each[0]):
        positions = np.concatenate([plan.positions(step) for _, step in of_epoch])
        for position, sample in zip(positions.tolist(), plan.samples(positions).tolist(), strict=True):
            yield {"epoch": plan.epoch, "position": position, "sample": sample}
