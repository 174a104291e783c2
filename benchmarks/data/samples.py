"""The samples of the benchmark, as `jobs.prepare` writes them and as loose files."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sa2va_ray.data.sample import SCHEMA
from sa2va_ray.demo.synthetic import PHRASE, write_synthetic_dataset
from sa2va_ray.images.masks import mask_to_rle, polygons_to_mask
from sa2va_ray.manifest import write_manifest

NUM_DRAWN = 32
"""Images that are drawn; a data set repeats them."""
ROWS_PER_FILE = 256


def draw_samples(folder: Path) -> list[dict[str, Any]]:
    """`NUM_DRAWN` samples as `jobs.prepare` writes them: a grey PNG and a COCO RLE."""
    write_synthetic_dataset(folder, num_patients=NUM_DRAWN // 4, frames_per_patient=4, size=512)
    samples = []
    for item in json.loads((folder / "annotations.json").read_text()):
        png = io.BytesIO()
        Image.open(folder / item["image"]).convert("L").save(png, "PNG")
        polygons = [np.reshape(each["segmentation"][0], (-1, 2)) for each in item["mask"]]
        rle = mask_to_rle(polygons_to_mask(polygons, 512, 512))
        samples.append({"image": png.getvalue(), "objects": [{"phrase": PHRASE, "rle": rle}]})
    return samples


def write_loose(folder: Path, samples: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for row in range(ROWS_PER_FILE):
        sample = samples[row % len(samples)]
        (folder / f"{row:06d}.png").write_bytes(sample["image"])
        (folder / f"{row:06d}.json").write_text(json.dumps(sample["objects"]))


def write_parquet(folder: Path, samples: list[dict[str, Any]], num_rows: int) -> str:
    folder.mkdir()
    rows = [{"sample_id": f"{row:06d}", "split": "train", **samples[row % len(samples)]} for row in range(num_rows)]
    parts = [rows[begin : begin + ROWS_PER_FILE] for begin in range(0, num_rows, ROWS_PER_FILE)]
    names = [f"train-{number:05d}.parquet" for number in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        table = pa.Table.from_pylist(part, schema=SCHEMA)
        pq.write_table(table, folder / name, row_group_size=1, write_statistics=False, use_dictionary=False)
    write_manifest(folder, {"num_rows": {name: len(part) for name, part in zip(names, parts, strict=True)}})
    return str(folder)
