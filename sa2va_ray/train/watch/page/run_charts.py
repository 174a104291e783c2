"""The charts of a run's page, from the rows of its history."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sa2va_ray.metrics import CATALOGUE
from sa2va_ray.pictures.charts import Axis, Chart, Layer, Point, linear_axis, unit_axis
from sa2va_ray.train.watch.history import Row

_MOST_POINTS = 160
_MOST_DOTS = 40
_TABLE_ROWS = 12
_MOST_NAMED_MARKS = 3
_STYLES = ("one", "two", "three", "four")
_TRAIN_PART = "train/loss_"
_Rows = Sequence[Row]


def build_charts(rows: _Rows, attempts: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The charts of what has been reported; none of what has not.

    Args:
        attempts: of `run.json`; where the run was started again stands as an upright line.
    """
    restarts = sorted({attempt["step"] for attempt in attempts if attempt["step"]})
    named = len(restarts) <= _MOST_NAMED_MARKS
    marks = [(float(step), f"started again at {step}" if named else "") for step in restarts]
    if not rows:
        return []
    charts = [
        _loss_chart(rows),
        _validation_chart(rows),
        *_part_charts(rows),
        _rate_chart(rows),
        _gradient_chart(rows),
        _speed_chart(rows),
    ]
    return [_marked(chart, marks) for chart in charts if chart.layers]


def _loss_chart(rows: _Rows) -> Chart:
    layers = [_averaged(rows, "train/loss", "training", "one"), _dotted(rows, "val/loss", "validation", "two")]
    meaning = "The sum of all parts, as it is trained. Validation samples are not augmented."
    return _chart(rows, "Loss", meaning, "loss", layers)


def _part_charts(rows: _Rows) -> Iterator[Chart]:
    """Each part has a style of its own: charts of up to four."""
    parts = sorted({name for row in rows for name in row if name.startswith(_TRAIN_PART)})
    for start in range(0, len(parts), len(_STYLES)):
        layers = [
            _averaged(rows, name, name.removeprefix(_TRAIN_PART), style)
            for name, style in zip(parts[start:], _STYLES, strict=False)
        ]
        title = "Parts of the loss, continued" if start else "Parts of the loss"
        yield _chart(rows, title, "Each as it is weighed in the sum, on training samples.", "loss", layers)


def _validation_chart(rows: _Rows) -> Chart:
    layers = []
    for name, style in (("dice", "one"), ("cldice", "two")):
        layer = _dotted(rows, f"val/{name}", CATALOGUE[name].label, style)
        bounds = [
            (float(row["step"]), row[f"val/{name}_low"], row[f"val/{name}_high"])
            for row in rows
            if f"val/{name}_low" in row
        ]
        layers.append(Layer(layer.name, style, line=layer.line, dots=layer.dots, band=bounds))
    meaning = "The mean over validation patients; shaded: its 95 % interval. clDice counts a vessel by its length."
    return _chart(rows, "Validation", meaning, "mean over patients", layers, unit_axis("mean over patients"))


def _rate_chart(rows: _Rows) -> Chart:
    """The rate over a power of ten, so that the axis has room for its numbers."""
    rates = [row["train/lr"] for row in rows if row.get("train/lr")]
    power = math.floor(math.log10(max(rates))) if rates else 0
    scaled = [{"step": row["step"], "lr": row["train/lr"] / 10.0**power} for row in rows if "train/lr" in row]
    layer = _averaged(scaled, "lr", "learning rate", "one")
    meaning = "It rises at first, and falls to zero at the end of the run."
    return _chart(rows, "Learning rate", meaning, f"learning rate, times 1e{power}", [layer])


def _gradient_chart(rows: _Rows) -> Chart:
    layer = _averaged(rows, "train/grad_norm", "gradient norm", "one")
    meaning = "Before it is cut at optim.max_grad_norm. Where it leaps, the learning rate may be too high."
    return _chart(rows, "Gradient", meaning, "gradient norm", [layer])


def _speed_chart(rows: _Rows) -> Chart:
    layer = _averaged(rows, "throughput/samples_per_s", "samples per second", "one")
    meaning = "Over all workers, without pauses for validation and checkpoints."
    return _chart(rows, "Throughput", meaning, "samples per second", [layer])


def _chart(rows: _Rows, title: str, meaning: str, unit: str, layers: Sequence[Layer], y: Axis | None = None) -> Chart:
    layers = [layer for layer in layers if layer.line]
    highest = max((value for layer in layers for _, value in layer.line), default=1.0)
    x = linear_axis("step", 0.0, max(row["step"] for row in rows), least_step=1)
    return Chart(
        title,
        meaning,
        x,
        y or linear_axis(unit, 0.0, highest),
        layers,
        header=("step", *(layer.name for layer in layers)),
        rows=_table(layers),
    )


def _table(layers: Sequence[Layer]) -> list[list[str]]:
    """Some of the points that are drawn, the last among them."""
    values = [dict(layer.line) for layer in layers]
    steps = sorted({step for each in values for step in each})
    every = -(-len(steps) // _TABLE_ROWS)
    shown = steps[::-1][:: every or 1][::-1]
    return [
        [f"{step:,.0f}", *(f"{each[step]:.4g}" if step in each else "–" for each in values)]  # noqa: RUF001
        for step in shown
    ]


def _averaged(rows: _Rows, name: str, label: str, style: str) -> Layer:
    """A line; where there are more points than can be seen, the means of as many neighbours as leave few enough."""
    points = _points(rows, name)
    size = -(-len(points) // _MOST_POINTS)
    means = [_mean(points[start : start + size]) for start in range(0, len(points), size or 1)]
    return Layer(label, style, line=means, dots=means if len(means) == 1 else ())


def _dotted(rows: _Rows, name: str, label: str, style: str) -> Layer:
    points = _points(rows, name)
    return Layer(label, style, line=points, dots=points if len(points) <= _MOST_DOTS else ())


def _points(rows: _Rows, name: str) -> list[Point]:
    return [(float(row["step"]), row[name]) for row in rows if name in row and math.isfinite(row[name])]


def _mean(points: Sequence[Point]) -> Point:
    """The mean value, at the last of the steps, so that a line reaches the newest one."""
    return points[-1][0], math.fsum(value for _, value in points) / len(points)


def _marked(chart: Chart, marks: Sequence[tuple[float, str]]) -> Chart:
    return Chart(**{**chart.__dict__, "marks": marks})
