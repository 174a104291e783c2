"""The prepare job: source folder in, prepared data set out."""

import math
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from sa2va_ray import __version__, storage
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SCHEMA, SPLITS
from sa2va_ray.manifest import write_manifest
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.pseudonyms import Identity, Pseudonyms, read_key
from sa2va_ray.prepare.records import Quarantined, Record, Rejected
from sa2va_ray.prepare.sources import Source, read_source
from sa2va_ray.prepare.split import check_splits, split_of
from sa2va_ray.prepare.validate import encode_sample, find_duplicates
from sa2va_ray.prepare.write import Counts, SampleWriter, check_replaceable, publish, write_quarantine
from sa2va_ray.telemetry import LOGGER, configure_logging, log_progress

_ROWS_PER_BLOCK = 8  # small enough to keep all cores busy to the end, large enough that a Ray task is worth its start
_NUM_PROGRESS_LINES = 20

_OUTCOME_SCHEMA = pa.schema([*SCHEMA, ("index", pa.int64()), ("code", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class _Task:
    record: Record
    identity: Identity
    split: str


def prepare(config: PrepareConfig) -> str:
    """Runs the job and returns the `data_sha256` of the data set.

    Raises:
        UserError: a source or `out` that cannot be used (found before Ray is started), too many samples in quarantine
            or nothing to train on (then nothing is written).
    """
    configure_logging()
    source = read_source(config.source, config.phrase)
    check_replaceable(config.out)
    storage.check_writable(config.out)
    tasks, quarantined = _plan(source, config)
    with tempfile.TemporaryDirectory(prefix="sa2va-prepare-") as name:
        folder = Path(name)
        counts, rejected = _write_samples(tasks, folder)
        quarantined += rejected
        _check_quarantined(quarantined, source.num_items, config.max_quarantined_fraction)
        check_splits(counts)
        write_quarantine(folder, quarantined)
        data_sha256 = write_manifest(folder, _facts(config, source, counts, len(quarantined)))
        publish(folder, config.out)
    for split in SPLITS:
        LOGGER.info("%s: %s", split, ", ".join(f"{count} {what}" for what, count in counts[split].items()))
    LOGGER.info("prepared data set written, data_sha256 %s", data_sha256)
    return data_sha256


def _plan(source: Source, config: PrepareConfig) -> tuple[list[_Task], list[Quarantined]]:
    """Identities and splits come from names alone. The tasks are sorted here, by split and sample_id, because that is
    the order in which samples are written, and sorting them later would move the images."""
    pseudonyms = Pseudonyms(read_key(), config.patient_pattern)
    duplicates = find_duplicates(source.records)
    tasks, quarantined = [], list(source.quarantined)
    for record in source.records:
        try:
            if record.index in duplicates:
                raise Rejected("path_twice", "Several items name this image; which is right is unknown. Keep one.")
            identity = pseudonyms.identify(record.name)
        except Rejected as rejected:
            quarantined.append(rejected.to_quarantined(record.index))
            continue
        split = split_of(identity.patient_id, config.split_seed, config.val_fraction, config.test_fraction)
        tasks.append(_Task(record, identity, split))
    tasks.sort(key=lambda task: (SPLITS.index(task.split), task.identity.sample_id))
    return tasks, quarantined


def _write_samples(tasks: Sequence[_Task], folder: Path) -> tuple[Counts, list[Quarantined]]:
    """Writes the good samples to `folder`; returns counts by split, and what the images were rejected for."""
    every = math.ceil(len(tasks) / _NUM_PROGRESS_LINES)
    quarantined = []
    with SampleWriter(folder) as writer:
        for done, outcome in enumerate(_encode_all(tasks), start=1):
            if outcome["code"][0].is_valid:
                columns = outcome.select(["index", "code", "reason"])
                quarantined.append(Quarantined(**columns.to_pylist()[0]))
            else:
                writer.write(outcome.select(SCHEMA.names).cast(SCHEMA))
            if done % every == 0 or done == len(tasks):
                log_progress("prepare", done, len(tasks))
    return writer.counts(), quarantined


def _encode_all(tasks: Sequence[_Task]) -> Iterator[pa.Table]:
    """Reads, checks and encodes on the whole cluster; yields an outcome of one row for each task, in their order."""
    if not tasks:
        return
    if not ray.is_initialized():
        ray.init()
    # Pickled, because Ray Data repeats the values of a column that it cannot convert in its log, and these hold names.
    items = [{"task": pickle.dumps(task)} for task in tasks]
    rows = ray.data.from_items(items, override_num_blocks=math.ceil(len(items) / _ROWS_PER_BLOCK))
    dataset = rows.map_batches(_encode_batch, batch_format="pyarrow", batch_size=None)
    dataset.context.execution_options.preserve_order = True
    dataset.context.enable_progress_bars = False  # `log_progress` tells more in the log of a job
    batches: Iterable[pa.Table] = dataset.iter_batches(batch_format="pyarrow", batch_size=None)
    for batch in batches:
        for row in range(batch.num_rows):
            yield batch.slice(row, 1)


def _encode_batch(batch: pa.Table) -> pa.Table:
    outcomes = [_encode(pickle.loads(task)) for task in batch["task"].to_pylist()]
    return pa.Table.from_pylist(outcomes, schema=_OUTCOME_SCHEMA)


def _encode(task: _Task) -> dict[str, Any]:
    """A row of `_OUTCOME_SCHEMA`: a sample, or the reason of its rejection, the other columns missing."""
    try:
        return {**asdict(task.identity), "split": task.split, **encode_sample(task.record)}
    except Rejected as rejected:
        return asdict(rejected.to_quarantined(task.record.index))


def _check_quarantined(quarantined: Sequence[Quarantined], num_items: int, max_fraction: float) -> None:
    if not quarantined:
        return
    by_code = ", ".join(f"{code} {count}" for code, count in Counter(each.code for each in quarantined).most_common())
    if len(quarantined) <= max_fraction * num_items:
        LOGGER.warning("%d of %d samples quarantined: %s", len(quarantined), num_items, by_code)
        return
    examples = {each.code: f"\n  item {each.index}: {each.reason}" for each in quarantined}
    raise UserError(
        f"{len(quarantined)} of {num_items} samples cannot be used ({by_code}); max_quarantined_fraction allows "
        f"{max_fraction:.1%}. Nothing was written. Mend the source, or raise max_quarantined_fraction. "
        f"An example of each reason, items counted from 0:{''.join(examples.values())}"
    )


def _facts(config: PrepareConfig, source: Source, counts: Counts, num_quarantined: int) -> dict[str, Any]:
    return {
        "counts": counts,
        "num_quarantined": num_quarantined,
        "split_seed": config.split_seed,
        "val_fraction": config.val_fraction,
        "test_fraction": config.test_fraction,
        "source_layout": source.layout,
        "version": __version__,
    }
