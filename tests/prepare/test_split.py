import pyarrow as pa
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.pseudonyms import Pseudonyms
from sa2va_ray.prepare.split import PatientSplits, check_splits, find_leaks

PATIENTS = [f"{number:016x}" for number in range(2000)]
PSEUDONYMS = Pseudonyms(b"key", "(?P<patient>.*)")


def deal(**config):
    splits = PatientSplits(SplitConfig(**config), PSEUDONYMS)
    return {patient: splits.split_of(patient) for patient in PATIENTS}


def counts(**samples):
    return {split: {"samples": count, "patients": count, "objects": count} for split, count in samples.items()}


def test_fractions_are_met_within_four_standard_deviations():
    splits = list(deal(val_fraction=0.1, test_fraction=0.2).values())
    assert abs(splits.count("val") - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(splits.count("test") - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5


def test_a_larger_val_fraction_moves_patients_from_train_only():
    before, after = deal(val_fraction=0.1, test_fraction=0.2), deal(val_fraction=0.3, test_fraction=0.2)
    moved = {(before[patient], after[patient]) for patient in PATIENTS if before[patient] != after[patient]}
    assert moved == {("train", "val")}


def test_another_seed_deals_anew():
    assert deal() != deal(seed=1)


def test_in_cross_validation_a_patient_is_validated_once_and_never_tested():
    folds = [deal(num_folds=5, fold=fold) for fold in range(5)]
    for patient in PATIENTS:
        splits = [fold[patient] for fold in folds]
        assert splits.count("val") == 1 or splits == ["test"] * 5
    share = list(folds[0].values()).count("val") / 2000
    assert abs(share - 0.8 / 5) < 4 * (0.16 * 0.84 / 2000) ** 0.5


def test_a_fold_beyond_the_last_is_an_error():
    with pytest.raises(UserError, match="fold 5 is not one of 5 folds"):
        SplitConfig.parse({"num_folds": 5, "fold": 5})


def test_a_list_deals_by_name_or_pseudonym(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text(f"patient,split\nMuellerHans,test\n{PSEUDONYMS.patient_id('Doe')},val\n")
    splits = PatientSplits(SplitConfig(list_uri=str(path)), PSEUDONYMS)
    found = [splits.split_of(PSEUDONYMS.patient_id(name)) for name in ("MuellerHans", "Doe", "Roe")]
    assert found == ["test", "val", None]


@pytest.mark.parametrize("lines", ["patient,split\nMuellerHans,training\n", "name,set\nMuellerHans,test\n"])
def test_a_wrong_list_is_an_error_without_names(tmp_path, lines):
    (tmp_path / "Klinik.csv").write_text(lines)
    with pytest.raises(UserError, match="Line 2") as caught:
        PatientSplits(SplitConfig(list_uri=str(tmp_path / "Klinik.csv")), PSEUDONYMS)
    assert "Mueller" not in str(caught.value)
    assert "Klinik" not in str(caught.value)


def test_what_stands_in_two_splits_is_named():
    rows = [
        {"index": 0, "sample_id": "s0", "patient_id": "p0", "run_id": "r0", "split": "train"},
        {"index": 1, "sample_id": "s1", "patient_id": "p1", "run_id": "r0", "split": "test"},
        {"index": 2, "sample_id": "s2", "patient_id": "p2", "run_id": "r2", "split": "train"},
        {"index": 3, "sample_id": "s3", "patient_id": "p2", "run_id": "r3", "split": "val"},
        {"index": 4, "sample_id": "s4", "patient_id": "p4", "run_id": "r0", "split": None},
    ]
    leaks = find_leaks(pa.Table.from_pylist(rows), [(0, 2), (0, 1), (1, 4)])
    assert leaks == [
        "Patient p2 is in train and val.",
        "Run r0 is in test and train.",
        "Samples s0 (train, item 0) and s1 (test, item 1) are near duplicates.",
    ]


def test_nothing_to_train_on_is_said_with_the_numbers():
    assert "train 0, val 1, test 2" in check_splits(counts(train=0, val=1, test=2))
    assert check_splits(counts(train=1, val=0, test=0)) == ""
