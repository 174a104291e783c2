"""An evaluation as one HTML file that needs nothing else: no network, no script. Every text is escaped."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from sa2va_ray.evaluate.report import charts
from sa2va_ray.evaluate.report.extremes import Drawing
from sa2va_ray.evaluate.report.labels import (
    LABELS,
    describe_cleanup,
    distinct_names,
    format_signed,
    format_value,
    verdict,
)
from sa2va_ray.pictures.charts import CHART_TEMPLATES
from sa2va_ray.pictures.panels import FALSE_POSITIVE, HIT, MISS
from sa2va_ray.predict.cleanup import CleanupConfig

_WEBP_QUALITY = 80
_MAX_ROWS = 200
_PANEL_COLOURS = ((HIT, "vessel, found"), (MISS, "vessel, missed"), (FALSE_POSITIVE, "drawn where no vessel is"))


def render_evaluation(
    result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], drawings: Sequence[Drawing]
) -> bytes:
    """
    Args:
        result: the content of `metrics.json`.
        rows: of `measure`.
    """
    model = result["model"]
    return render(
        "evaluation.html.jinja",
        **{"against": None, **result},
        labels=LABELS,
        drawings=drawings,
        panel_colours=_PANEL_COLOURS,
        curves=[
            charts.threshold_chart(
                result["threshold_curves"], [(model["threshold"], f"in use: {model['threshold']:.4g}")]
            ),
            charts.precision_recall_chart(result),
            charts.width_chart(result),
            charts.reliability_chart(result["probability_calibration"]),
        ],
        histograms=[charts.histogram(result, rows, metric) for metric in LABELS],
        names=distinct_names(model, result["against"]["model"]) if "against" in result else (),
        pairs_chart=charts.pairs_chart(result) if "against" in result else None,
        facts=list(_facts(result)),
        max_rows=_MAX_ROWS,
    )


def render(template: str, **values: Any) -> bytes:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, CHART_TEMPLATES]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=format_value, signed=format_signed, verdict=verdict, cleanup=_cleanup, data_uri=_data_uri
    )
    return environment.get_template(template).render(values).encode()


def _facts(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, subject in (("Model", result["model"]), ("Against", result.get("against", {}).get("model"))):
        if subject:
            yield name, f"{subject['name']}, {subject['kind']}, SHA-256 {subject['sha256']}"
            yield f"{name}: checkpoint", str(subject["checkpoint_sha256"])
            yield f"{name}: threshold", f"{subject['threshold']:.6g}, {_cleanup(subject['cleanup'])}"
    yield "Data", f"SHA-256 {result['data_sha256']}"
    yield "Split", f"{result['split']}, SHA-256 over its files {result['split_sha256']}"
    yield "Tolerance of the surface Dice", f"{result['surface_tolerance_px']:g} px"
    yield "sa2va_ray", result["tool_version"]


def _cleanup(values: Mapping[str, int]) -> str:
    return describe_cleanup(CleanupConfig.parse(dict(values)))


def _data_uri(pixels: np.ndarray) -> str:
    """RGB uint8 -> WebP. Made from pixels alone, so that no metadata can come along."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="WEBP", quality=_WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
