import hashlib
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from PIL import Image

from sa2va_ray.images.masks import mask_to_rle, polygons_to_mask
from sa2va_ray.prepare.checks.validate import check_sample
from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.examine import Task, _examine, content_sha256
from sa2va_ray.prepare.identity.pseudonyms import Identity
from sa2va_ray.prepare.records import Annotation, LabelFile, Record, Rejected
from sa2va_ray.storage import SilentStoreError

TRIANGLE = np.array([[2.0, 3.0], [30.0, 5.0], [10.0, 15.0]])
HEIGHT, WIDTH = 20, 40


def config(label_size=None, negatives="refuse", **checks):
    return PrepareConfig(source="-", out="-", label_size=label_size, negatives=negatives, checks=checks)


def write_image(folder, size=(HEIGHT, WIDTH)):
    path = folder / "MuellerHans.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def record(path, *shapes, mask=None, **fields):
    label = fields.pop("label", Annotation({"blood vessels": list(shapes) or [TRIANGLE]}))
    return Record(0, path.name, str(path), label, mask_uri=mask and str(mask), **fields)


def rejection(item, settings=None):
    with pytest.raises(Rejected) as caught:
        check_sample(item, settings or config())
    assert "Mueller" not in str(caught.value)
    return caught.value


def ring(size=64):
    """A loop of vessel, and the polygon of its outer contour."""
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (32, 32), 24, 1, 5)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    return mask.astype(bool), contour[:, 0].astype(float)


def write_mask(path, mask):
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)
    return path


def test_a_good_sample_comes_through_exactly(tmp_path):
    path = write_image(tmp_path)
    checked = check_sample(record(path), config())
    np.testing.assert_array_equal(checked.pixels, np.asarray(Image.open(path)))
    np.testing.assert_array_equal(checked.masks["blood vessels"], polygons_to_mask([TRIANGLE], HEIGHT, WIDTH))
    assert checked.findings == []
    assert checked.mask_dice is None
    assert checked.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_missing_file_is_rejected(tmp_path):
    assert rejection(record(tmp_path / "MuellerHans.png")).code == "file_missing"
    label = LabelFile(str(tmp_path / "MuellerHans.json"), partial(pytest.fail), "vessel")
    assert rejection(record(write_image(tmp_path), label=label)).code == "file_missing"


def test_a_store_that_does_not_answer_ends_the_job_and_puts_nothing_in_quarantine(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote = replace(record(tmp_path / "MuellerHans.png"), image_uri="s3://clinic/MuellerHans.png")
    task = Task(remote, Identity("s", "p", "r", 0), "train")
    with pytest.raises(
        SilentStoreError, match=r"The store of `source` did not answer.* \(AWS Error NETWORK_CONNECTION"
    ) as error:
        _examine(task, config())
    assert "Mueller" not in str(error.value)


def test_the_codes_of_the_decoder_are_kept(tmp_path):
    path = write_image(tmp_path)
    assert rejection(record(path), config(max_pixels=HEIGHT * WIDTH - 1)).code == "image_too_large"
    path.write_bytes(path.read_bytes()[:400])
    assert rejection(record(path)).code == "image_unreadable"


def test_texts_are_checked(tmp_path):
    path = write_image(tmp_path)
    assert rejection(record(path, label=Annotation({}))).code == "no_objects"
    assert rejection(record(path, label=Annotation({"x" * 201: [TRIANGLE]}))).code == "long_text"
    named = Annotation({"vessels of MuellerHans": [TRIANGLE]})
    assert rejection(record(path, label=named, patient="MuellerHans")).code == "text_names_patient"


@pytest.mark.parametrize("other", ["artery", "Artery."])
def test_texts_that_ask_the_same_of_the_model_are_rejected(other, tmp_path):
    path = write_image(tmp_path)
    assert rejection(record(path, label=Annotation({"Artery": [TRIANGLE], other: [TRIANGLE]}))).code == "phrases_alike"


def test_foreground_out_of_range_is_rejected_with_the_share(tmp_path):
    everything = {"size": [HEIGHT, WIDTH], "counts": mask_to_rle(np.ones((HEIGHT, WIDTH), bool))["counts"]}
    assert "100.00%" in rejection(record(write_image(tmp_path), everything)).reason
    nothing = mask_to_rle(np.zeros((HEIGHT, WIDTH), bool))
    assert rejection(record(write_image(tmp_path), nothing)).code == "empty_mask"


NOTHING = mask_to_rle(np.zeros((HEIGHT, WIDTH), bool))


@pytest.mark.parametrize("label", [Annotation({}), Annotation({"vein": [NOTHING]})], ids=["no label", "empty mask"])
def test_an_image_without_the_object_is_a_sample_where_that_is_allowed_or_listed(tmp_path, label):
    item = record(write_image(tmp_path), label=label)
    assert "negatives=allow" in rejection(item).reason
    listed = replace(item, is_listed_negative=True)
    for checked in (check_sample(item, config(negatives="allow")), check_sample(listed, config())):
        assert list(checked.masks) == (list(label.objects) or [config().phrase])
        assert checked.union.shape == (HEIGHT, WIDTH)
        assert not checked.union.any()
        assert checked.num_objects == 0


def test_one_empty_object_beside_another_stays_a_mistake(tmp_path):
    label = Annotation({"vein": [NOTHING], "artery": [TRIANGLE]})
    assert rejection(record(write_image(tmp_path), label=label), config(negatives="allow")).code == "empty_mask"


def test_a_listed_negative_that_has_objects_is_rejected(tmp_path):
    rejected = rejection(replace(record(write_image(tmp_path)), is_listed_negative=True))
    assert rejected.code == "negative_has_objects"
    assert "Take it off the list" in rejected.reason


def test_a_mask_image_that_agrees_is_measured(tmp_path):
    mask = write_mask(tmp_path / "m.png", polygons_to_mask([TRIANGLE], HEIGHT, WIDTH))
    assert check_sample(record(write_image(tmp_path), mask=mask), config()).mask_dice == 1.0


def test_loops_filled_by_outer_contours_are_found(tmp_path):
    mask, contour = ring()
    path, mask_path = write_image(tmp_path, mask.shape), write_mask(tmp_path / "m.png", mask)
    item = record(path, contour, mask=mask_path)
    rejected = rejection(item)
    assert rejected.code == "loops_filled"
    filled = polygons_to_mask([contour], *mask.shape)
    assert f"{(filled & ~mask).sum()} px" in rejected.reason
    checked = check_sample(item, config(on_disagreement="mask"))
    np.testing.assert_array_equal(checked.union, mask)
    assert [finding.code for finding in checked.findings] == ["loops_filled"]
    checked = check_sample(item, config(on_disagreement="polygons"))
    np.testing.assert_array_equal(checked.union, filled)


def test_polygons_that_were_simplified_are_found(tmp_path):
    """What the users' tool did: a tolerance of 0.5 % of the perimeter, on a vessel of 3 px."""
    mask = np.zeros((64, 64), np.uint8)
    curve = np.stack([np.arange(4, 60), 32 + 20 * np.sin(np.arange(4, 60) / 6)], axis=1)
    cv2.polylines(mask, [np.rint(curve).astype(np.int32)], False, 1, 3)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0]
    simple = cv2.approxPolyDP(contour, 0.02 * cv2.arcLength(contour, True), True)[:, 0].astype(float)
    item = record(write_image(tmp_path, mask.shape), simple, mask=write_mask(tmp_path / "m.png", mask > 0))
    assert rejection(item).code == "polygons_differ"
    exact = record(write_image(tmp_path, mask.shape), contour[:, 0].astype(float), mask=tmp_path / "m.png")
    assert check_sample(exact, config()).mask_dice > 0.95


