"""Predicts masks for images on the whole cluster with Ray Data, and goes on where a former run was cut off.

```
files ─list─▶ items ─▶ what is missing ─read─▶ images ─actors─▶ predictions ─write─▶ pictures and parts ─▶ results
```
Images are read, and pictures written, by the workers; the machine that starts the job holds a row for each image.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from sa2va_ray import storage
from sa2va_ray.cluster.resources import check_paths, connect
from sa2va_ray.cluster.streams import IO_TASK, stream_tables
from sa2va_ray.config import UserError
from sa2va_ray.hub import is_on_hub
from sa2va_ray.predict.facts import ModelFacts, read_model_facts
from sa2va_ray.predict.job.batch import map_predictions
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.items import ImageItem
from sa2va_ray.predict.job.results import RESULT_SCHEMA, read_rows, replace_rows, write_results
from sa2va_ray.predict.job.sources import SourceFile, find_sources, takes
from sa2va_ray.predict.job.stages import list_images, name_of, read_rows_of, stem_of
from sa2va_ray.predict.job.write import mask_file, picture_files, write_block
from sa2va_ray.telemetry import LOGGER, Progress, configure_logging, log_result


def predict(config: PredictConfig) -> dict[str, int]:
    """Writes pictures and results to `config.out`, in the order in which the images are listed.

    Returns:
        counts: `images`, `predicted` (in this run, and well), `errors`, and `without_mask` (images without any [SEG]).

    Raises:
        UserError: model, images or storage do not work; a model that does not match its manifest.
    """
    configure_logging()
    model = read_model_facts(config.model)
    storage.check_writable(config.out)
    sources = find_sources(config.source, config.split)
    _check_out(config, sources)
    connect()
    local = None if is_on_hub(config.source) else config.source
    check_paths(config, model=config.model, source=local, out=config.out)
    items = _list(sources, config)
    finished = _finished_rows(items, model, config)
    missing = [item for item in items if _key(item, config) not in finished]
    LOGGER.info("predict: %d images, %d of them are done already", len(items), len(finished))
    replace_rows(config.out, list(finished.values()))
    _predict(missing, config)
    by_key = {(row["id"], row["name"]): row for row in read_rows(config.out)}
    rows = [by_key[_key(item, config)] for item in items]
    write_results(config.out, rows)
    counts = _summarize(rows, len(finished), config)
    log_result(config.out, "jobs.evaluate", f"model={config.model}", "data_uri=DATA", "out=EVALUATION")
    return counts


def _check_out(config: PredictConfig, sources: Sequence[SourceFile]) -> None:
    storage.check_outside(config.out, {"source": config.source, "model": config.model})
    if takes(config.source, storage.join(config.out, "masks", "0.png")):
        raise UserError(
            "`out` lies within `source`, so that the next start would predict masks of masks. Choose one beside it."
        )
    if any(file.uri.startswith(f"{config.out}/") for file in sources):
        raise UserError("`source` has images in `out`, which is for what this job writes. Choose a folder beside it.")


def _list(sources: Sequence[SourceFile], config: PredictConfig) -> list[ImageItem]:
    """All images, each once."""
    items = list_images(sources)
    unique = {_key(item, config): item for item in reversed(items)}
    if len(unique) < len(items):
        LOGGER.info("predict: %d files repeat others byte for byte; they share a row", len(items) - len(unique))
    items = [item for item in items if unique[_key(item, config)] is item]
    _check_stems(items, config)
    return items


def _check_stems(items: Sequence[ImageItem], config: PredictConfig) -> None:
    clashes = len(items) - len({stem_of(item, config) for item in items})
    if clashes:
        raise UserError(
            f"{clashes} of {len(items)} images have the same name as another but for the suffix, and would write the "
            "same mask file. Give a glob that takes one kind (*.jpg), or leave keep_names out."
        )


def _finished_rows(
    items: Sequence[ImageItem], model: ModelFacts, config: PredictConfig
) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Rows of a former run that this one would write again as they are: same image, model, question and masks, and
    of no version that told less of an image."""
    files = storage.list_files(config.out)
    common = {
        "model_sha256": model.sha256,
        "prompt": config.prompt,
        "error": None,
        **config.columns(model.threshold, model.cleanup),
    }
    expected = {
        _key(item, config): common | {"source_sha256": item.source_sha256, "mask": mask_file(stem_of(item, config))}
        for item in items
        if files.keys() >= set(picture_files(stem_of(item, config), config))
    }
    rows = {(row["id"], row["name"]): row for row in read_rows(config.out)}
    return {
        key: row
        for key, row in rows.items()
        if key in expected and row.items() >= expected[key].items() and set(RESULT_SCHEMA.names) <= row.keys()
    }


def _predict(items: Sequence[ImageItem], config: PredictConfig) -> None:
    if not items:
        return
    predicted = map_predictions(read_rows_of(items, config), config.model, config, config)
    written = predicted.map_batches(partial(write_block, config=config), **IO_TASK)
    done = errors = 0
    with Progress("predict", len(items)) as progress:
        for block in stream_tables(written):
            done += len(block)
            errors += len(block) - block["error"].null_count
            progress.at(done, f"{errors} errors" if errors else "")


def _summarize(rows: Sequence[dict[str, Any]], num_finished: int, config: PredictConfig) -> dict[str, int]:
    num_errors = sum(row["error"] is not None for row in rows)
    counts = {
        "images": len(rows),
        "predicted": len(rows) - num_finished - num_errors,
        "errors": num_errors,
        "without_mask": sum(row["num_masks"] == 0 for row in rows),
    }
    if num_errors:
        kinds = Counter(row["error"].partition(":")[0] for row in rows if row["error"] is not None)
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        LOGGER.warning("images with an error: %s; what it means stands in results.json", told)
    LOGGER.info("predicted: %s in %s", ", ".join(f"{count} {what}" for what, count in counts.items()), config.out)
    return counts


def _key(item: ImageItem, config: PredictConfig) -> tuple[str, str | None]:
    """Id and name of the item's row in the results, which together are unique."""
    return item.id, name_of(item, config)
