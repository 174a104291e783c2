"""An evaluation as one HTML file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sa2va_ray.evaluate.report import model_charts
from sa2va_ray.evaluate.report.wording import (
    describe_cleanup,
    describe_one_mask,
    describe_silences,
    distinct_names,
    verdict,
)
from sa2va_ray.metrics.catalogue import CATALOGUE, HEADLINE_METRICS
from sa2va_ray.pictures.pages import render_page
from sa2va_ray.pictures.panels import PANEL_LEGEND
from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.predict.cleanup import CleanupConfig

_MAX_ROWS = 200


def render_evaluation(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], pictures: Sequence[Picture]
) -> bytes:
    """The page that `jobs.evaluate` leaves.

    Args:
        result: the content of `metrics.json`.
        rows: what `measure_answers` gives for the model.
        pictures: what `draw_extremes` gives.
    """
    model = result["model"]
    return render(
        "evaluation.html.jinja",
        **{"against": None, **result},
        metrics=CATALOGUE,
        headline=HEADLINE_METRICS,
        pictures=pictures,
        panel_legend=PANEL_LEGEND,
        curves=[
            model_charts.threshold_chart(
                result["threshold_curves"], [(model["threshold"], f"in use: {model['threshold']:.4g}")]
            ),
            model_charts.precision_recall_chart(result),
            model_charts.width_chart(result),
            model_charts.reliability_chart(result["probability_calibration"]),
        ],
        histograms=[model_charts.histogram(result, rows, metric) for metric in CATALOGUE],
        names=distinct_names(model, result["against"]["model"]) if "against" in result else (),
        pairs_chart=model_charts.pairs_chart(result) if "against" in result else None,
        silences=describe_silences(result),
        one_mask=describe_one_mask(result),
        facts=list(_facts(result)),
        max_rows=_MAX_ROWS,
    )


def render(template: str, **values: Any) -> bytes:
    """A report of this folder as one HTML file; every text is escaped."""
    filters: dict[str, Callable] = {
        "verdict": verdict,
        "cleanup": _cleanup,
    }
    return render_page(Path(__file__).parent / template, filters, values)


def _facts(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, model in (("Model", result["model"]), ("Against", result.get("against", {}).get("model"))):
        if model:
            yield name, f"{model['name']}, {model['kind']}, SHA-256 {model['sha256']}"
            yield f"{name}: checkpoint", str(model["checkpoint_sha256"])
            yield f"{name}: threshold", f"{model['threshold']:.6g}, {_cleanup(model['cleanup'])}"
    yield "Data", f"SHA-256 {result['data_sha256']}"
    yield "Split", f"{result['split']}, SHA-256 over its files {result['split_sha256']}"
    yield "Test-time augmentation", result["tta"]
    yield "Tolerance of the surface Dice", f"{result['surface_tolerance_px']:g} px"
    yield "sa2va_ray", result["tool_version"]


def _cleanup(values: Mapping[str, int]) -> str:
    return describe_cleanup(CleanupConfig.parse(dict(values)))