def test_a_mask_image_of_another_size_is_rejected(tmp_path):
    mask = write_mask(tmp_path / "m.png", np.ones((HEIGHT, WIDTH + 1), bool))
    assert rejection(record(write_image(tmp_path), mask=mask)).code == "mask_size"


def test_what_was_measured_goes_with_the_rejection(tmp_path):
    """For the report, which shows how bad the bad ones are."""
    mask, contour = ring()
    path = write_image(tmp_path, mask.shape)
    rejected = rejection(record(path, contour, mask=write_mask(tmp_path / "m.png", mask)))
    filled = polygons_to_mask([contour], *mask.shape)
    dice = 2 * (filled & mask).sum() / (filled.sum() + mask.sum())
    assert rejected.seen == {"height": 64, "width": 64, "num_objects": 1, "mask_dice": pytest.approx(dice)}
    rejected = rejection(record(path, contour), config(max_foreground_fraction=0.01))
    assert rejected.seen["foreground"] == pytest.approx(filled.mean())
    path.write_bytes(b"")
    assert rejection(record(path)).seen == {}


@pytest.mark.parametrize("low", [-7.3, 60.0])
def test_a_polygon_outside_is_told_with_all_its_bounds(tmp_path, low):
    polygon = np.array([[low, 3.0], [44.4, 5.0], [10.0, 15.0]])
    reason = rejection(record(write_image(tmp_path), polygon)).reason
    assert f"from {min(low, 10):.1f} to {max(low, 44.4):.1f} in x, from 3.0 to 15.0 in y" in reason


def test_a_mask_that_may_be_inverted_is_told(tmp_path):
    around = mask_to_rle(~polygons_to_mask([TRIANGLE], HEIGHT, WIDTH))
    told = "The mask may be inverted."
    assert rejection(record(write_image(tmp_path), around)).reason.endswith(told)
    assert told not in rejection(record(write_image(tmp_path)), config(max_foreground_fraction=0.01)).reason


def test_polygons_are_compared_with_a_mask_image_of_classes(tmp_path):
    drawn = polygons_to_mask([TRIANGLE], HEIGHT, WIDTH)
    values = np.where(drawn, 2, 0).astype(np.uint8)
    values[0, 0] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    item = record(write_image(tmp_path), label=Annotation({"vein": [TRIANGLE]}), mask=tmp_path / "mask.png")
    classes = {"artery": (1,), "vein": (2,), "ignore": (255,)}
    checked = check_sample(item, PrepareConfig(source="-", out="-", classes=classes))
    assert (checked.mask_dice, checked.findings) == (1.0, [])


