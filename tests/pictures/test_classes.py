"""Each phrase of a data set has one colour in all pictures, and a legend says which."""

import numpy as np
import pytest

from sa2va_ray.pictures.classes import answer_panels, legend_entries, phrase_colours, with_legend
from sa2va_ray.pictures.palette import FALSE_NEGATIVE, FALSE_POSITIVE, MASK, OBJECTS, TRUE_POSITIVE
from sa2va_ray.pictures.panels import IGNORED_GREY, label_panels, three_panels

IMAGE = np.full((40, 200, 3), 100, np.uint8)
COLOURS = phrase_colours(["vein", "artery", "vein"])


def rows(start: int, stop: int) -> np.ndarray:
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[start:stop] = True
    return mask


def over_image(colour) -> tuple[int, ...]:
    return tuple(np.rint(0.25 * 100 + 0.75 * np.array(colour)).astype(int))


def test_colours_are_by_the_alphabet_and_that_of_every_mask_where_there_is_one_phrase():
    assert phrase_colours(["vein", "artery", "vein"]) == {"artery": OBJECTS[0], "vein": OBJECTS[1]}
    assert phrase_colours(["vein"]) == {"vein": MASK}
    assert phrase_colours(map(str, range(7)))["6"] == OBJECTS[0]
    assert legend_entries(phrase_colours(["vein"])) == []
    assert legend_entries(COLOURS) == [(f"rgb{OBJECTS[0]}", "artery"), (f"rgb{OBJECTS[1]}", "vein")]


def test_an_answer_shows_each_phrase_in_its_colour_and_what_is_wrong_of_any():
    truths = {"artery": rows(0, 10), "vein": rows(20, 30)}
    predictions = {"artery": rows(0, 5), "vein": rows(20, 35)}
    ignored = np.zeros(IMAGE.shape[:2], bool)
    ignored[:, 150:] = True
    picture = answer_panels(IMAGE, truths, predictions, COLOURS, ignored)
    image, true, found, errors = (picture[:40, start : start + 200] for start in (0, 204, 408, 612))
    assert (image == 100).all()
    assert [tuple(true[row, 5]) for row in (2, 15, 25)] == [OBJECTS[0], (0, 0, 0), OBJECTS[1]]
    assert (true[:, 150:] == IGNORED_GREY).all()
    assert [tuple(found[row, 5]) for row in (2, 25)] == [over_image(OBJECTS[0]), over_image(OBJECTS[1])]
    expected = [over_image(colour) for colour in (TRUE_POSITIVE, FALSE_NEGATIVE, TRUE_POSITIVE, FALSE_POSITIVE)]
    assert [tuple(errors[row, 5]) for row in (2, 7, 25, 32)] == expected
    assert len(picture) > 40, "a legend"


def test_with_one_phrase_pictures_are_as_they_were():
    truth, found, one = rows(0, 10), rows(5, 15), phrase_colours(["vessel"])
    picture = answer_panels(IMAGE, {"vessel": truth}, {"vessel": found}, one)
    assert np.array_equal(picture, three_panels(IMAGE, truth, found))
    assert with_legend(picture, one) is picture
    labels = (label_panels(IMAGE, {"vessel": truth}, 200, None, each) for each in (one, None))
    assert np.array_equal(*labels)


@pytest.mark.parametrize(("width", "num_lines"), [(400, 1), (90, 2)])
def test_a_legend_is_as_wide_as_its_picture_and_has_its_colours(width, num_lines):
    picture = np.zeros((10, width, 3), np.uint8)
    with_line = with_legend(picture, phrase_colours(["artery", "\u9759\u8109"]))
    assert with_line.shape == (10 + 22 * num_lines, width, 3)
    seen = {tuple(pixel) for pixel in with_line[10:].reshape(-1, 3)}
    assert {OBJECTS[0], OBJECTS[1]} <= seen
