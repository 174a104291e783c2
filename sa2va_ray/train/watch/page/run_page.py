"""The page of a training run: one HTML file that needs no server, no network and no script."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sa2va_ray.metrics import CATALOGUE
from sa2va_ray.pictures.pages import flatten, render_page
from sa2va_ray.pictures.panels import PANEL_LEGEND
from sa2va_ray.pictures.sheet import Picture
from sa2va_ray.train.checkpoints.beat import BEAT_EVERY_S
from sa2va_ray.train.watch.history import Row
from sa2va_ray.train.watch.page.run_charts import build_charts
from sa2va_ray.train.watch.page.silence import PLACE
from sa2va_ray.train.watch.page.state import RunState

PAGE_FILE = "run.html"
WRITE_EVERY_S = 15.0
"""Least time between two pages while the run goes on; the page loads itself anew as often."""

_HASHES = (("Data, SHA-256 of the manifest", "data_sha256"), ("Base weights, SHA-256", "base_sha256"))


def render_run_page(facts: Mapping[str, Any], rows: Sequence[Row], pictures: Sequence[Picture]) -> bytes:
    """The page as it is to be now; every text is escaped.

    Args:
        facts: content of `run.json`. Before the workers have begun it lacks what only they know.
        rows: of the run's history.
        pictures: of its newest validation.
    """
    rows, attempts = list(rows), list(facts.get("attempts", ()))
    state = RunState(facts["state"]["name"])
    trained = [row for row in rows if "train/loss" in row]
    validations = [row for row in rows if "val/dice" in row]
    values = {
        "name": facts["name"],
        "state": state,
        "step": facts["state"]["step"],
        "message": facts["state"]["message"],
        "written": facts["state"]["written"].replace("T", " ").removesuffix("+00:00"),
        "num_steps": facts["num_steps"],
        "place_of_silence": Markup(PLACE) if state.goes_on else "",
        "refresh_s": round(WRITE_EVERY_S) if state.goes_on else None,
        "beat_every_s": round(BEAT_EVERY_S),
        "headline": list(_headline(trained, validations, state)),
        "warnings": list(facts.get("warnings", ())),
        "charts": build_charts(rows, attempts),
        "pictures": pictures,
        "pictures_step": validations[-1]["step"] if validations else None,
        "panel_legend": PANEL_LEGEND,
        "parameters": facts["parameters"],
        "trainable": list(flatten(facts["config"]["model"]["trainable"])),
        "attempts": attempts,
        "made_of": list(_made_of(facts, attempts)),
        "config": list(flatten(facts["config"])),
    }
    return render_page(Path(__file__).parent / "run.html.jinja", {"of_all": _of_all}, values)


def _headline(trained: Sequence[Row], validations: Sequence[Row], state: RunState) -> Iterator[tuple[str, str, str]]:
    """(what, the number, what it is to be compared with)."""
    if trained:
        first, last = trained[0], trained[-1]
        if state.goes_on:
            left = timedelta(seconds=round(last.get("time/left_s", 0.0)))
            yield "Time left", str(left), "as fast as so far"
        yield "Loss", f"{last['train/loss']:.4g}", f"{first['train/loss']:.4g} at step {first['step']}"
    for name in ("dice", "cldice"):
        if validations:
            yield CATALOGUE[name].label, *_score(validations, f"val/{name}")
    if trained:
        samples, tokens = (last.get(f"throughput/{each}_per_s", 0.0) for each in ("samples", "tokens"))
        mfu = last.get("throughput/mfu")
        yield (
            "Samples per second",
            f"{samples:.3g}",
            f"{tokens:,.0f} tokens per second" + (f", MFU {mfu:.0%}" if mfu else ""),
        )
        wait = last.get("time/data_wait_share", 0.0)
        yield (
            "Memory at its peak",
            f"{last.get('memory/peak_gib', 0.0):.1f} GiB",
            f"{wait:.0%} of the time waited for data",
        )


def _score(validations: Sequence[Row], name: str) -> tuple[str, str]:
    """The newest value, with its interval or the best one."""
    last, best = validations[-1], max(validations, key=lambda row: row[name])
    if best[name] > last[name]:
        return f"{last[name]:.3f}", f"best: {best[name]:.3f} after step {best['step']}"
    low, high = last.get(f"{name}_low"), last.get(f"{name}_high")
    return f"{last[name]:.3f}", "the best so far" if low is None else f"{low:.3f} to {high:.3f}, the best so far"


def _made_of(facts: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for label, key in _HASHES:
        if key in facts:
            yield label, facts[key]
    if attempts:
        newest = attempts[-1]
        yield "Precision, seed", f"{facts['precision']}, {facts['seed']}"
        yield (
            "Devices",
            ", ".join(f"{newest['devices'].count(each)} x {each}" for each in sorted(set(newest["devices"]))),
        )
        yield "Code, git commit", newest["git_commit"]
        yield "Code, SHA-256 of its files", newest["code_sha256"]
        for package, version in newest["versions"].items():
            yield package, str(version)


def _of_all(share: tuple[int, int]) -> str:
    """A part of a whole in percent, three digits of it."""
    part, whole = share
    return "–" if not part else f"{100 * part / whole:.3g} %"  # noqa: RUF001
