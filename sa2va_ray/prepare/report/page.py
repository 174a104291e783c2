"""The report as one HTML file to look at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa2va_ray.pictures.classes import legend_entries
from sa2va_ray.pictures.pages import flatten, render_page
from sa2va_ray.prepare.identity.pseudonym_key import WITHOUT_A_KEY
from sa2va_ray.prepare.report.charts import build_charts, percent
from sa2va_ray.prepare.report.pictures import ReportPictures

_NUM_PATIENTS = 200  # shown; all are in report.json


def render_report(report: Mapping[str, Any], pictures: ReportPictures) -> bytes:
    """The report as one HTML file; every text is escaped."""
    values = {
        **report,
        "pictures": pictures,
        "class_legend": legend_entries(pictures.colours),
        "max_patients": _NUM_PATIENTS,
    }
    values |= {"without_a_key": WITHOUT_A_KEY}
    values |= {"charts": build_charts(report), "fact_rows": list(flatten(report["facts"]))}
    return render_page(Path(__file__).parent / "report.html.jinja", {"percent": percent}, values)
