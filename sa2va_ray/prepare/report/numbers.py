"""What was found in a source, as numbers."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sa2va_ray.data.sample import SPLITS
from sa2va_ray.prepare.examine import QUARANTINED, VERDICTS
from sa2va_ray.prepare.report.corrections import list_corrections

_NUM_ITEMS_PER_CODE = 10
_NUM_SIZES = 20
_NUM_BINS = 20
_BIN_WIDTHS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.025, 0.05)  # the last covers [0, 1]


def build_report(outcomes: pa.Table, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of a source, to be written as JSON.

    Args:
        outcomes: one row of `examine.SCHEMA` per item of the source, in any order.
        facts: how it was made, JSON-able and without names of the source; shown as given.
            `corrections` (of `summarize_corrections`), `max_quarantined_fraction`, `has_pseudonym_key`, `split_notes`
            and `source_notes` (sentences) must be there.
    """
    outcomes = outcomes.sort_by("index")
    used = outcomes.filter(pc.not_equal(outcomes["verdict"], QUARANTINED))
    patients = _patients(outcomes)
    return {
        "num_items": len(outcomes),
        "verdicts": {verdict: pc.sum(pc.equal(outcomes["verdict"], verdict)).as_py() or 0 for verdict in VERDICTS},
        "codes": _codes(outcomes),
        "splits": {split: _split(used.filter(pc.equal(used["split"], split))) for split in SPLITS},
        "phrases": _phrases(used),
        "patients": patients,
        "samples_per_patient": _histogram_of_counts([patient["samples"] for patient in patients]),
        "sizes": _sizes(outcomes),
        "num_with_ignored": pc.sum(pc.greater(used["ignored_fraction"], 0)).as_py() or 0,
        "annotators": annotators(used),
        "pixel_spacing_mm": pixel_spacing(used),
        "foreground": _histogram(outcomes, "foreground", from_one=False),
        "mask_dice": _histogram(outcomes, "mask_dice", from_one=True),
        "corrections": list_corrections(used.to_pylist()),
        "facts": dict(facts),
    }


def annotators(samples: pa.Table) -> dict[str, Any]:
    """How many of some samples have how many annotators, and how well these agree: the mean over samples of the mean
    Dice of every two, which is null without several; and of each annotator of several the samples, and the mean Dice
    against the consensus, the lowest first."""
    of_each: dict[str, list[float]] = {}
    for each in pc.list_flatten(samples["annotators"]).to_pylist():
        of_each.setdefault(each["annotator"], []).append(each["dice"])
    rows = [{"annotator": who, "samples": len(dice), "dice": float(np.mean(dice))} for who, dice in of_each.items()]
    return {
        "num_samples": _numbers_of_annotators(samples),
        "agreement": pc.mean(samples["agreement"]).as_py(),
        "annotators": sorted(rows, key=lambda row: (row["dice"], row["annotator"])),
    }


def pixel_spacing(samples: pa.Table) -> dict[str, Any]:
    """How many of some samples tell their pixel spacing, and the least and the greatest, which are null without any."""
    known = pc.list_flatten(samples["pixel_spacing_mm"])
    return {
        "num_samples": len(samples) - samples["pixel_spacing_mm"].null_count,
        "least": pc.min(known).as_py(),
        "greatest": pc.max(known).as_py(),
    }


def _numbers_of_annotators(samples: pa.Table) -> dict[str, int]:
    """Number of annotators -> number of samples. JSON has texts for keys."""
    counts = Counter(pc.fill_null(pc.list_value_length(samples["annotators"]), 1).to_pylist())
    return {str(number): counts[number] for number in sorted(counts)}


def _codes(outcomes: pa.Table) -> list[dict[str, Any]]:
    """How many items each code was found in, quarantine first, frequent ones first."""
    once = _explode(outcomes).group_by(["index", "verdict", "code"], use_threads=False).aggregate([("detail", "first")])
    codes = once.group_by(["verdict", "code"], use_threads=False).aggregate(
        [("index", "count"), ("detail_first", "first"), ("index", "list")]
    )
    rows = [
        {"verdict": verdict, "code": code, "count": count, "detail": detail, "items": items}
        for verdict, code, count, detail, items in zip(
            codes["verdict"].to_pylist(),
            codes["code"].to_pylist(),
            codes["index_count"].to_pylist(),
            codes["detail_first_first"].to_pylist(),
            pc.list_slice(codes["index_list"], 0, _NUM_ITEMS_PER_CODE).to_pylist(),
            strict=True,
        )
    ]
    return sorted(rows, key=lambda row: (-VERDICTS.index(row["verdict"]), -row["count"], row["code"]))


def _explode(outcomes: pa.Table) -> pa.Table:
    """A row per finding: index, verdict, code, detail."""
    items = pc.list_parent_indices(outcomes["findings"])
    findings = pc.list_flatten(outcomes["findings"])
    return pa.table(
        {
            "index": pc.take(outcomes["index"], items),
            "verdict": pc.take(outcomes["verdict"], items),
            "code": pc.struct_field(findings, "code"),
            "detail": pc.struct_field(findings, "detail"),
        }
    )


