"""What is known of each image: rows in parts while the job runs, one table and two JSON files at its end.

A part is written by a worker, after the pictures of its rows, so a row in a part proves them.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from sa2va_ray import __version__, storage
from sa2va_ray.predict.job.columns import CLEANUP_TYPE, RLE_TYPE

TABLE, ROWS, COCO = "results.parquet", "results.json", "coco.json"
_PARTS = "parts/"

RESULT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),  # null unless the config asks for it
        ("frame", pa.int64()),  # of a video or DICOM run, from 0
        ("source_sha256", pa.string()),  # of the image's file; null if that cannot be read
        ("model", pa.string()),
        ("model_sha256", pa.string()),
        ("prompt", pa.string()),
        ("threshold", pa.float64()),
        ("cleanup", CLEANUP_TYPE),
        ("tta", pa.string()),
        ("error", pa.string()),  # null where all went well; else all that follow are null
        ("text", pa.string()),
        ("num_masks", pa.int64()),  # of the [SEG] in the text
        ("area_fraction", pa.float64()),  # of the union of the masks, in [0, 1]
        ("score", pa.float64()),
        ("entropy", pa.float64()),  # in [0, 1]; null where the model sees nothing
        ("disagreement", pa.float64()),  # in [0, 1]; null without test-time augmentation, and without a mask
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("mask", pa.string()),  # file of the union, below `out`
        ("masks", pa.list_(RLE_TYPE)),
    ]
)


def write_part(out: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Under a name that the same rows always get, so that a retry replaces what it repeats."""
    name = hashlib.sha256(json.dumps([[row["id"], row["name"]] for row in rows]).encode()).hexdigest()
    storage.write_bytes(storage.join(out, f"{_PARTS}{name}.parquet"), _to_parquet(rows))


def read_rows(out: str) -> list[dict[str, Any]]:
    """The rows of a former run, whole or cut off; some of them perhaps twice."""
    names = [name for name in storage.list_files(out) if name == TABLE or _is_part(name)]
    tables = [pq.read_table(io.BytesIO(storage.read_bytes(storage.join(out, name)))) for name in names]
    return [row for table in tables for row in table.to_pylist()]


def replace_rows(out: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Makes these the only rows in `out`, and takes away files that were being written when a run was killed.

    To be called before any picture is written anew, so that no row ever stands beside a picture of another run.
    """
    old = [name for name in storage.list_files(out) if _is_ours(name)]
    if rows:
        storage.write_bytes(storage.join(out, f"{_PARTS}{uuid.uuid4().hex}.parquet"), _to_parquet(rows))
    storage.delete_files(out, old)


def write_results(out: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table with the masks, the JSON file without, and COCO's, of rows in their final order; then the parts go."""
    parts = [name for name in storage.list_files(out) if _is_part(name)]
    without_masks = [{name: value for name, value in row.items() if name != "masks"} for row in rows]
    storage.write_bytes(storage.join(out, ROWS), _to_json(without_masks))
    storage.write_bytes(storage.join(out, COCO), _to_json(to_coco(rows)))
    storage.write_bytes(storage.join(out, TABLE), _to_parquet(rows))
    storage.delete_files(out, parts)


def to_coco(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """COCO instances with an annotation for each mask that is not empty; images with an error are left out.

    `file_name` is the name of the image if the results have it, with the frame as another suffix, else the id. The
    category is the prompt.
    """
    good = [row for row in rows if row["error"] is None]
    prompts = sorted({row["prompt"] for row in good})
    annotations = [
        {"image_id": image_id, "category_id": 1 + prompts.index(row["prompt"]), "score": row["score"], **shape}
        for image_id, row in enumerate(good, start=1)
        for shape in _shapes(row["masks"])
    ]
    return {
        "info": {"description": f"predictions of sa2va_ray {__version__}"},
        "images": [
            {"id": image_id, "file_name": _file_name(row), "height": row["height"], "width": row["width"]}
            for image_id, row in enumerate(good, start=1)
        ],
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": prompt} for number, prompt in enumerate(prompts, start=1)],
    }


def _file_name(row: Mapping[str, Any]) -> str:
    if row["name"] is None:
        return row["id"]
    return row["name"] if row["frame"] is None else f"{row['name']}.{row['frame']:05d}"


def _shapes(rles: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for rle in rles:
        area = int(coco_mask.area(rle))
        if area:
            box = [float(side) for side in coco_mask.toBbox(rle)]
            yield {"segmentation": rle, "area": area, "bbox": box, "iscrowd": 0}


def _is_part(name: str) -> bool:
    return name.startswith(_PARTS) and name.endswith(".parquet")


def _is_ours(name: str) -> bool:
    return name in (TABLE, ROWS, COCO) or _is_part(name) or name.endswith(storage.PARTIAL)


def _to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=RESULT_SCHEMA), buffer)
    return buffer.getvalue()


def _to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
