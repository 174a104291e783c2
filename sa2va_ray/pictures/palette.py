"""All colours of pictures and reports.

Those that must be told apart are taken from or tuned like Okabe and Ito's, and stay apart for people who see no red,
green or blue light; `tests/pictures/test_palette.py` measures it.
"""

Rgb = tuple[int, int, int]

_ORANGE, _SKY_BLUE, _GREEN, _YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
_BLUE, _VERMILION, _PURPLE = (0, 114, 178), (213, 94, 0), (204, 121, 167)

MASK, EDGE = _ORANGE, _YELLOW
"""A mask over its image, and the line around it."""
HIT, MISS, FALSE_POSITIVE = _YELLOW, _VERMILION, _SKY_BLUE
"""A prediction against its truth."""
OBJECTS: tuple[Rgb, ...] = (_ORANGE, _SKY_BLUE, _GREEN, _PURPLE, _BLUE, _YELLOW)
"""Several objects of one image, in their order."""
BORDER, OUTSIDE = _SKY_BLUE, (70, 70, 78)
"""The frame of an image on a canvas that is larger, and the canvas."""

LIGHT = {
    "page": "#f5f6f8",
    "card": "#ffffff",
    "text": "#1b2230",
    "quiet": "#586174",
    "line": "#dde1e8",
    "one": "#0072b2",
    "two": "#d55e00",
    "three": "#00553a",
    "four": "#8a8f99",
    "ok": "#0072b2",
    "repaired": "#e69f00",
    "bad": "#b3262d",
    "good-back": "#e8f0fa",
    "bad-back": "#fdeae8",
}
"""The style sheet's variables on a bright screen. `one` to `four` are the layers of a chart, `ok`, `repaired` and `bad`
what was found of samples; `-back` is the ground of a message."""

DARK = {
    "page": "#14171c",
    "card": "#1d2128",
    "text": "#e6e9ef",
    "quiet": "#9aa4b5",
    "line": "#343b47",
    "one": "#56b4e9",
    "two": "#f08c3a",
    "three": "#b5e8b0",
    "four": "#8b95a5",
    "ok": "#56b4e9",
    "repaired": "#f0c04a",
    "bad": "#f0655c",
    "good-back": "#182535",
    "bad-back": "#3a1e1c",
}
"""The same on a dark screen."""
