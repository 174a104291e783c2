"""The actor of batch prediction, called as Ray Data calls it."""

import io
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sa2va_ray.images.decode import to_png
from sa2va_ray.images.masks import rle_to_mask
from sa2va_ray.models.baselines.config import FilterConfig
from sa2va_ray.models.baselines.vessel_filter import FittedFilter
from sa2va_ray.models.model_manifest import write_model_manifest
from sa2va_ray.models.sa2va.generation_sa2va import TooManyMasksError
from sa2va_ray.predict.baseline_predictors import CONFIG_FILE
from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.job import batch
from sa2va_ray.predict.job.batch import PredictImages
from sa2va_ray.predict.job.columns import PREDICTION_SCHEMA, probability_map
from sa2va_ray.predict.job.config import PredictOptions
from sa2va_ray.predict.job.uncertainty import mean_entropy
from sa2va_ray.predict.predictor import Query

pytestmark = pytest.mark.soak

PROMPT = "<image>\nPlease segment blood vessels in this image."
OPTIONS = PredictOptions(threshold=0.4, cleanup=CleanupConfig(close_px=1))


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory):
    """A vessel filter, which always finds something."""
    folder = tmp_path_factory.mktemp("model")
    fitted = FittedFilter(
        filter=FilterConfig(widths_px=(2.0,)), polarity="bright", cuts=(0.2, 0.4), levels=(0.1, 0.5, 0.9)
    )
    (folder / CONFIG_FILE).write_text(fitted.model_dump_json())
    write_model_manifest(folder, {"kind": "vessel_filter", "name": "filter", "threshold": 0.6})
    return str(folder)


@pytest.fixture(scope="module")
def actor(model_uri):
    return PredictImages(model_uri, OPTIONS)


@pytest.fixture(scope="module")
def png():
    return to_png(np.random.default_rng(0).integers(0, 256, (40, 56), np.uint8))


def rows(images, **columns) -> pa.Table:
    return pa.table({"image": pa.array(images, pa.large_binary()), "prompt": [PROMPT] * len(images), **columns})


def test_images_of_public_data_sets_are_read(actor, png):
    images = [png]
    for kind in ("GIF", "PPM"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png)).save(buffer, kind)
        images.append(buffer.getvalue())
    first, *others = actor(rows(images)).to_pylist()
    assert all(other["error"] is None and other["masks"] == first["masks"] for other in others)


def test_it_gives_what_the_predictor_says(actor, png):
    (row,) = actor(rows([png])).to_pylist()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    (expected,) = actor._predictor.predict([Query(picture, PROMPT, threshold=0.4, cleanup=OPTIONS.cleanup)])
    assert expected.masks.any()
    assert row["text"] == expected.text
    assert row["score"] == pytest.approx(expected.score)
    assert 0 < row["entropy"] == mean_entropy(expected.probabilities.max(axis=0)) < 1
    assert row["disagreement"] is None
    np.testing.assert_array_equal([rle_to_mask(rle) for rle in row["masks"]], expected.masks)
    probability = probability_map(row["probability"], row["height"], row["width"])
    np.testing.assert_allclose(probability / 65_535, expected.probabilities.max(axis=0), atol=0.5 / 65_535 + 1e-7)
    assert row["cleanup"] == OPTIONS.cleanup.model_dump()
    assert (row["height"], row["width"], row["threshold"], row["tta"]) == (40, 56, 0.4, "none")
    assert (row["model"], row["model_sha256"]) == (actor._predictor.name, actor._predictor.sha256)


def test_other_columns_pass_through_unseen(actor, png):
    """A true mask beside the image changes nothing, whatever it says."""
    truth = pa.array([[{"phrase": "poison", "rle": {"size": [40, 56], "counts": "0"}}]])
    with_truth = actor(rows([png], objects=truth, height=[40], sample_id=["a"]))
    plain = actor(rows([png]))
    assert with_truth["objects"].combine_chunks().equals(truth)
    assert with_truth["sample_id"].to_pylist() == ["a"]
    assert with_truth.select(PREDICTION_SCHEMA.names).equals(plain.select(PREDICTION_SCHEMA.names))


def test_bad_images_are_rows_with_an_error_among_good_ones(actor, png):
    errors = [None, None, "file_unreadable: The file is missing.", None]
    predicted = actor(rows([png[:100], png, None, b"text"], error=errors)).to_pylist()
    assert [row["error"] and row["error"].partition(":")[0] for row in predicted] == [
        *("image_unreadable", None, "file_unreadable", "image_unreadable")
    ]
    for row in predicted:
        assert (row["masks"] is None) == (row["text"] is None) == (row["error"] is not None)
        assert row["threshold"] == 0.4


def test_a_batch_of_bad_images_alone(actor):
    (row,) = actor(rows([b"text"])).to_pylist()
    assert row["error"].startswith("image_unreadable")


def test_images_above_max_pixels_are_errors(model_uri, png):
    (row,) = PredictImages(model_uri, PredictOptions(max_pixels=40 * 56 - 1))(rows([png])).to_pylist()
    assert row["error"].startswith("image_too_large")


class OneMaskTooMany:
    """A predictor that refuses a batch as Sa2VA does, for the filter's one mask is never too many for it."""

    def __init__(self, predictor):
        self._predictor = predictor

    def __getattr__(self, name):
        return getattr(self._predictor, name)

    def predict(self, queries):
        if any(query.max_masks < 1 for query in queries):
            raise TooManyMasksError("The model's answer has 1 masks, the limit is 0.")
        return self._predictor.predict(queries)


def test_an_answer_of_too_many_masks_is_an_error_and_costs_no_other_image_its_own(actor, png, monkeypatch):
    monkeypatch.setattr(batch, "most_masks", lambda height, width: 0 if height == 41 else 9)
    monkeypatch.setattr(actor, "_predictor", OneMaskTooMany(actor._predictor))
    other = to_png(np.zeros((41, 56), np.uint8))
    first, refused, last = actor(rows([png, other, png])).to_pylist()
    assert refused["error"].startswith("too_many_masks: The model's answer has ")
    assert refused["masks"] is None
    assert first == last
    assert len(first["masks"]) == 1


def test_tasks_that_read_and_write_import_no_model():
    """They would spend longer on that than on their work."""
    code = "import sys, sa2va_ray.predict.job.stages, sa2va_ray.predict.job.write; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