def _split(samples: pa.Table) -> dict[str, Any]:
    foreground = samples.filter(pc.greater(samples["num_objects"], 0))["foreground"].to_numpy()
    low, median, high = np.percentile(foreground, [5, 50, 95]).tolist() if len(foreground) else (None, None, None)
    return {
        "samples": len(samples),
        "patients": pc.count_distinct(samples["patient_id"]).as_py(),
        "runs": pc.count_distinct(samples["run_id"]).as_py(),
        "objects": pc.sum(samples["num_objects"]).as_py() or 0,
        "negatives": pc.sum(pc.equal(samples["num_objects"], 0)).as_py() or 0,
        "foreground": {"median": median, "p5": low, "p95": high},
    }


def _phrases(samples: pa.Table) -> dict[str, dict[str, int]]:
    """Phrase -> split -> number of the samples that have an object of it."""
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        own = samples.filter(pc.equal(samples["split"], split))
        own = own.filter(pc.greater(own["num_objects"], 0))
        for phrase, count in Counter(pc.list_flatten(own["phrases"]).to_pylist()).items():
            counts.setdefault(phrase, dict.fromkeys(SPLITS, 0))[split] = count
    return counts


def _patients(outcomes: pa.Table) -> list[dict[str, Any]]:
    """Those whose name could be read, the ones with most samples first. `samples` and `runs` count what is used."""
    is_used = pc.not_equal(outcomes["verdict"], QUARANTINED)
    columns = pa.table(
        {
            "patient_id": outcomes["patient_id"],
            "split": outcomes["split"],
            "used": pc.cast(is_used, pa.int64()),
            "run_id": pc.if_else(is_used, outcomes["run_id"], None),
        }
    )
    known = columns.filter(pc.is_valid(columns["patient_id"]))
    groups = known.group_by("patient_id", use_threads=False).aggregate(
        [("split", "max"), ("used", "sum"), ("run_id", "count_distinct"), ("used", "count")]
    )
    rows = [
        {
            "patient_id": row["patient_id"],
            "split": row["split_max"],  # null where all samples are in quarantine
            "samples": row["used_sum"],
            "runs": row["run_id_count_distinct"],
            "quarantined": row["used_count"] - row["used_sum"],
        }
        for row in groups.to_pylist()
    ]
    return sorted(rows, key=lambda row: (-row["samples"], row["patient_id"]))


def _sizes(outcomes: pa.Table) -> dict[str, Any]:
    """Image sizes by frequency, of all images that could be opened."""
    opened = outcomes.filter(pc.is_valid(outcomes["height"]))
    groups = opened.group_by(["height", "width"]).aggregate([("index", "count")])
    rows = [
        {"height": row["height"], "width": row["width"], "count": row["index_count"]}
        for row in groups.sort_by([("index_count", "descending"), ("height", "ascending"), ("width", "ascending")])
        .slice(0, _NUM_SIZES)
        .to_pylist()
    ]
    return {
        "most_frequent": rows,
        "num_other_sizes": len(groups) - len(rows),
        "num_other_images": len(opened) - sum(row["count"] for row in rows),
    }


def _histogram(outcomes: pa.Table, column: str, from_one: bool) -> dict[str, Any] | None:
    """Histogram of fractions in [0, 1]: from 0 to the largest, or from the smallest to 1. None without values.

    `quarantined` is the part of `counts` that is in quarantine.
    """
    known = outcomes.filter(pc.is_valid(outcomes[column]))
    if not len(known):
        return None
    values = known[column].to_numpy()
    span = 1 - values.min() if from_one else values.max()
    reach = _NUM_BINS * next(width for width in _BIN_WIDTHS if _NUM_BINS * width >= span)
    edges = np.round(np.linspace(1 - reach, 1, _NUM_BINS + 1) if from_one else np.linspace(0, reach, _NUM_BINS + 1), 6)
    is_quarantined = pc.equal(known["verdict"], QUARANTINED).to_numpy()
    return _to_histogram(edges, values, values[is_quarantined])


def _histogram_of_counts(counts: list[int]) -> dict[str, Any] | None:
    """Histogram of whole numbers, zeros left out: bins of one number or of several, from 1."""
    values = np.array([count for count in counts if count])
    if not len(values):
        return None
    width = math.ceil(values.max() / _NUM_BINS)
    edges = np.arange(1, values.max() + width + 1, width)
    return _to_histogram(edges, values, values[:0])


def _to_histogram(edges: np.ndarray, values: np.ndarray, quarantined: np.ndarray) -> dict[str, Any]:
    return {
        "edges": edges.tolist(),
        "counts": np.histogram(values, edges)[0].tolist(),
        "quarantined": np.histogram(quarantined, edges)[0].tolist(),
        "median": float(np.median(values)),
    }
