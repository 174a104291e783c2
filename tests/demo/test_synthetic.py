import json

import cv2
import numpy as np
import pytest

from sa2va_ray.demo.synthetic import mask_to_polygons, write_synthetic_dataset
from sa2va_ray.images.masks import polygons_to_mask

SIZE = 128


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    write_synthetic_dataset(folder, seed=3, num_patients=4, frames_per_patient=2, size=SIZE)
    return folder


def masks_of(folder):
    items = json.loads((folder / "annotations.json").read_text())
    polygons = [[np.reshape(flat, (-1, 2)) for each in item["mask"] for flat in each["segmentation"]] for item in items]
    return {item["image"]: polygons_to_mask(each, SIZE, SIZE) for item, each in zip(items, polygons, strict=True)}


def test_images_are_grey_jpegs_with_vessels_of_a_plausible_share(dataset):
    masks = masks_of(dataset)
    assert len(masks) == 8
    for name, mask in masks.items():
        image = cv2.imread(str(dataset / name), cv2.IMREAD_UNCHANGED)
        assert image.shape == (SIZE, SIZE, 3)
        assert 0.05 < mask.mean() < 0.2
        assert image[mask].mean() < image[~mask].mean() - 10  # vessels are dark


def test_frames_of_a_patient_are_alike_and_patients_are_not(dataset):
    names = sorted(masks := masks_of(dataset))
    near = [cv2.dilate(masks[name].astype(np.uint8), np.ones((9, 9))).astype(bool) for name in names]
    share = lambda i, j: masks[names[i]][near[j]].sum() / masks[names[i]].sum()  # noqa: E731
    assert min(share(i, i + 1) for i in range(0, 8, 2)) > 0.6 > max(share(i, i + 2) for i in range(6))


def test_a_seed_gives_the_same_data_and_more_patients_keep_the_former(dataset, tmp_path):
    write_synthetic_dataset(tmp_path / "more", seed=3, num_patients=5, frames_per_patient=2, size=SIZE)
    for image in (dataset / "images").iterdir():
        assert image.read_bytes() == (tmp_path / "more" / "images" / image.name).read_bytes()


def test_polygons_keep_the_holes():
    mask = np.zeros((60, 80), np.uint8)
    cv2.circle(mask, (30, 30), 20, 1, thickness=4)
    cv2.circle(mask, (50, 30), 20, 1, thickness=4)
    cv2.line(mask, (2, 55), (70, 57), 1, thickness=2)
    polygons = mask_to_polygons(mask.astype(bool))
    assert len(polygons) == 2
    again = polygons_to_mask(polygons, 60, 80)
    assert 2 * (again & (mask > 0)).sum() / (again.sum() + mask.sum()) > 0.99
