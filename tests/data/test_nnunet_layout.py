"""The layout of nnU-Net says what the data set says: nnU-Net's rules hold, and our own reader gets the masks back."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sa2va_ray.config import UserError
from sa2va_ray.data.nnunet_layout import write_nnunet_layout
from sa2va_ray.data.sample import SCHEMA, ignored_mask, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import mask_to_rle
from sa2va_ray.manifest import digest, read_manifest, write_manifest
from sa2va_ray.prepare.checks.validate import check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.sources import SourceOptions, read_source

SIZE = (24, 32)
SPLITS = {"train": 3, "val": 2, "test": 1}


def bars(*rows: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    for row in rows:
        mask[row : row + 4] = True
    return mask


def to_row(split: str, number: int, masks: dict[str, np.ndarray], ignored, colours: bool) -> dict:
    pixels = np.random.default_rng(number).integers(1, 256, SIZE + ((3,) if colours else ()), np.uint8)
    return {
        "sample_id": f"{number:016x}",
        "patient_id": f"{number // 2:016x}",
        "image": to_png(pixels),
        "height": SIZE[0],
        "width": SIZE[1],
        "objects": [{"phrase": phrase, "rle": mask_to_rle(mask)} for phrase, mask in masks.items()],
        "ignored": None if ignored is None else mask_to_rle(ignored),
        "split": split,
    }


@pytest.fixture
def data(tmp_path):
    """A function that writes a data set: 3 train, 2 val and 1 test samples, all with the same masks."""

    def write(masks, ignored=None, colours=False, splits=SPLITS) -> str:
        folder, number, counts, num_rows = tmp_path / "data", 0, {}, {}
        folder.mkdir()
        for split in ("train", "val", "test"):
            num = splits.get(split, 0)
            counts[split] = {"samples": num}
            if num:
                rows = [to_row(split, number + each, masks, ignored, colours) for each in range(num)]
                number, num_rows[f"{split}-00000.parquet"] = number + num, num
                table = pa.Table.from_pylist(rows, schema=SCHEMA)
                pq.write_table(table, folder / f"{split}-00000.parquet", row_group_size=1)
        write_manifest(folder, {"counts": counts, "num_rows": num_rows})
        return str(folder)

    return write


@pytest.fixture
def layout(tmp_path):
    return tmp_path / "Dataset001_vessels"


def document(folder) -> dict:
    return json.loads((folder / "dataset.json").read_text())


def labels(folder, part="labelsTr") -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted((folder / part).iterdir())]


def test_the_files_are_where_nnunet_looks(data, layout):
    uri = data({"blood vessels": bars(2, 10)})
    write_nnunet_layout(uri, str(layout))
    cases = [f"{number // 2:016x}_{number:016x}" for number in range(6)]
    names = sorted(path.relative_to(layout).as_posix() for path in layout.rglob("*.*"))
    assert names == sorted(
        ["dataset.json", "splits_final.json"]
        + [f"images{'Tr' if number < 5 else 'Ts'}/{case}_0000.png" for number, case in enumerate(cases)]
        + [f"labels{'Tr' if number < 5 else 'Ts'}/{case}.png" for number, case in enumerate(cases)]
    )
    assert json.loads((layout / "splits_final.json").read_text()) == [{"train": cases[:3], "val": cases[3:5]}]
    content = document(layout)
    assert content["labels"] == {"background": 0, "blood vessels": 1}
    assert (content["numTraining"], content["file_ending"], content["channel_names"]) == (5, ".png", {"0": "grey"})
    assert content["data_sha256"] == digest(read_manifest(uri))
    sample = SampleIndex(uri, "train")[1]
    image = Image.open(layout / f"imagesTr/{cases[1]}_0000.png")
    np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(sample["image"]))))
    assert all((label == bars(2, 10)).all() for label in labels(layout) + labels(layout, "labelsTs"))


def test_colours_are_three_channels(data, layout):
    write_nnunet_layout(data({"vessels": bars(2)}, colours=True), str(layout))
    assert document(layout)["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert all(Image.open(path).mode == "RGB" for path in (layout / "imagesTr").iterdir())


def test_what_does_not_count_has_the_highest_value(data, layout):
    """nnU-Net demands it. A pixel of an object that does not count is no pixel of it."""
    write_nnunet_layout(data({"artery": bars(2), "vein": bars(10)}, ignored=bars(0, 11)), str(layout))
    assert document(layout)["labels"] == {"background": 0, "artery": 1, "vein": 2, "ignore": 3}
    assert document(layout).get("regions_class_order") is None
    (label,) = {each.tobytes() for each in labels(layout)}
    expected = np.where(bars(0, 11), 3, bars(2) + 2 * bars(10)).astype(np.uint8)
    assert label == expected.tobytes()


def test_phrases_that_overlap_are_regions(data, layout):
    write_nnunet_layout(data({"vein": bars(10), "artery": bars(2, 12)}, ignored=bars(20)), str(layout))
    content = document(layout)
    assert content["labels"] == {"background": 0, "artery": [1, 3], "vein": [2, 3], "ignore": 4}
    assert content["regions_class_order"] == [1, 2]
    assert (labels(layout)[0][10:16, 0] == [2, 2, 3, 3, 1, 1]).all()


@pytest.mark.parametrize("ignored", [None, bars(20)], ids=["all count", "ignored"])
def test_our_own_reader_gets_the_masks_back(data, layout, ignored):
    uri = data({"artery": bars(2, 12), "blood vessels": bars(10)}, ignored=ignored)
    write_nnunet_layout(uri, str(layout))
    config = PrepareConfig(source=str(layout), out="unused", checks={"max_foreground_fraction": 1})
    source = read_source(str(layout), SourceOptions(config.phrase, None, config.checks.max_pixels))
    assert source.layouts == {"nnunet": 6}
    sample = SampleIndex(uri, "train")[0]
    for record in source.records:
        checked = check_sample(record, config)
        assert list(checked.masks) == ["artery", "blood vessels"]
        np.testing.assert_array_equal(np.stack(list(checked.masks.values())), object_masks(sample))
        assert (checked.ignored is None) == (ignored is None)
        if ignored is not None:
            np.testing.assert_array_equal(checked.ignored, ignored_mask(sample))


def test_images_without_the_object_are_background(data, layout):
    write_nnunet_layout(data({"vessels": bars()}), str(layout))
    assert document(layout)["labels"] == {"background": 0, "vessels": 1}
    assert not any(label.any() for label in labels(layout))


def test_without_validation_patients_nnunet_would_split_by_image(data, layout, caplog):
    uri = data({"vessels": bars(2)}, splits={"train": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sa2va_ray.telemetry.LOGGER.propagate", True)
        write_nnunet_layout(uri, str(layout))
    assert not (layout / "splits_final.json").exists()
    assert "the images of one patient to both sides" in caplog.text


def test_only_what_was_written_here_is_replaced(data, layout):
    uri = data({"vessels": bars(2)})
    write_nnunet_layout(uri, str(layout))
    (layout / "labelsTr/left.png").touch()
    write_nnunet_layout(uri, str(layout))
    assert not (layout / "labelsTr/left.png").exists()
    (layout / "dataset.json").write_text(json.dumps({"labels": {"background": 0}}))
    with pytest.raises(UserError, match=r"holds 14 file\(s\) that sa2va_ray did not write"):
        write_nnunet_layout(uri, str(layout))
    assert len(labels(layout)) == 5


def test_a_name_of_nnunets_own_is_refused(data, layout):
    with pytest.raises(UserError, match="'ignore' means something else"):
        write_nnunet_layout(data({"ignore": bars(2)}), str(layout))
    assert not layout.exists()
