"""The workers' last step: pictures and a part of the results for a block of predictions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from sa2va_ray import storage
from sa2va_ray.config import UserError
from sa2va_ray.images.decode import decode_image_bytes, to_png
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.pictures.overlay import tinted
from sa2va_ray.pictures.panels import mask_panels
from sa2va_ray.predict.job.columns import probability_map
from sa2va_ray.predict.job.config import PredictConfig
from sa2va_ray.predict.job.results import RESULT_SCHEMA, write_part


def mask_file(stem: str) -> str:
    return f"masks/{stem}.png"


def picture_files(stem: str, config: PredictConfig) -> list[str]:
    """The files that an image without an error has, below `out`."""
    folders = [name for name in ("probabilities", "overlays", "panels") if getattr(config, name)]
    return [mask_file(stem), *(f"{folder}/{stem}.png" for folder in folders)]


def write_block(block: pa.Table, config: PredictConfig) -> pa.Table:
    """Writes all of a block, then its rows; returns the `error` of each.

    Args:
        block: `id, name, frame, source_sha256, stem, image, prompt` and the columns of `PREDICTION_SCHEMA`.
    """
    rows = []
    for row in block.to_pylist():
        masks = [] if row["error"] else [rle_to_mask(rle) for rle in row["masks"]]
        if row["error"] is None:
            union = np.any([np.zeros((row["height"], row["width"]), bool), *masks], axis=0)
            _write_pictures(row, union, config)
            row |= {"num_masks": len(masks), "area_fraction": float(union.mean()), "mask": mask_file(row["stem"])}
        rows.append({name: row.get(name) for name in RESULT_SCHEMA.names})
    write_part(config.out, rows)
    return block.select(["error"])


def _write_pictures(row: Mapping[str, Any], mask: np.ndarray, config: PredictConfig) -> None:
    for file in picture_files(row["stem"], config):
        folder = file.partition("/")[0]
        with _unnamed_errors(folder):
            storage.write_bytes(storage.join(config.out, file), _draw(folder, row, mask, config))


def _draw(folder: str, row: Mapping[str, Any], mask: np.ndarray, config: PredictConfig) -> bytes:
    """PNG of the image's size; panels are smaller where it is large."""
    if folder == "masks":
        return to_png(mask.astype(np.uint8) * 255)
    if folder == "probabilities":
        return to_png(probability_map(row["probability"], row["height"], row["width"]))
    image = np.atleast_3d(decode_image_bytes(row["image"], config.max_pixels))
    image = np.broadcast_to(image, (*mask.shape, 3))
    if folder == "overlays":
        return to_png(tinted(image, mask))
    return to_png(mask_panels(image, mask))


@contextmanager
def _unnamed_errors(folder: str) -> Iterator[None]:
    """What the storage says holds the name of the image, or of the folders it lies in: they may tell a patient."""
    try:
        yield
    except (storage.StorageError, FileNotFoundError):
        raise UserError(
            f"A picture cannot be written to {folder}/ below `out`. Check the permissions there, and that the disk has "
            "room or the store is still there. With keep_names=true a name of the source may be too long for the disk, "
            "or that of a file which is there already: leave keep_names out, then."
        ) from None
