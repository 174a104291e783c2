"""Splits by patient: by a hash of the pseudonym, so that a patient stays when data is added, or in exact shares."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sa2va_ray.config import UserError
from sa2va_ray.data.sample import SPLITS
from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.user_table import read_table

_MIN_PATIENTS_OFF, _MAX_SHARE_OFF = 1.5, 0.25  # patients, and part of the number asked for, that pass without a word


def deal(patient_ids: Iterable[str], config: SplitConfig, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Patient -> `train`, `val` or `test`; without those that a list of splits does not name.

    Raises:
        UserError: a list of splits that cannot be read.
    """
    patients = set(patient_ids)
    if config.list_uri:
        listed = _read_list(config.list_uri, pseudonyms)
        return {patient: listed[patient] for patient in patients if patient in listed}
    return _deal_balanced(patients, config) if config.method == "balanced" else _deal_by_hash(patients, config)


def _deal_by_hash(patients: set[str], config: SplitConfig) -> dict[str, str]:
    """A patient's split depends on this patient alone."""
    splits = {}
    for patient in patients:
        place = _place(patient, config)
        if place < config.test_fraction:
            splits[patient] = "test"
        elif config.num_folds:
            fold = int(_place(patient, config, ":fold") * config.num_folds)
            splits[patient] = "val" if fold == config.fold else "train"
        else:
            splits[patient] = "val" if place < config.test_fraction + config.val_fraction else "train"
    return splits


def _deal_balanced(patients: set[str], config: SplitConfig) -> dict[str, str]:
    """The shares that were asked for, rounded to whole patients: those with the lowest hashes are for test."""
    in_order = sorted(patients, key=lambda patient: (_place(patient, config), patient))
    num_test = _num_of(config.test_fraction, len(in_order))
    test, others = in_order[:num_test], in_order[num_test:]
    if config.num_folds:
        others.sort(key=lambda patient: (_place(patient, config, ":fold"), patient))
        val = others[config.fold :: config.num_folds]
    else:
        val = others[: _num_of(config.val_fraction, len(in_order))]
    return dict.fromkeys(others, "train") | dict.fromkeys(val, "val") | dict.fromkeys(test, "test")


def _num_of(fraction: float, num_patients: int) -> int:
    """At least one patient where any share is asked for, as long as two are left for the other splits."""
    least = 1 if fraction and num_patients > 2 else 0
    return max(least, math.floor(fraction * num_patients + 0.5))


