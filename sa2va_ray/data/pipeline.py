"""The Ray Data pipeline that feeds one training rank.

```
positions of the rank ──Ray Data──▶ read one row ─▶ decode ─▶ augment ─▶ preprocess ──▶ rows ─▶ collate ─▶ Batch
(EpochPlan)                         └────────────── one CPU actor ───────────────┘
```

Only positions travel to the actors, and each actor reads the Parquet row that it needs, so the order is exactly the
plan's, on any number of machines, and a run can go on at any step.
"""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
import ray
from PIL import Image
from ray.data._internal.execution.execution_callback import ExecutionCallback
from torch import Tensor

from sa2va_ray import storage
from sa2va_ray.config import Config, UserError
from sa2va_ray.data.augment import AugmentConfig, augment
from sa2va_ray.data.batch import Batch, collate
from sa2va_ray.data.conversation import training_turns
from sa2va_ray.data.order import EpochPlan
from sa2va_ray.data.sample import decode_image, object_masks

_SCHEDULER_PAUSE_S = 0.02
_ROWS_PER_BLOCK = 8  # the unit in which Ray Data schedules; one row of 1024 px is about 5 MB


class _PacedExecution(ExecutionCallback):
    """A pause in each round of Ray Data's scheduler, which runs in this process.

    Without one it spins while the pipeline is ahead of its consumer, as it should be all the time: the scheduler then
    held Python's lock for three quarters of the time, and training steps on two cores took 2.3 times as long.
    """

    def on_execution_step(self, executor: object) -> None:
        time.sleep(_SCHEDULER_PAUSE_S)


class Processor(Protocol):
    """What the pipeline needs of `Sa2VAProcessor`."""

    def image_tiles(self, image: Image.Image) -> Tensor: ...

    def grounding_image(self, image: Image.Image) -> Tensor: ...

    def training_ids(self, turns: Sequence[tuple[str, str]], num_tiles: int) -> tuple[list[int], list[int]]: ...


class PipelineConfig(Config):
    """Resources of the pipeline of one rank, and how samples are varied."""

    augment: AugmentConfig = AugmentConfig()
    actors_per_rank: int = 2
    """CPU actors that read, decode, augment and preprocess for one rank."""
    cpus_per_actor: float = 1.0
    max_length: int = 4096
    """Longest sequence in tokens; a longer sample is an error, never cut."""


class SampleIndex:
    """Random access to the rows of one split of a prepared data set.

    Its Parquet files hold one row per row group, so that reading a row is one range read.

    Raises:
        UserError: the split has no samples.
    """

    def __init__(self, data_uri: str, split: str):
        names = sorted(n for n in storage.list_files(data_uri) if n.startswith(f"{split}-") and n.endswith(".parquet"))
        if not names:
            raise UserError(f"{data_uri} has no samples in the split '{split}'. Prepare it with another split_seed.")
        self._uris = [storage.join(data_uri, name) for name in names]
        self._files: dict[int, pq.ParquetFile] = {}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = 0 if number == 0 else int(self._ends[number - 1])
        return self._file(number).read_row_group(index - first).to_pylist()[0]

    @cached_property
    def _ends(self) -> np.ndarray:
        """(files,) number of samples up to and with each file."""
        return np.cumsum([self._file(number).num_row_groups for number in range(len(self._uris))])

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._files:
            filesystem, path = storage.resolve(self._uris[number])
            self._files[number] = pq.ParquetFile(filesystem.open_input_file(path))
        return self._files[number]


class ReadAndPreprocess:
    """Actor: positions of an epoch -> rows ready for `collate`.

    In: `{"position": (R,), "index": (R,)}` int64. Out, a row each: `input_ids`, `labels` (L,); `pixel_values`
    (T, 3, S, S) float32; `grounding_pixel_values` (3, G, G) uint8; `masks` (N, H, W) bool; `sample_id`.
    """

    def __init__(self, data_uri: str, config: PipelineConfig, processor: Processor, seed: int, epoch: int):
        self._samples = SampleIndex(data_uri, "train")
        self._config = config
        self._processor = processor
        self._seed = (seed, epoch)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        random = np.random.default_rng([*self._seed, int(row["position"])])
        return preprocess(self._samples[int(row["index"])], self._config, self._processor, random)


def preprocess(
    sample: dict[str, Any], config: PipelineConfig, processor: Processor, random: np.random.Generator
) -> dict[str, Any]:
    """One sample, augmented and made ready for the model.

    Raises:
        ValueError: the sequence is longer than `max_length`.
    """
    image, masks = augment(np.asarray(decode_image(sample)), object_masks(sample), config.augment, random)
    picture = Image.fromarray(image)
    tiles = processor.image_tiles(picture)
    turns = training_turns([each["phrase"] for each in sample["objects"]], random)
    input_ids, labels = processor.training_ids(turns, len(tiles))
    if len(input_ids) > config.max_length:
        raise ValueError(
            f"Sample {sample['sample_id']} has {len(input_ids)} tokens, pipeline.max_length is {config.max_length}. "
            "Raise it, or lower model.architecture.max_dynamic_patch: a sequence is not cut, since that loses masks."
        )
    return {
        "input_ids": np.array(input_ids),
        "labels": np.array(labels),
        "pixel_values": tiles.numpy(),
        "grounding_pixel_values": processor.grounding_image(picture).numpy(),
        "masks": masks,
        "sample_id": sample["sample_id"],
    }


def stream_steps(
    data_uri: str, plan: EpochPlan, config: PipelineConfig, processor: Processor
) -> Iterator[list[Batch | None]]:
    """One list per step of the epoch: this rank's micro batches, None where it has no sample left for one."""
    order, steps = plan.order(), range(plan.num_steps)
    positions = np.concatenate([plan.positions(step) for step in steps])
    rows = iter(_read(data_uri, positions, order[positions], plan, config, processor))
    for step in steps:
        yield [collate([next(rows) for _ in range(size)]) if size else None for size in plan.micro_batch_sizes(step)]


def _read(
    data_uri: str,
    positions: np.ndarray,
    indices: np.ndarray,
    plan: EpochPlan,
    config: PipelineConfig,
    processor: Processor,
) -> Iterator[dict[str, Any]]:
    """Rows of `ReadAndPreprocess` in the order of `positions`."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False  # the run has one of its own
    context.custom_execution_callback_classes = [_PacedExecution]
    items = [{"position": int(p), "index": int(i)} for p, i in zip(positions, indices, strict=True)]
    dataset = ray.data.from_items(items, override_num_blocks=-(-len(items) // _ROWS_PER_BLOCK)).map(
        ReadAndPreprocess,  # type: ignore[arg-type]  # Ray's annotation leaves callable classes out
        fn_constructor_args=(data_uri, config, processor, plan.seed, plan.epoch),
        compute=ray.data.ActorPoolStrategy(size=config.actors_per_rank),
        num_cpus=config.cpus_per_actor,
    )
    dataset.set_name(f"train_epoch_{plan.epoch}_rank_{plan.rank}")
    yield from dataset.iter_rows()
