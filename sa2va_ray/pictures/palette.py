"""All colours of pictures, reports and the endpoint's page: what means one thing has one colour everywhere.

Those that must be told apart are taken from or tuned like Okabe and Ito's, and stay apart for people who see no red,
green or blue light; `tests/pictures/test_palette.py` measures it.
"""

from collections.abc import Mapping

Rgb = tuple[int, int, int]

_ORANGE, _SKY_BLUE, _GREEN, _YELLOW = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)
_BLUE, _PURPLE, _MAGENTA = (0, 114, 178), (204, 121, 167), (230, 0, 160)

MASK = _SKY_BLUE
"""A mask over its image, and the line around it, whoever drew it: the truth of a data set or the prediction of a model.
It stands out from grey angiograms and from orange fundus photographs."""
TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE = MASK, _YELLOW, _MAGENTA
"""A prediction held against its truth: what both have, what the truth has alone, what the prediction has alone."""
OBJECTS: tuple[Rgb, ...] = (MASK, _ORANGE, _GREEN, _PURPLE, _BLUE, _YELLOW)
"""Several objects of one image, in their order."""
BORDER, OUTSIDE = _ORANGE, (70, 70, 78)
"""The frame of an image on a canvas that is larger, and the canvas."""
BLACK, HATCH = (0, 0, 0), (150, 150, 150)
"""The shade over what does not count, and the lines across it."""
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
    "note": "#8a5a00",
    "note-back": "#fdf4e1",
    "field": "#ffffff",
    "stage": "#e9edf1",
    "accent": "#12706b",
    "accent-over": "#0d5a56",
    "on-accent": "#ffffff",
    "tint": "#e8f3f2",
}
"""The style sheet's variables on a bright screen. `one` to `four` are the layers of a chart, `ok`, `repaired` and `bad`
what was found of samples; `-back` is the ground of a message. From `field` on: fields, buttons and the ground of the
image on the endpoint's page."""

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
    "note": "#e7bb62",
    "note-back": "#33291a",
    "field": "#14171d",
    "stage": "#14171d",
    "accent": "#4fc0b5",
    "accent-over": "#74d3ca",
    "on-accent": "#06201e",
    "tint": "#1a2f30",
}
"""The same on a dark screen."""


def css_variables() -> str:
    """Style sheet that defines all of these as variables: `--mask`, and the others for both screens."""
    return (
        f":root {{ --mask: {to_hex(MASK)}; {_declarations(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_declarations(DARK)} }} }}\n"
    )


def to_hex(colour: Rgb) -> str:
    """`#rrggbb`."""
    return "#" + "".join(f"{value:02x}" for value in colour)


def _declarations(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
