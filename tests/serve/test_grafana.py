"""The Grafana dashboard: it asks for what is there."""

import json
import re
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ray.util.metrics import Counter, Histogram, Metric

from sa2va_ray.serve import metrics

DASHBOARD = json.loads((Path(metrics.__file__).parent / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SERVE_GAUGES = {  # of Ray Serve, and where it makes them
    "serve_autoscaling_target_replicas": "_private/deployment_state.py",
    "serve_deployment_queued_queries": "_private/router.py",
    "serve_deployment_replica_healthy": "_private/deployment_state.py",
    "serve_num_ongoing_requests_at_replicas": "_private/router.py",
}
SERVE_LABELS = {"application", "deployment"}
PROMQL = {"sum", "max", "rate", "histogram_quantile"}


def our_metrics() -> list[Metric]:
    owners = [metrics.ModelMetrics("a model"), metrics.RequestMetrics()]
    values = [value for owner in owners for value in vars(owner).values()]
    parts = [part for value in values if hasattr(value, "__dict__") for part in vars(value).values()]
    return [value for value in values + parts if isinstance(value, Metric)]


def exported_names(metric: Metric) -> list[str]:
    """As Prometheus sees them, without the sums of histograms: Ray makes those of the midpoints of buckets."""
    name = f"ray_{metric.info['name']}"
    if isinstance(metric, Counter):
        assert name.endswith("_total"), "Ray adds it where it is missing"
    return [f"{name}{suffix}" for suffix in ("_bucket", "_count")] if isinstance(metric, Histogram) else [name]


def labels_of() -> dict[str, set[str]]:
    """Labels by exported name."""
    labels = {f"ray_{name}": SERVE_LABELS for name in SERVE_GAUGES}
    for metric in our_metrics():
        own = set(metric.info["tag_keys"])
        for name in exported_names(metric):
            labels[name] = own | {"le"} if name.endswith("_bucket") else own
    return labels


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    """All words of PromQL that are not its own, without those in `by (...)` and `[...]`."""
    bare = re.sub(r"\bby \([^)]*\)|\[[^]]*\]", " ", expression)
    return set(re.findall(r"[A-Za-z_:][\w:]*", bare)) - PROMQL


def test_it_asks_for_metrics_that_are_made():
    known, asked = labels_of(), set().union(*map(names_in, expressions()))
    assert asked <= set(known), "nobody makes these"
    ours = {metric.info["name"] for metric in our_metrics()}
    shown = {name.removeprefix("ray_") for name in asked}
    missing = {name for name in ours if not any(each.startswith(name) for each in shown)}
    assert not missing, "these are on no panel"


@pytest.mark.parametrize("name", SERVE_GAUGES)
def test_ray_serve_makes_its_metrics(name: str):
    (folder,) = find_spec("ray.serve").submodule_search_locations
    assert re.search(rf'metrics\.Gauge\(\s*"{name}",', (Path(folder) / SERVE_GAUGES[name]).read_text())


def test_the_docs_name_every_metric():
    text = (Path(__file__).parents[2] / "docs/en/serve_reference.md").read_text()
    named = set(re.findall(r"sa2va_serve_\w+", text))
    assert named == {metric.info["name"] for metric in our_metrics()}


def test_it_groups_by_labels_that_the_metrics_have():
    known = labels_of()
    for expression in expressions():
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))
        for name in names_in(expression):
            assert labels <= known[name], expression
            assert ("le" in labels) == name.endswith("_bucket"), expression


def test_legends_name_labels_of_the_grouping():
    for panel in PANELS:
        for target in panel["targets"]:
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            assert used <= set(re.findall(r"\w+", target["expr"])), panel["title"]


def test_only_what_counts_up_has_a_rate():
    gauges = {f"ray_{name}" for name in SERVE_GAUGES} | {
        name
        for metric in our_metrics()
        for name in exported_names(metric)
        if not isinstance(metric, Counter | Histogram)
    }
    for expression in expressions():
        rated = set(re.findall(r"rate\((\w+)\[\$__rate_interval\]\)", expression))
        assert rated == names_in(expression) - gauges, expression


def test_every_panel_says_what_it_shows():
    assert DASHBOARD["schemaVersion"] >= 39
    (variable,) = DASHBOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")
    assert all(panel["title"] for panel in DASHBOARD["panels"])
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"], panel["title"]
        for each in [panel, *panel["targets"]]:
            assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for names in ([panel["id"] for panel in DASHBOARD["panels"]], [panel["title"] for panel in DASHBOARD["panels"]]):
        assert len(set(names)) == len(names)


def test_no_two_panels_overlap():
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in DASHBOARD["panels"])


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]
