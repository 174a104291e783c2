"""Who each sample is and where it goes, found from names alone, before any image is opened."""

from collections.abc import Mapping
from dataclasses import replace

from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.examine import Task
from sa2va_ray.prepare.identity.pattern_examples import describe_fitting
from sa2va_ray.prepare.identity.pseudonyms import NAME_MISMATCH, Identity, Pseudonyms
from sa2va_ray.prepare.identity.split import deal
from sa2va_ray.prepare.records import Label, Quarantined, Record, Rejected, SeveralLabels
from sa2va_ray.prepare.sources import Source
from sa2va_ray.prepare.sources.listed_pairs import LAYOUT as PAIRS

_OR_A_LIST = "Where no name tells the patient, a list can: pairs=/home/you/pairs.csv, lines `image,label,patient`."
_OR_A_COLUMN = "Or fill in the column `patient` of `pairs`."
_NO_CELL = "Nor does its line of `pairs` name one: fill in its column `patient`."


def plan(source: Source, pseudonyms: Pseudonyms, config: SplitConfig) -> tuple[list[Task], list[Quarantined]]:
    """The samples to look at, each with its pseudonyms and its split, and those that need no look.

    Raises:
        UserError: a list of splits that cannot be read.
    """
    identities: dict[int, Identity] = {}
    rejected: dict[int, Rejected] = {}
    for record in source.records:
        try:
            identities[record.index] = pseudonyms.identify(record)
        except Rejected as error:
            rejected[record.index] = error.with_traceback(None)
    splits = deal((each.patient_id for each in identities.values()), config, pseudonyms)
    tasks = []
    for record in source.records:
        if (identity := identities.get(record.index)) is None:
            continue
        if (split := splits.get(identity.patient_id)) is None:
            reason = "The list of splits does not name this patient; add it to the list."
            rejected[record.index] = Rejected("not_listed", reason)
        else:
            # With the patient's name, which no text of the annotation may hold.
            known = replace(record, patient=pseudonyms.patient_of(record), label=_of_pseudonyms(record, pseudonyms))
            tasks.append(Task(known, identity, split))
    return tasks, [*_of_source(source, pseudonyms), *_of_names(source, rejected, pseudonyms)]


def _of_pseudonyms(record: Record, pseudonyms: Pseudonyms) -> Label | SeveralLabels:
    """The record's label, with pseudonyms of its annotators where there are several, in their order."""
    if not isinstance(record.label, SeveralLabels):
        return record.label
    by_annotator = {pseudonyms.annotator_id(name): label for name, label in record.label.by_annotator.items()}
    return replace(record.label, by_annotator=dict(sorted(by_annotator.items())))


def _of_source(source: Source, pseudonyms: Pseudonyms) -> list[Quarantined]:
    return [replace(each, sample_id=each.name and pseudonyms.sample_id(each.name)) for each in source.quarantined]


def _of_names(source: Source, rejected: Mapping[int, Rejected], pseudonyms: Pseudonyms) -> list[Quarantined]:
    """Samples whose path does not tell a patient of a split; where it does not match, with patterns that would."""
    num_mismatched = sum(each.code == NAME_MISMATCH for each in rejected.values())
    hint = f" {_hint(source, num_mismatched)}" if num_mismatched else ""
    records = {record.index: record for record in source.records}
    quarantined = []
    for index, each in rejected.items():
        record = records[index]
        reason = each.reason + (hint if each.code == NAME_MISMATCH else "")
        found = Quarantined(index, each.code, reason, record.place, record.name, pseudonyms.sample_id(record.name))
        quarantined.append(found)
    return quarantined


def _hint(source: Source, num_mismatched: int) -> str:
    """What helps where paths do not match: patterns that do, unless a list tells the other patients."""
    by_pattern = [record.plain_name or record.name for record in source.records if record.patient is None]
    is_listed = PAIRS in source.layouts
    if is_listed and len(by_pattern) < len(source.records):
        return _NO_CELL
    return f"{describe_fitting(by_pattern, num_mismatched)} {_OR_A_COLUMN if is_listed else _OR_A_LIST}"
