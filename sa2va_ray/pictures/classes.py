"""Several phrases in one picture: a colour for each, and the line that says which is which. Shapes: H W pixels."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sa2va_ray.pictures.overlay import hatched, tinted
from sa2va_ray.pictures.palette import BLACK, FALSE_NEGATIVE, FALSE_POSITIVE, MASK, OBJECTS, TRUE_POSITIVE, Rgb
from sa2va_ray.pictures.panels import IGNORED_GREY, at_most, side_by_side, three_panels

Masks = Mapping[str, np.ndarray]
"""Phrase -> (H, W) bool."""
Colours = Mapping[str, Rgb]

_LINE_PX, _FONT_PX, _SWATCH_PX, _GAP_PX = 22, 15, 12, 6


def phrase_colours(phrases: Iterable[str]) -> dict[str, Rgb]:
    """A colour for each phrase of a data set, by the alphabet, so that all its pictures have the same; that of every
    mask where there is one phrase. Where there are more than the palette has, colours come again."""
    return dict(zip(sorted(set(phrases)), cycle(OBJECTS), strict=False))


def legend_entries(colours: Colours) -> list[tuple[str, str]]:
    """For the macro `legend` of a page; empty where there is nothing to tell apart."""
    return [(f"rgb{colour}", phrase) for phrase, colour in colours.items()] if len(colours) > 1 else []


def answer_panels(
    image: np.ndarray, truths: Masks, predictions: Masks, colours: Colours, ignored: np.ndarray | None = None
) -> np.ndarray:
    """`three_panels` where a data set has one phrase. Where it has several: the image; the true masks on black, and the
    predicted ones over the image, in the colours of their phrases; what was found, missed and drawn wrongly of any of
    them; and a legend below.

    Args:
        image: (H, W, 3) uint8.
        ignored: (H, W) bool of the pixels that do not count; None: all do.

    Returns:
        RGB uint8.
    """
    if len(colours) < 2:
        return three_panels(image, _union(truths), _union(predictions), ignored)
    counts = np.ones(image.shape[:2], bool) if ignored is None else ~ignored
    true, wrong = _painted(np.full_like(image, BLACK), truths, colours, 1.0), ~counts
    true[wrong] = IGNORED_GREY
    pairs = [(truth & counts, predictions[phrase] & counts) for phrase, truth in truths.items()]
    errors = image
    for masks, colour in (
        ([truth & found for truth, found in pairs], TRUE_POSITIVE),
        ([truth & ~found for truth, found in pairs], FALSE_NEGATIVE),
        ([found & ~truth for truth, found in pairs], FALSE_POSITIVE),
    ):
        errors = tinted(errors, np.logical_or.reduce(masks), colour)
    panels = [image, true, hatched(_painted(image, predictions, colours), wrong), hatched(errors, wrong)]
    return with_legend(side_by_side([at_most(panel) for panel in panels]), colours)


def with_legend(picture: np.ndarray, colours: Colours) -> np.ndarray:
    """The picture, and below it what the colours mean; as it is where there is nothing to tell apart.

    Args:
        picture: (H, W, 3) uint8.
    """
    if len(colours) < 2:
        return picture
    font, width = ImageFont.load_default(size=_FONT_PX), picture.shape[1]
    lines: list[list[tuple[int, str, Rgb]]] = [[]]
    left = _GAP_PX
    for text, colour in zip(_readable(list(colours)), colours.values(), strict=True):
        entry_px = _SWATCH_PX + 3 * _GAP_PX + round(font.getlength(text))
        if lines[-1] and left + entry_px > width:
            lines.append([])
            left = _GAP_PX
        lines[-1].append((left, text, colour))
        left += entry_px
    strip = Image.new("RGB", (width, _LINE_PX * len(lines)), "white")
    draw = ImageDraw.Draw(strip)
    for line, entries in enumerate(lines):
        top = line * _LINE_PX + (_LINE_PX - _SWATCH_PX) // 2
        for start, text, colour in entries:
            draw.rectangle((start, top, start + _SWATCH_PX, top + _SWATCH_PX), fill=colour, outline="grey")
            draw.text((start + _SWATCH_PX + _GAP_PX, line * _LINE_PX + 2), text, fill="black", font=font)
    return np.concatenate([picture, np.asarray(strip)])


def _readable(phrases: Sequence[str]) -> list[str]:
    """The font has Latin letters; a phrase of others is told by its place in the alphabet."""
    return [phrase if phrase.isascii() else f"phrase {place}" for place, phrase in enumerate(phrases, start=1)]


def _painted(image: np.ndarray, masks: Masks, colours: Colours, opacity: float = 0.75) -> np.ndarray:
    for phrase, mask in masks.items():
        image = tinted(image, mask, colours.get(phrase, MASK), opacity)
    return image


def _union(masks: Masks) -> np.ndarray:
    return np.logical_or.reduce(list(masks.values()))
