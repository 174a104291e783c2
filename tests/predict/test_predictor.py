"""The predictor on a tiny trained model."""

import numpy as np
import pytest
import torch
from PIL import Image

from sa2va_ray.predict.predictor import Query, Sa2VAPredictor, most_masks


@pytest.fixture(scope="module")
def predictor(exported_uri):
    return Sa2VAPredictor.from_pretrained(exported_uri)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_sizes_and_modes_may_differ_in_one_call(predictor):
    images = [picture(64, 48), picture(30, 90, "L"), picture(200, 100, "RGBA"), picture(1, 1, "P")]
    predictions = predictor.predict([Query(image, "Please segment it.", answer="[SEG].") for image in images])
    assert [p.masks.shape for p in predictions] == [(1, i.height, i.width) for i in images]
    assert all(p.masks.dtype == bool for p in predictions)
    assert all(p.text == "[SEG]." for p in predictions)


def test_a_batch_gives_what_single_calls_give(predictor):
    queries = [
        Query(picture(64, 48), "Please segment it."),
        Query(picture(99, 77), "What is the vessel?", "[SEG] [SEG]"),
    ]
    together = predictor.predict(queries)
    for query, from_batch in zip(queries, together, strict=True):
        alone = predictor.predict([query])[0]
        assert alone.text == from_batch.text
        # float32 sums in another order: logits of size 10 agree to about 1e-5, probabilities to a quarter of that.
        np.testing.assert_allclose(alone.probabilities, from_batch.probabilities, atol=1e-4)


def test_questions_about_one_image_share_its_encoding(predictor):
    image, other = picture(64, 48), picture(99, 77)
    model, calls = predictor._model, []
    encoder = model.grounding_encoder.sam2_model.image_encoder
    hook = encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    asked = [Query(image, "a", "[SEG]"), Query(other, "a", "[SEG]"), Query(image, "the left one", "[SEG] [SEG]")]
    together = predictor.predict(asked)
    hook.remove()
    assert calls == [2]
    for query, from_batch in zip(asked, together, strict=True):
        alone = predictor.predict([query])[0]
        assert alone.masks.shape == from_batch.masks.shape
        np.testing.assert_allclose(alone.probabilities, from_batch.probabilities, atol=1e-4)


def test_an_answer_is_taken_as_said_and_its_masks_are_counted(predictor):
    none, two = predictor.predict(
        [Query(picture(40, 30), "a", answer="No vessel."), Query(picture(40, 30), "a", answer="[SEG] and [SEG]")]
    )
    assert none.masks.shape == (0, 30, 40)
    assert none.score == 0.0
    assert not none.union().any()
    assert two.masks.shape == (2, 30, 40)


def test_the_threshold_of_a_query_beats_the_models(predictor):
    query = Query(picture(64, 48), "a", answer="[SEG]")
    own = predictor.predict([query])[0]
    assert own.threshold == predictor.threshold
    low = predictor.predict([Query(query.image, "a", answer="[SEG]", threshold=0.0)])[0]
    assert low.masks.all()
    np.testing.assert_array_equal(own.masks, own.probabilities > own.threshold)


def test_special_tokens_in_a_prompt_are_text(predictor):
    typed = predictor.predict([Query(picture(40, 30), "[SEG] <|im_end|> <IMG_CONTEXT>", answer="No.")])[0]
    assert typed.masks.shape == (0, 30, 40)


def test_no_queries_no_predictions(predictor):
    assert predictor.predict([]) == []


def test_bfloat16_says_the_same_and_draws_nearly_the_same(predictor, exported_uri):
    """The weights are bfloat16 in the export, so only the arithmetic differs: 8 bits of mantissa instead of 24."""
    half = Sa2VAPredictor.from_pretrained(exported_uri, dtype=torch.bfloat16)
    query = Query(picture(64, 48), "Please segment it.", answer="[SEG]")
    ours, exact = half.predict([query])[0], predictor.predict([query])[0]
    assert ours.text == exact.text
    # 2 ** -8 of a logit of size 10, through the layers of SAM 2, and a quarter of that in a probability.
    np.testing.assert_allclose(ours.probabilities, exact.probabilities, atol=0.1)


@pytest.mark.parametrize(("side", "most"), [(512, 122), (1024, 30), (2048, 7), (8000, 4)])
def test_answers_have_as_many_masks_as_there_is_memory_for(side, most):
    assert most_masks(side, side) == most
