"""The charts of an evaluation, from `metrics.json` and the rows of its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sa2va_ray.evaluate.report.wording import distinct_names
from sa2va_ray.metrics import CATALOGUE
from sa2va_ray.metrics.patients import image_means
from sa2va_ray.pictures.charts import Axis, Chart, Layer, linear_axis, unit_axis

_NUM_BINS = 15
_EVERY = 16  # of the thresholds in a table of numbers
_STRIP = 1.18  # bars reach up to 1 / 1.18 of a histogram; patients stand above
_Result = Mapping[str, Any]


def threshold_chart(curves: Mapping[str, Any], marks: Sequence[tuple[float, str]]) -> Chart:
    """What another threshold would give.

    Args:
        curves: what `threshold_curves` gives.
        marks: thresholds that stand out, each with its text.
    """
    xs = curves["thresholds"]
    styles = {"dice": "one", "precision": "two", "recall": "three"}
    intervals = curves["dice_interval_95"]  # None for a single patient
    band = [(x, *interval) for x, interval in zip(xs, intervals, strict=True)] if intervals else []
    return Chart(
        "Threshold",
        "What another threshold would give, without clean-up; shaded: the 95 % interval of Dice. Where nothing is "
        "drawn, precision counts as 0.",
        unit_axis("threshold of the probability"),
        unit_axis("mean over patients"),
        [
            Layer(
                CATALOGUE[name].label,
                style,
                line=list(zip(xs, curves[name], strict=True)),
                band=band if name == "dice" else (),
            )
            for name, style in styles.items()
        ],
        marks,
        ("Threshold", *(CATALOGUE[name].label for name in styles)),
        [[f"{xs[i]:.4f}", *(f"{curves[name][i]:.3f}" for name in styles)] for i in range(_EVERY - 1, len(xs), _EVERY)],
    )


def precision_recall_chart(result: _Result) -> Chart:
    """Precision against recall over all thresholds."""
    curve, threshold = result["precision_recall"], result["model"]["threshold"]
    thresholds = result["threshold_curves"]["thresholds"]
    here = int(np.argmin(np.abs(np.array(thresholds) - threshold)))
    points = list(zip(curve["recall"], curve["precision"], strict=True))
    found = [point for point in points if point[0] > 0]  # elsewhere precision says nothing
    return Chart(
        "Precision and recall",
        f"Over the pixels of all images together. The area under it, the average precision, is "
        f"{curve['average_precision']:.3f}.",
        unit_axis("recall"),
        unit_axis("precision"),
        [Layer("all thresholds", "one", line=found), Layer("the model's threshold", "two", dots=[points[here]])],
        header=("Threshold", "Recall", "Precision"),
        rows=[
            [f"{thresholds[i]:.4f}", *(f"{value:.3f}" for value in points[i])]
            for i in range(_EVERY - 1, len(points), _EVERY)
        ],
    )


def width_chart(result: _Result) -> Chart:
    """Recall and Dice by the width of the true vessels."""
    classes = result["by_width"]
    total = sum(each["num_pixels"] for each in classes)
    names = [_width_name(each) for each in classes]
    mm_per_px = (result["millimetres"] or {}).get("mm_per_px")
    in_mm = [[_width_mm(each, mm_per_px)] if mm_per_px else [] for each in classes]
    layers = []
    for name, style, label, shift in (("recall", "one", "recall", -0.08), ("dice", "two", "Dice", 0.08)):
        dots = [(place + shift, each[name]) for place, each in enumerate(classes)]
        spans = [
            (place + shift, *interval)
            for place, each in enumerate(classes)
            if (interval := each[f"{name}_interval_95"])
        ]
        layers.append(Layer(label, style, dots=dots, whiskers=spans))
    return Chart(
        "Vessel width",
        "Over all pixels by the width of the true vessel that is nearest; bars: 95 % intervals over patients.",
        Axis("local width of the true vessel, px", -0.5, len(classes) - 0.5, list(enumerate(names))),
        unit_axis("recall, Dice"),
        layers,
        header=("Width, px", *(["mm"] if mm_per_px else []), "Share of the vessels' area", "Recall", "Dice"),
        rows=[
            [name, *mm, f"{each['num_pixels'] / total:.1%}", f"{each['recall']:.3f}", f"{each['dice']:.3f}"]
            for name, mm, each in zip(names, in_mm, classes, strict=True)
        ],
    )


def reliability_chart(calibration: Mapping[str, Any]) -> Chart:
    """How often what is said with a probability is true.

    Args:
        calibration: what `probability_calibration` gives.
    """
    points = [(each["mean_probability"], each["share_of_vessel"]) for each in calibration["bins"]]
    return Chart(
        "Are the probabilities true?",
        f"On the dotted line a probability of 0.7 means vessel in seven of ten pixels. Expected calibration error "
        f"{calibration['ece']:.4f} (15 bins), Brier score {calibration['brier']:.4f}, over all pixels.",
        unit_axis("probability"),
        unit_axis("share that is vessel"),
        [
            Layer("true probabilities", "four", line=[(0, 0), (1, 1)]),
            Layer("the model", "one", line=points, dots=points),
        ],
        header=("Mean probability", "Share of vessel", "Pixels"),
        rows=[
            [f"{x:.3f}", f"{y:.3f}", f"{each['num_pixels']:,}"]
            for (x, y), each in zip(points, calibration["bins"], strict=True)
        ],
    )


def histogram(result: _Result, rows: Sequence[Mapping[str, Any]], metric: str) -> Chart:
    """How one metric is spread over images, with the patients above."""
    entry = CATALOGUE[metric]
    values = [float(value) for value in image_means(rows, lambda row: np.array(row[metric])).values()]
    name = f"{entry.label}, {entry.unit}" if entry.unit else entry.label
    x = linear_axis(name, 0.0, max(values)) if entry.unit else unit_axis(name)
    counts, edges = np.histogram(values, bins=_NUM_BINS, range=(x.low, x.high))
    whole = linear_axis("images", 0, float(counts.max()), least_step=1)
    y = Axis("images", 0, whole.high * _STRIP, whole.ticks)
    bars = [(*pair, float(count)) for *pair, count in zip(edges[:-1], edges[1:], counts, strict=True) if count]
    patients = [(values[metric], whole.high * (1 + _STRIP) / 2) for values in result["patients"].values()]
    mean = result["per_patient"][metric]
    return Chart(
        entry.label,
        entry.meaning,
        x,
        y,
        [Layer("images", "one", bars=bars), Layer("patients", "two", dots=patients)],
        [(mean, f"mean {entry.format(mean)}")],
        ("From", "To", "Images"),
        [[entry.format(low), entry.format(high), str(int(count))] for low, high, count in bars],
    )


def pairs_chart(result: _Result) -> Chart:
    """Dice of each patient by both models."""
    names = distinct_names(result["model"], result["against"]["model"])
    ours, theirs = result["patients"], result["against"]["patients"]
    points = [(theirs[patient]["dice"], ours[patient]["dice"]) for patient in ours]
    return Chart(
        "Dice of each patient",
        f"Above the dotted line {names[0]} is better.",
        unit_axis(f"Dice of {names[1]}"),
        unit_axis(f"Dice of {names[0]}"),
        [Layer("equal", "four", line=[(0, 0), (1, 1)]), Layer("patients", "one", dots=points)],
        header=("Patient", names[0], names[1]),
        rows=[[patient[:12], f"{y:.3f}", f"{x:.3f}"] for patient, (x, y) in zip(ours, points, strict=True)],
    )


def _width_name(each: Mapping[str, Any]) -> str:
    """The whole widths of a class: its ends lie half a pixel beside them."""
    low = int(each["from_px"] + 1)
    if each["to_px"] is None:
        return f"{low}+"
    high = int(each["to_px"])
    return str(low) if low == high else f"{low} to {high}"


def _width_mm(each: Mapping[str, Any], mm_per_px: float) -> str:
    """The ends of a class, which lie between whole widths."""
    low = f"{each['from_px'] * mm_per_px:.3g}"
    return f"{low}+" if each["to_px"] is None else f"{low} to {each['to_px'] * mm_per_px:.3g}"