def test_what_is_outside_of_the_field_of_view_or_ignored_by_the_label_does_not_count(tmp_path):
    view = np.zeros((HEIGHT, WIDTH), bool)
    view[:, : WIDTH // 2] = True
    seen = str(write_mask(tmp_path / "view.png", view))
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[:3, :3] = True
    label = Annotation({"vein": [TRIANGLE]}, ignored=(mask_to_rle(corner),))
    item = record(write_image(tmp_path), label=label)
    assert check_sample(replace(item, label=Annotation({"vein": [TRIANGLE]})), config()).ignored is None
    np.testing.assert_array_equal(check_sample(item, config()).ignored, corner)
    both = check_sample(replace(item, field_of_view_uri=seen), config())
    np.testing.assert_array_equal(both.ignored, corner | ~view)
    assert content_sha256(both) != content_sha256(check_sample(item, config()))


def test_a_field_of_view_that_does_not_fit_is_rejected(tmp_path):
    item = record(write_image(tmp_path))
    larger = str(write_mask(tmp_path / "larger.png", np.ones((HEIGHT, WIDTH + 1), bool)))
    assert rejection(replace(item, field_of_view_uri=larger)).code == "field_of_view_size"
    everything = Annotation({"vein": [TRIANGLE]}, ignored=(mask_to_rle(np.ones((HEIGHT, WIDTH), bool)),))
    assert rejection(replace(item, label=everything)).code == "nothing_counts"


def test_most_of_an_object_outside_of_the_field_of_view_tells_that_its_mask_is_wrong(tmp_path):
    item = record(write_image(tmp_path))
    inside = polygons_to_mask([TRIANGLE], HEIGHT, WIDTH)
    inverted = str(write_mask(tmp_path / "inverted.png", ~inside))
    found = rejection(replace(item, field_of_view_uri=inverted))
    assert (found.code, str(int(inside.sum())) in found.reason) == ("field_of_view_objects", True)
    negative = replace(item, label=Annotation({}), field_of_view_uri=inverted)
    assert not check_sample(negative, config(negatives="allow")).union.any()
    grey = tmp_path / "grey.png"
    Image.fromarray(np.tile(np.arange(WIDTH, dtype=np.uint8), (HEIGHT, 1))).save(grey)
    assert rejection(replace(item, field_of_view_uri=str(grey))).code == "field_of_view_values"
    colours = tmp_path / "colours.png"
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (255, 0, 0), np.uint8)).save(colours)
    found = rejection(replace(item, field_of_view_uri=str(colours)))
    assert found.reason.startswith("Of the mask of the field of view:")


def test_an_object_of_which_no_pixel_counts_is_left_out(tmp_path):
    square = np.array([[20.0, 10.0], [30.0, 10.0], [30.0, 18.0], [20.0, 18.0]])
    around = (mask_to_rle(polygons_to_mask([square], HEIGHT, WIDTH)),)
    item = record(write_image(tmp_path), label=Annotation({"vein": [TRIANGLE], "artery": [square]}, ignored=around))
    checked = check_sample(item, config())
    assert (list(checked.masks), [each.code for each in checked.findings]) == (["vein"], ["object_ignored"])
    alone = replace(item, label=Annotation({"artery": [square]}, ignored=around))
    assert rejection(alone).code == "nothing_counts"


def test_what_is_ignored_is_scaled_and_checked_as_objects_are(tmp_path):
    item = record(write_image(tmp_path), label=Annotation({"vein": [2 * TRIANGLE]}, ignored=(2 * TRIANGLE + 10,)))
    label_size = (2 * HEIGHT, 2 * WIDTH)
    ignored = check_sample(item, config(label_size=label_size)).ignored
    assert 0.9 < ignored.sum() / polygons_to_mask([TRIANGLE + 5], HEIGHT, WIDTH).sum() < 1.1
    outside = Annotation({"vein": [TRIANGLE]}, ignored=(TRIANGLE + 100,))
    assert rejection(replace(item, label=outside)).code == "polygon_outside"


def test_the_answer_that_there_is_none_must_not_look_like_one_that_finds_it(tmp_path):
    item = record(write_image(tmp_path), label=Annotation({"the [SEG]": []}))
    assert rejection(item, config(negatives="allow")).code == "text_is_token"


def test_a_mask_image_that_is_taken_for_the_truth_makes_no_negative_and_no_positive_in_secret(tmp_path):
    path, settings = write_image(tmp_path), config(on_disagreement="mask")
    empty = write_mask(tmp_path / "empty.png", np.zeros((HEIGHT, WIDTH), bool))
    assert rejection(record(path, mask=empty), settings).code == "empty_mask"
    full = write_mask(tmp_path / "full.png", polygons_to_mask([TRIANGLE], HEIGHT, WIDTH))
    listed = record(path, mask=full, label=Annotation({}), is_listed_negative=True)
    assert rejection(listed, settings).code == "negative_has_objects"
