"""The charts of the data report, from the histograms of `build_report`."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sa2va_ray.pictures.charts import Axis, Chart, Layer, linear_axis, unit_axis
from sa2va_ray.pictures.pages import number

_MAX_TICKS = 5
_LEAST_BINS = 10  # of whole numbers, so that few of them are not drawn as wide blocks


_FOREGROUND = (
    "Vessel area",
    "A sample far from the others may have the label of another image, or a label with parts missing.",
    "share of the image's pixels that are vessel",
)
_MASK_DICE = (
    "Polygons against mask images",
    "1: the same mask. Polygons that were simplified too much, or that fill a loop, come out lower.",
    "Dice of the polygons and the mask image",
)
_PATIENTS = (
    "Samples per patient",
    "A patient with many more samples than the others weighs more in training and in every score.",
    "samples that are used of one patient",
)


def build_charts(report: Mapping[str, Any]) -> list[Chart]:
    """A chart of each histogram, without a layer where there is nothing to count."""
    return [
        _fractions_chart(report["foreground"], percent, *_FOREGROUND),
        _fractions_chart(report["mask_dice"], _short, *_MASK_DICE),
        _patients_chart(report["samples_per_patient"]),
    ]


def _fractions_chart(
    data: Mapping[str, Any] | None, text: Callable[[float], str], title: str, meaning: str, name: str
) -> Chart:
    """Bins of fractions in [0, 1]."""
    if data is None:
        return Chart(title, meaning, unit_axis(name), unit_axis("samples"), [])
    edges = data["edges"]
    every = max(1, -(-(len(edges) - 1) // _MAX_TICKS))
    axis = Axis(name, edges[0], edges[-1], [(edge, text(edge)) for edge in edges[::every]])
    names = [f"{text(low)} to {text(high)}" for low, high in pairwise(edges)]
    return _histogram(data, edges, axis, "samples", names, title, meaning)


def _patients_chart(data: Mapping[str, Any] | None) -> Chart:
    """Bins of whole numbers, of one number or of several."""
    if data is None:
        return Chart(*_PATIENTS[:2], unit_axis(_PATIENTS[2]), unit_axis("patients"), [])
    edges, width = data["edges"], data["edges"][1] - data["edges"][0]
    every = max(1, -(-(len(edges) - 1) // _MAX_TICKS))
    high = edges[0] + max(len(edges) - 1, _LEAST_BINS) * width
    axis = Axis(_PATIENTS[2], edges[0], high, [(edge + width / 2, number(edge)) for edge in edges[:-1:every]])
    names = [number(edge) if width == 1 else f"{number(edge)} to {number(edge + width - 1)}" for edge in edges[:-1]]
    return _histogram(data, edges, axis, "patients", names, *_PATIENTS[:2])


def _histogram(
    data: Mapping[str, Any], edges: Sequence[float], x: Axis, what: str, names: Sequence[str], title: str, meaning: str
) -> Chart:
    bins = list(zip(edges[:-1], edges[1:], data["counts"], data["quarantined"], names, strict=True))
    layers = [Layer("used", "one", bars=[(low, high, count - bad) for low, high, count, bad, _ in bins if count > bad])]
    if any(data["quarantined"]):  # as high as all of them: those that are used hide the lower part
        bars = [(low, high, count) for low, high, count, bad, _ in bins if bad]
        layers = [Layer("in quarantine", "quarantined", bars=bars), *layers]
    y = linear_axis(what, 0, max(data["counts"]), least_step=1)
    return Chart(
        title,
        meaning,
        x,
        y,
        layers,
        header=(x.name, what, "of these in quarantine"),
        rows=[[name, number(count), number(bad)] for _, _, count, bad, name in bins if count],
        labels=[((low + high) / 2, count, _compact(count)) for low, high, count, _, _ in bins if count],
    )


def percent(fraction: float) -> str:
    """Something is never shown as 0 %, and less than all never as 100 %."""
    if 0 < fraction < 0.0001:
        return "less than 0.01 %"
    if 0.999 < fraction < 1:
        return "more than 99.9 %"
    return f"{100 * fraction:.{2 if fraction < 0.1 else 3}g} %"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _compact(value: int) -> str:
    """At most 4 characters, to stand over a narrow bar."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.1f}{unit}" if value < 9.95 * size else f"{value / size:.0f}{unit}"
    return str(value)
