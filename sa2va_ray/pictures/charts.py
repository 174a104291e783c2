"""Charts as data: what `charts.jinja` draws as SVG, in the page's own colours.

Lines, dots and bars have a colour each, and a dash or a shape of their own, so that no chart depends on colour vision.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

LEFT, TOP, WIDTH, HEIGHT = 58, 34, 474, 210
"""The plotted area in a picture of 560 x 310 units."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """`name` with the unit; `ticks`: (value, text)."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def fraction(self, value: float) -> float:
        """0 at the lower end, 1 at the upper; values beyond are drawn at the end."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


@dataclass(frozen=True)
class Layer:
    """One thing that is drawn.

    Attributes:
        style: "one" to "four": colour, dash and shape; of bars also "quarantined".
        line: points joined in their order.
        dots: points by themselves.
        whiskers: (x, low, high), intervals around dots.
        band: (x, low, high), an interval around a line.
        bars: (left, right, height), drawn from the axis; a layer hides those before it.
    """

    name: str
    style: str
    line: Sequence[Point] = ()
    dots: Sequence[Point] = ()
    whiskers: Sequence[tuple[float, float, float]] = ()
    band: Sequence[tuple[float, float, float]] = ()
    bars: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Chart:
    """A chart as it is drawn; without layers there is nothing to count.

    Attributes:
        meaning: a sentence for people who have not seen such a chart.
        marks: (x, text), upright lines.
        header, rows: the numbers as a table.
        labels: (x, y, text), written above a point, such as the count of a bar.
    """

    title: str
    meaning: str
    x: Axis
    y: Axis
    layers: Sequence[Layer]
    marks: Sequence[tuple[float, str]] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    labels: Sequence[tuple[float, float, str]] = ()

    def left(self, value: float) -> float:
        """Where a value of x is, from the left edge of the picture."""
        return round(LEFT + WIDTH * self.x.fraction(value), 1)

    def top(self, value: float) -> float:
        """Where a value of y is, from the upper edge of the picture."""
        return round(TOP + HEIGHT * (1 - self.y.fraction(value)), 1)

    def path(self, points: Sequence[Point]) -> str:
        """`points` of an SVG polyline."""
        return " ".join(f"{self.left(x)},{self.top(y)}" for x, y in points)

    def outline(self, band: Sequence[tuple[float, float, float]]) -> str:
        """`points` of an SVG polygon: along the lower ends and back along the upper ones."""
        return self.path([(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)])


def linear_axis(name: str, low: float, high: float, least_step: float = 0.0) -> Axis:
    """From the tick at or below `low` to that at or above `high`, up to 8 steps of 1, 2 or 5 times a power of ten;
    1 long where both are the same."""
    if high == low:
        high = low + 1.0
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span))
    steps = [factor * power for factor in (0.1, 0.2, 0.5, 1, 2) if span / (factor * power) <= 7]
    step = max(steps[0], least_step)
    first, last = math.floor(low / step + 1e-9), max(math.ceil(high / step - 1e-9), math.floor(low / step + 1e-9) + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [(number * step, f"{number * step:,.{digits}f}") for number in range(first, last + 1)]
    return Axis(name, ticks[0][0], ticks[-1][0], ticks)


def unit_axis(name: str) -> Axis:
    """From 0 to 1."""
    return linear_axis(name, 0.0, 1.0)