def _place(patient_id: str, config: SplitConfig, what: str = "") -> float:
    """Uniform in [0, 1). With another `what` it is independent, so that the fold does not depend on who is in test."""
    digest = hashlib.sha256(f"{config.seed}:{patient_id}{what}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def explain_shares(counts: Mapping[str, Mapping[str, int]], config: SplitConfig) -> list[str]:
    """A sentence for each split whose share of the patients is far from the one that was asked for, with the numbers,
    the cause and the cure; none where a list deals the patients, or they are dealt balanced.

    Args:
        counts: split -> {"samples", "patients", "objects", "negatives"}.
    """
    total = sum(each["patients"] for each in counts.values())
    if config.list_uri or config.method == "balanced":
        return []
    found = []
    for split, fraction in _asked(config).items():
        asked, got = fraction * total, counts[split]["patients"]
        if abs(got - asked) > max(_MIN_PATIENTS_OFF, _MAX_SHARE_OFF * asked):
            spread = math.sqrt(total * fraction * (1 - fraction))
            found.append(
                f"Split {split} was to have {fraction:.0%} of the {total} patients, that is {asked:.1f}, and has {got} "
                f"({got / total:.0%}). split.method=hash draws a lot for each patient alone, so that patients stay "
                f"where they are when data is added; with {total} patients the number varies by about {spread:.1f} up "
                "or down. split.method=balanced gives the share that was asked for, and moves patients when the data "
                "grows; another split.seed draws new lots."
            )
    return found


def _asked(config: SplitConfig) -> dict[str, float]:
    """Shares of val and test in the patients."""
    in_fold = (1 - config.test_fraction) / config.num_folds if config.num_folds else config.val_fraction
    return {"val": in_fold, "test": config.test_fraction}


def find_leaks(outcomes: pa.Table, near_pairs: Sequence[tuple[int, int]]) -> list[str]:
    """What stands in more than one split: patients, runs and near duplicates, a sentence each.

    Args:
        outcomes: with the columns `index, sample_id, patient_id, run_id, split`, null for samples that are left out.
        near_pairs: of values of `index`.
    """
    used = outcomes.filter(pc.is_valid(outcomes["split"]))
    leaks = []
    for column, what in (("patient_id", "Patient"), ("run_id", "Run")):
        splits = used.group_by(column).aggregate([("split", "distinct")]).to_pylist()
        leaks += [
            f"{what} {row[column]} is in {' and '.join(sorted(row['split_distinct']))}."
            for row in splits
            if len(row["split_distinct"]) > 1
        ]
    by_index = {row["index"]: row for row in used.select(["index", "sample_id", "split"]).to_pylist()}
    for one, other in near_pairs:
        if one in by_index and other in by_index and by_index[one]["split"] != by_index[other]["split"]:
            names = [f"{by_index[i]['sample_id']} ({by_index[i]['split']}, item {i})" for i in (one, other)]
            leaks.append(f"Samples {' and '.join(names)} are near duplicates.")
    return leaks


def explain_empty(counts: Mapping[str, Mapping[str, int]], config: SplitConfig) -> list[str]:
    """A sentence with the cure for each of val and test that is empty, although it was to have patients. None where no
    sample at all can be used: more patients would not help.

    Args:
        counts: split -> {"samples", "patients", "objects"}.
    """
    if not any(counts[split]["samples"] for split in SPLITS):
        return []
    cure = "Set split.method=balanced, or add patients"
    if config.method == "balanced":
        cure = "Raise its share, or add patients"
    if config.list_uri:
        cure = "Name patients for it in split.list_uri"
    return [
        f"Split {split} is empty (patients: {_patients(counts)}). {cure}."
        for split, fraction in _asked(config).items()
        if not counts[split]["samples"] and (fraction or config.list_uri)
    ]


def check_splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Why one cannot train on these splits, empty where one can.

    Args:
        counts: split -> {"samples", "patients", "objects", "negatives"}.
    """
    for split in SPLITS:
        if counts[split]["samples"] and not counts[split]["objects"]:
            return (
                f"The {counts[split]['samples']} sample(s) of the split `{split}` are all without the object, so that "
                "nothing can be learnt or measured there. Set split.method=balanced, try another split.seed, or deal "
                "the patients with split.list_uri."
            )
    if counts["train"]["samples"]:
        return ""
    if not any(counts[split]["samples"] for split in SPLITS):
        return (
            "No sample can be used: all are in quarantine, which says why of each. Mend the source, or the keys of the "
            "config that the reasons name."
        )
    return (
        f"The split `train` is empty (patients: {_patients(counts)}). There are too few patients for these fractions: "
        "add data, lower split.val_fraction and split.test_fraction, or set split.method=balanced."
    )


def _patients(counts: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{split} {counts[split]['patients']}" for split in SPLITS)


def _read_list(uri: str, pseudonyms: Pseudonyms) -> dict[str, str]:
    """Pseudonym -> split. A name is put in as itself and as its pseudonym: the list may hold either."""
    splits: dict[str, str] = {}
    for line, row in read_table(uri, "split.list_uri", ("patient", "split")):
        patient, split = row["patient"], row["split"]
        if not patient or split not in SPLITS:
            raise UserError(f"Line {line} of `split.list_uri` does not give a patient and one of {', '.join(SPLITS)}.")
        for patient_id in (patient, pseudonyms.patient_id(patient)):
            if splits.setdefault(patient_id, split) != split:
                raise UserError(f"Line {line} of `split.list_uri` puts a patient of an earlier line in another split.")
    if not splits:
        raise UserError(
            "`split.list_uri` names no patient. It is a CSV file: a line `patient,split`, then one for each."
        )
    return splits
