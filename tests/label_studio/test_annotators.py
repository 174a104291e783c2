"""What several people draw of one image with the real Label Studio comes back as theirs, and as one consensus."""

import json
import os
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from sa2va_ray.data.sample import annotator_masks, decode_image, object_masks
from sa2va_ray.images.consensus import consensus
from sa2va_ray.images.decode import to_png
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonym_key import KEY_VARIABLE
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.run import prepare
from sa2va_ray.prepare.sources.label_studio.provenance import hash_of_annotation
from tests.label_studio.real import make_environment

pytestmark = pytest.mark.soak

TOKEN = os.environ["LABEL_STUDIO_TOKEN"]
KEY = "tests"
H, W = 96, 128
PEOPLE = ("anna", "ben", "careless")
NAMES = [f"p{patient}_frame_{frame}" for patient in range(5) for frame in (1, 2)]
BY_ONE, BY_TWO, TWICE = NAMES[0], NAMES[1], NAMES[2]


def drawings() -> dict[str, dict[str, np.ndarray]]:
    """Image -> who drew it -> (H, W) uint8: a ring, of which two people draw a part each, and not quite at its place.
    Every image has three, but for one by one and one by two."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for seed, name in enumerate(NAMES):
        masks = [np.zeros((H, W), np.uint8) for _ in PEOPLE]
        middle = 40 + 4 * seed
        for place, mask in enumerate(masks):
            cv2.circle(mask, (middle + (place == 1), 40), 20, 255, 5)
        masks[1][:, middle + 8 :] = 0
        masks[2][:, : middle - 4] = 0
        masks[2][:20] = 0
        number = {BY_ONE: 1, BY_TWO: 2}.get(name, 3)
        found[name] = dict(zip(PEOPLE[:number], masks[:number], strict=True))
    return found


@pytest.fixture(scope="module")
def drawn(server, tmp_path_factory) -> tuple[dict[bytes, str], dict]:
    """(bytes of each image -> its name, what the robots did)."""
    folder, images = tmp_path_factory.mktemp("several"), {}
    for who in PEOPLE:
        (folder / who).mkdir()
    for seed, (name, masks) in enumerate(drawings().items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (H, W, 3), np.uint8)
        (folder / f"{name}.png").write_bytes(to_png(pixels))
        images[pixels.tobytes()] = name
        for who, mask in masks.items():
            np.save(folder / who / f"{name}.npy", mask)
    np.save(folder / "anna" / f"{TWICE}_twice.npy", drawings()[TWICE]["ben"])
    script = Path(__file__).with_name("annotators_robot.py")
    command = [make_environment(), script, server, TOKEN, folder]
    done = subprocess.run(command, check=True, timeout=300, stdout=subprocess.PIPE, text=True)
    return images, json.loads(done.stdout)


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_each_comes_back_as_drawn_and_the_truth_is_their_consensus(
    method, drawn, server, ray_cluster, tmp_path, monkeypatch
):
    images, did = drawn
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    config = {"source": f"label_studio://{did['project']}", "label_studio": {"url": server}, "annotators": method}
    config["split"] = {"method": "balanced", "val_fraction": 0.2, "test_fraction": 0.2}
    prepare(PrepareConfig(out=str(tmp_path), max_quarantined_fraction=0.1, **config))
    samples = [row for file in tmp_path.glob("*.parquet") for row in pq.read_table(file).to_pylist()]
    samples_by_name = {images[np.asarray(decode_image(sample)).tobytes()]: sample for sample in samples}
    assert samples_by_name.keys() == set(NAMES) - {TWICE}
    assert len(set(did["users"].values())) == len(PEOPLE)
    pseudonyms = Pseudonyms(KEY.encode(), "")
    people = {pseudonyms.annotator_id(f"label_studio/{number}"): who for who, number in did["users"].items()}
    for name, sample in samples_by_name.items():
        masks = {who: mask >= 128 for who, mask in drawings()[name].items()}
        expected = consensus(np.stack(list(masks.values())), method) if len(masks) > 1 else masks["anna"]
        np.testing.assert_array_equal(object_masks(sample)[0], expected)
        found = [people[each["annotator"]] for each in sample["annotators"] or ()]
        assert sorted(found) == (sorted(masks) if len(masks) > 1 else [])
        for who, mask in zip(found, annotator_masks(sample, "blood vessels"), strict=True):
            np.testing.assert_array_equal(mask, masks[who], err_msg=who)
        annotations = did["annotations"][name].values()
        assert set(sample["annotations_sha256"]) == {hash_of_annotation(number) for number in annotations}
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["consensus"] == method
    (refused,) = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert refused["code"] == "annotated_twice"


def test_the_two_methods_do_not_agree_on_what_was_drawn():
    """Else the test above could not tell them apart."""
    masks = [np.stack(list(each.values())) >= 128 for each in drawings().values()]
    assert any((consensus(each, "majority") != consensus(each, "staple")).any() for each in masks)
