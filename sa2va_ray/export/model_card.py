"""README.md of an exported folder: what the model was made from, what it is for, and what it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sa2va_ray.config import UserError
from sa2va_ray.manifest import digest, read_manifest
from sa2va_ray.metrics import CATALOGUE
from sa2va_ray.models.trained_weights import LocalCheckpoint
from sa2va_ray.pictures.pages import build_environment

_IDENTIFYING = ("name", "data_uri", "runs_uri", "source", "sam2_checkpoint", "initialise_from")


def write_model_card(folder: Path, checkpoint: LocalCheckpoint, facts: Mapping[str, Any]) -> None:
    """Writes `README.md` into an exported folder.

    Args:
        facts: what the model's manifest says.
    """
    environment = build_environment(Path(__file__).parent, is_html=False)
    text = environment.get_template("model_card.md.jinja").render(
        facts=facts,
        state=checkpoint.state,
        counts=read_counts(checkpoint),
        metrics=_metric_rows(checkpoint.state.metrics),
        was_validated="val/dice" in checkpoint.state.metrics,
        settings=yaml.safe_dump(without_places(checkpoint.settings), sort_keys=False).strip(),
    )
    (folder / "README.md").write_text(text)


def read_counts(checkpoint: LocalCheckpoint) -> dict[str, dict[str, int]] | None:
    """`{split: {"samples", "patients"}}` of the data set that was trained on; None where it is not at its place any
    more, or another one is."""
    try:
        manifest = read_manifest(checkpoint.settings["data_uri"], what="prepared data set")
    except UserError:
        return None
    return manifest["counts"] if digest(manifest) == checkpoint.state.data_sha256 else None


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A training config without names and paths, which may hold a clinic's or a patient's."""
    cleaned = {key: without_places(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return {
        key: value
        for key, value in cleaned.items()
        if key not in _IDENTIFYING and not (isinstance(value, str) and ("/" in value or "\\" in value))
    }


def _metric_rows(metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """(name, value, 95 % interval) of each metric, the names with what people call it."""
    rows = []
    for name, value in metrics.items():
        if any(name == f"{other}{end}" for other in metrics for end in ("_low", "_high")):
            continue
        metric = CATALOGUE.get(name.removeprefix("val/"))
        bounds = [metrics[f"{name}{end}"] for end in ("_low", "_high") if f"{name}{end}" in metrics]
        value_text, *bound_texts = (metric.format(each) if metric else f"{each:.4g}" for each in (value, *bounds))
        rows.append((f"{metric.title}: `{name}`" if metric else f"`{name}`", value_text, " to ".join(bound_texts)))
    return rows
