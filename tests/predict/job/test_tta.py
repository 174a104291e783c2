"""The mean over mirror images."""

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageOps

from sa2va_ray.predict.cleanup import CleanupConfig
from sa2va_ray.predict.job.tta import predict_augmented
from sa2va_ray.predict.predictor import Query, Sa2VAPredictor

PROMPT = "Please segment it."


@pytest.fixture(scope="module")
def predictor(exported_uri):
    return Sa2VAPredictor.from_pretrained(exported_uri)


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8))


def pairs(*arguments):
    """(prediction, disagreement) of each query"""
    return [(each.prediction, each.disagreement) for each in predict_augmented(*arguments)]


def test_none_is_the_predictor_itself(predictor, image):
    query = Query(image, PROMPT, answer="[SEG]")
    ((ours, told),) = pairs(predictor, [query], "none")
    plain = predictor.predict([query])[0]
    assert told is None
    np.testing.assert_array_equal(ours.probabilities, plain.probabilities)


def test_it_is_the_mean_over_the_four_images_each_turned_back(predictor, image):
    maps = []
    for turn in (lambda i: i, ImageOps.mirror, ImageOps.flip, lambda i: ImageOps.flip(ImageOps.mirror(i))):
        (plain,) = predictor.predict([Query(turn(image), PROMPT, answer="[SEG] [SEG]")])
        maps.append([np.asarray(turn(Image.fromarray(each))) for each in plain.probabilities])
    middle = float(np.median(maps))  # so that no mask is empty, and none full
    ((ours, told),) = pairs(predictor, [Query(image, PROMPT, answer="[SEG] [SEG]", threshold=middle)], "flips")
    np.testing.assert_allclose(ours.probabilities, np.mean(maps, axis=0), atol=1e-5)  # float32, another order
    assert (ours.probabilities != maps[0]).any()
    np.testing.assert_array_equal(ours.masks, ours.probabilities > middle)
    assert ours.threshold == middle
    views = [(np.stack(each) > middle).any(axis=0) for each in maps]
    dices = [2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in combinations(views, 2)]
    assert 0.05 < told == pytest.approx(1 - np.mean(dices), abs=0.01)  # a pixel at the threshold may fall either way


def test_a_mirrored_image_gives_the_mirrored_masks(predictor, image):
    ((ours, _),) = pairs(predictor, [Query(image, PROMPT, answer="[SEG]")], "flips")
    ((mirrored, _),) = pairs(predictor, [Query(ImageOps.mirror(image), PROMPT, answer="[SEG]")], "flips")
    np.testing.assert_allclose(mirrored.probabilities[:, :, ::-1], ours.probabilities, atol=1e-5)


def test_what_is_said_is_said_of_the_image_as_it_is(predictor, image):
    """Also where the answer is cut off behind a [SEG], which then has no mask, but has one when it is given."""
    queries = [Query(image, PROMPT), Query(ImageOps.mirror(image), "What is it?", answer="No [SEG], or none.")]
    for (ours, _), plain in zip(pairs(predictor, queries, "flips"), predictor.predict(queries), strict=True):
        assert ours.text == plain.text
        assert ours.masks.shape == plain.masks.shape


def test_answers_without_masks_stay_without(predictor, image):
    ((ours, told),) = pairs(predictor, [Query(image, PROMPT, answer="No vessel.")], "flips")
    assert told is None
    assert ours.masks.shape == (0, 40, 56)
    assert ours.score == 0.0
    assert predict_augmented(predictor, [], "flips") == []


def test_the_clean_up_comes_after_the_mean(predictor, image):
    query = Query(image, PROMPT, answer="[SEG]", threshold=0.0, cleanup=CleanupConfig(min_component_px=40 * 56 + 1))
    ((ours, _),) = pairs(predictor, [query], "flips")
    assert (ours.probabilities > 0).all()
    assert not ours.masks.any()
