"""Who each sample is, and what is told where that is not known."""

from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.identity.patient_pattern import DEFAULT_PATIENT_PATTERN
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.plan import plan
from sa2va_ray.prepare.records import Annotation, Record
from sa2va_ray.prepare.sources import Source


def reasons(patients, layout="pairs"):
    records = [
        Record(index, f"case {index}.png", "", Annotation({}), patient=patient)
        for index, patient in enumerate(patients)
    ]
    source = Source({layout: len(records)}, records, [], {}, [], [])
    _, quarantined = plan(source, Pseudonyms(b"key", DEFAULT_PATIENT_PATTERN), SplitConfig())
    return [each.reason for each in quarantined]


def test_a_line_without_a_patient_among_others_is_told_as_that():
    (reason,) = reasons(["P1", None, "P2"])
    assert reason.endswith("Nor does its line of `pairs` name one: fill in its column `patient`.")
    assert "choose a pattern" not in reason


def test_what_else_tells_patients_goes_by_the_source():
    assert all(reason.endswith("Or fill in the column `patient` of `pairs`.") for reason in reasons([None, None]))
    assert all("a list can: pairs=" in reason for reason in reasons([None, None], "mask_images"))
