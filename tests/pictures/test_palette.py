"""Colours that mean different things look different, also to people who see no red, green or blue light."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from sa2va_ray.pictures import palette

SIGHT = {  # Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB
    "all colours": np.eye(3),
    "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
LEAST_DIFFERENCE = 10  # CIEDE2000; 2 is what is seen side by side, and these are seen apart from each other
LEAST_CONTRAST = 3  # of WCAG 2.1, for what is no text
GROUPS = {
    "prediction": [palette.TRUE_POSITIVE, palette.FALSE_NEGATIVE, palette.FALSE_POSITIVE],
    "objects": palette.OBJECTS,
    "label": [palette.MASK, palette.BORDER, palette.OUTSIDE],
    **{
        f"{kind} on a {ground} screen": [sheet[name] for name in names]
        for ground, sheet in (("bright", palette.LIGHT), ("dark", palette.DARK))
        for kind, names in (("layers", ("one", "two", "three", "four")), ("verdicts", ("ok", "repaired", "bad")))
    },
}


def to_rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(colour, str) else colour


def linear(colour):
    values = np.array(to_rgb(colour)) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def seen(colour, sight):
    values = np.clip(np.array(SIGHT[sight]) @ linear(colour), 0, 1)
    return rgb2lab(np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("group", GROUPS)
def test_colours_are_told_apart(group, sight):
    for one, other in combinations(GROUPS[group], 2):
        difference = deltaE_ciede2000(seen(one, sight), seen(other, sight))
        assert difference >= LEAST_DIFFERENCE, f"{one} and {other}: {difference:.1f}"


@pytest.mark.parametrize("sight", SIGHT)
def test_a_mask_stands_out_from_every_image(sight):
    """Greys from black to white, and the ground, vessels and disc of fundus photographs, below a tint of 75 %."""
    fundus = [(190, 95, 45), (120, 45, 20), (240, 190, 110), (140, 50, 30), (215, 130, 80)]
    for ground in [*((grey,) * 3 for grey in range(0, 256, 15)), *fundus]:
        tint = [0.75 * colour + 0.25 * below for colour, below in zip(palette.MASK, ground, strict=True)]
        difference = deltaE_ciede2000(seen(tint, sight), seen(ground, sight))
        assert difference >= LEAST_DIFFERENCE, f"over {ground}: {difference:.1f}"


@pytest.mark.parametrize("sheet", [palette.LIGHT, palette.DARK])
def test_lines_and_texts_stand_out_from_their_ground(sheet):
    def contrast(one, other):
        low, high = sorted(float(np.dot([0.2126, 0.7152, 0.0722], linear(sheet[name]))) for name in (one, other))
        return (high + 0.05) / (low + 0.05)

    assert all(contrast(name, "card") >= LEAST_CONTRAST for name in ("one", "two", "three", "four", "ok", "bad"))
    assert all(contrast(name, ground) >= 4.5 for name in ("text", "quiet") for ground in ("card", "page"))
    assert contrast("note", "note-back") >= 4.5
    assert contrast("on-accent", "accent") >= 4.5


def test_both_screens_have_the_same_variables():
    assert palette.LIGHT.keys() == palette.DARK.keys()
