"""The filter finds polarity and threshold on the training patients, and nothing else would be better."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sa2va_ray import storage
from sa2va_ray.baselines.config import BaselineConfig
from sa2va_ray.baselines.filter_fitting import _EDGES, fit_steps
from sa2va_ray.baselines.run import fit_baseline
from sa2va_ray.config import UserError
from sa2va_ray.data.sample import decode_image, object_masks
from sa2va_ray.data.sample_index import SampleIndex
from sa2va_ray.metrics import overlap_metrics
from sa2va_ray.models.baselines.config import FilterConfig
from sa2va_ray.models.baselines.vessel_filter import FittedFilter, filter_response
from sa2va_ray.models.model_manifest import read_model_manifest
from sa2va_ray.predict.load import load_predictor
from sa2va_ray.predict.predictor import Query

CONFIG = str(Path(__file__).parents[2] / "jobs/configs/baseline_filter.yaml")
METHODS = ("frangi", "sato", "top_hat")


def fit(data_uri: str, out: str, *overrides: str) -> str:
    return fit_baseline(BaselineConfig.load([CONFIG, f"data_uri={data_uri}", f"out={out}", *overrides]))


@pytest.fixture(scope="module")
def filter_uri(prepared_uri: str) -> str:
    uri = f"{prepared_uri}-filter"
    fit(prepared_uri, uri, "vessel_filter.widths_px=[2, 4]")
    return uri


@pytest.fixture(scope="module")
def train_samples(prepared_uri: str) -> list[dict]:
    samples = SampleIndex(prepared_uri, "train")
    return [samples[i] for i in range(len(samples))]


def bars(bright: bool) -> Image.Image:
    """A vertical bar 4 px wide in noise."""
    pixels = np.random.default_rng(0).normal(100, 4, (64, 96))
    pixels[:, 46:50] += 60 if bright else -60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def test_the_threshold_is_the_best_on_the_training_images(filter_uri, train_samples):
    predictor = load_predictor(filter_uri)
    queries = [Query(decode_image(sample), "") for sample in train_samples]
    probabilities = [prediction.probabilities[0] for prediction in predictor.predict(queries)]
    truths = [object_masks(sample).any(axis=0) for sample in train_samples]

    def dice(threshold: float) -> float:
        pairs = zip(probabilities, truths, strict=True)
        return float(np.mean([overlap_metrics(p > threshold, truth)["dice"] for p, truth in pairs]))

    levels = np.unique(np.concatenate([p.ravel() for p in probabilities]))
    assert len(levels) > 20
    best = max(dice(threshold) for threshold in (levels[1:] + levels[:-1]) / 2)
    assert dice(predictor.threshold) == pytest.approx(best, abs=1e-12)
    manifest = read_model_manifest(filter_uri)
    assert manifest["train_metrics"]["dice"] == pytest.approx(best, abs=1e-12)
    assert manifest["kind"] == "vessel_filter"


def test_probabilities_are_calibrated_on_the_training_images(filter_uri, train_samples):
    """Isotonic regression keeps the mean: the sum of the probabilities is the number of vessel pixels."""
    predictions = load_predictor(filter_uri).predict([Query(decode_image(sample), "") for sample in train_samples])
    expected = sum(object_masks(sample).any(axis=0).sum() for sample in train_samples)
    assert sum(prediction.probabilities.sum(dtype=np.float64) for prediction in predictions) == pytest.approx(
        expected, rel=1e-5
    )


def test_the_polarity_is_found(filter_uri):
    """Synthetic vessels are dark."""
    assert json.loads(storage.read_bytes(f"{filter_uri}/config.json"))["polarity"] == "dark"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("polarity", ["bright", "dark"])
def test_a_filter_answers_to_its_own_polarity(method, polarity):
    config = FilterConfig(method=method, widths_px=(4.0,))
    own, other = (
        filter_response(bars(bright), config, polarity) for bright in (polarity == "bright", polarity != "bright")
    )
    assert own.shape == (64, 96)
    assert own.min() >= 0
    assert own[:, 46:50].mean() > 4 * np.delete(own, slice(40, 56), axis=1).mean()
    assert own[:, 46:50].mean() > 4 * other[:, 46:50].mean()


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_contrast_has_no_vessels(method):
    response = filter_response(Image.new("RGB", (32, 32), (90, 90, 90)), FilterConfig(method=method), "bright")
    assert not response.any()


def test_contrast_does_not_change_the_response():
    image, config = bars(True), FilterConfig(method="sato", widths_px=(4.0,))
    darker = image.point(lambda level: level / 2)
    # Half the grey levels: rounding to one of them is noise of 0.3 levels under a bar of 30.
    np.testing.assert_allclose(
        filter_response(image, config, "bright"), filter_response(darker, config, "bright"), atol=0.1
    )


def test_steps_follow_the_counts():
    """Two images, three intervals: 10 % vessel, then 40 %, then 90 %."""
    counts = np.zeros((2, 2, len(_EDGES) + 1), np.int64)
    for interval, (background, vessel) in {0: (900, 100), 100: (60, 40), 200: (10, 90)}.items():
        counts[:, 0, interval], counts[:, 1, interval] = background, vessel
    fitted, threshold, dice = fit_steps(counts, FilterConfig(), "bright")
    assert fitted.levels == pytest.approx((0.1, 0.4, 0.9))
    assert fitted.cuts == (_EDGES[99], _EDGES[199])
    assert threshold == pytest.approx(0.25)  # 2 * 130 / (200 + 230) beats 2 * 90 / (100 + 230)
    assert dice == pytest.approx(260 / 430)


def test_an_image_without_vessels_is_right_where_nothing_is_found():
    counts = np.zeros((2, 2, len(_EDGES) + 1), np.int64)
    counts[0, :, 0], counts[0, :, 200] = (90, 10), (10, 20)
    counts[1, 0, 0] = 100  # of the other image nothing is taken for a vessel
    _, _, dice = fit_steps(counts, FilterConfig(), "bright")
    assert dice == pytest.approx((2 * 20 / (30 + 30) + 1) / 2)


def test_a_response_that_says_nothing_is_an_error(prepared_uri, bucket_uri):
    counts = np.zeros((1, 2, len(_EDGES) + 1), np.int64)
    counts[0, :, 0], counts[0, :, 5] = (10, 90), (90, 10)
    assert fit_steps(counts, FilterConfig(), "bright") is None
    with pytest.raises(UserError, match="to bright vessels is not larger where vessels are, on 9 training images"):
        fit(prepared_uri, bucket_uri, "vessel_filter.polarity=bright", "vessel_filter.method=top_hat")


def test_the_step_function_is_read_back_as_written():
    fitted = FittedFilter(filter=FilterConfig(), polarity="dark", cuts=(0.1, 0.1 + 2**-50), levels=(0.1, 0.2, 1 / 3))
    assert FittedFilter.model_validate_json(fitted.model_dump_json()) == fitted
