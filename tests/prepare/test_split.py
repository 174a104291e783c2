import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.split import check_splits, split_of

PATIENTS = [f"{number:016x}" for number in range(2000)]


def counts(**samples):
    return {split: {"samples": count, "patients": count, "objects": count} for split, count in samples.items()}


def test_fractions_are_met_within_four_standard_deviations():
    splits = [split_of(patient, 0, val_fraction=0.1, test_fraction=0.2) for patient in PATIENTS]
    assert abs(splits.count("val") - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(splits.count("test") - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5


def test_a_larger_val_fraction_moves_patients_from_train_only():
    before = {patient: split_of(patient, 0, 0.1, 0.2) for patient in PATIENTS}
    after = {patient: split_of(patient, 0, 0.3, 0.2) for patient in PATIENTS}
    moved = {(before[patient], after[patient]) for patient in PATIENTS if before[patient] != after[patient]}
    assert moved == {("train", "val")}


def test_another_seed_deals_anew():
    assert [split_of(patient, 0, 0.1, 0.2) for patient in PATIENTS] != [
        split_of(each, 1, 0.1, 0.2) for each in PATIENTS
    ]


def test_nothing_to_train_on_is_an_error_with_the_numbers():
    with pytest.raises(UserError, match="train 0, val 1, test 2"):
        check_splits(counts(train=0, val=1, test=2))
    check_splits(counts(train=1, val=0, test=0))
