"""A small data set of two files, of which one sample is broken."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.manifest import write_manifest

BROKEN = 4
"""The sample of `damaged_uri` that cannot be decoded."""


@pytest.fixture(scope="session")
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
        "ignored": None,
        "split": "train",
    }
