import pyarrow as pa
import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.config import SplitConfig
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms
from sa2va_ray.prepare.identity.split import check_splits, deal, explain_empty, explain_shares, find_leaks

PATIENTS = [f"{number:016x}" for number in range(2000)]
PSEUDONYMS = Pseudonyms(b"key", "(?P<patient>.*)")


def dealt(patients=PATIENTS, **config):
    return deal(patients, SplitConfig(**config), PSEUDONYMS)


def counts(**samples):
    return {split: {"samples": count, "patients": count, "objects": count} for split, count in samples.items()}


def test_fractions_are_met_within_four_standard_deviations():
    splits = list(dealt(val_fraction=0.1, test_fraction=0.2).values())
    assert abs(splits.count("val") - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(splits.count("test") - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5


def test_a_larger_val_fraction_moves_patients_from_train_only():
    before, after = dealt(val_fraction=0.1, test_fraction=0.2), dealt(val_fraction=0.3, test_fraction=0.2)
    moved = {(before[patient], after[patient]) for patient in PATIENTS if before[patient] != after[patient]}
    assert moved == {("train", "val")}


def test_another_seed_deals_anew():
    assert dealt() != dealt(seed=1)


def test_in_cross_validation_a_patient_is_validated_once_and_never_tested():
    folds = [dealt(num_folds=5, fold=fold) for fold in range(5)]
    for patient in PATIENTS:
        splits = [fold[patient] for fold in folds]
        assert splits.count("val") == 1 or splits == ["test"] * 5
    share = list(folds[0].values()).count("val") / 2000
    assert abs(share - 0.8 / 5) < 4 * (0.16 * 0.84 / 2000) ** 0.5


@pytest.mark.parametrize(
    ("patients", "val", "test"), [(31, 3, 6), (15, 2, 3), (10, 1, 2), (3, 1, 1), (2, 0, 0), (1, 0, 0)]
)
def test_balanced_gives_the_shares_and_leaves_some_for_training(patients, val, test):
    splits = list(dealt(PATIENTS[:patients], method="balanced").values())
    assert (splits.count("val"), splits.count("test"), splits.count("train")) == (val, test, patients - val - test)


def test_balanced_depends_on_the_seed_and_not_on_the_order():
    first = dealt(PATIENTS[:31], method="balanced")
    assert first == dealt(PATIENTS[:31][::-1], method="balanced")
    assert first != dealt(PATIENTS[:31], method="balanced", seed=1)


def test_balanced_folds_are_of_one_size_and_never_tested():
    folds = [dealt(PATIENTS[:31], method="balanced", num_folds=5, fold=fold) for fold in range(5)]
    assert [list(fold.values()).count("val") for fold in folds] == [5] * 5
    for patient in PATIENTS[:31]:
        splits = [fold[patient] for fold in folds]
        assert splits.count("val") == 1 or splits == ["test"] * 5


def test_a_hash_keeps_patients_where_they_are_when_data_is_added():
    few, many = dealt(PATIENTS[:31]), dealt(PATIENTS[:62])
    assert all(many[patient] == split for patient, split in few.items())


def test_a_share_far_from_the_one_asked_for_is_explained_with_the_numbers():
    dealt_to = counts(train=17, val=3, test=11)
    (note,) = explain_shares(dealt_to, SplitConfig())
    assert "Split test was to have 20% of the 31 patients, that is 6.2, and has 11 (35%)." in note
    assert "split.method=balanced" in note
    assert explain_shares(dealt_to, SplitConfig(method="balanced")) == []
    assert explain_shares(counts(train=700, val=101, test=215), SplitConfig()) == []


def test_a_fold_beyond_the_last_is_an_error():
    with pytest.raises(UserError, match="fold 5 is not one of 5 folds"):
        SplitConfig.parse({"num_folds": 5, "fold": 5})


def test_a_list_deals_by_name_or_pseudonym(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text(f"patient,split\nMuellerHans,test\n{PSEUDONYMS.patient_id('Doe')},val\n")
    mueller, doe, roe = (PSEUDONYMS.patient_id(name) for name in ("MuellerHans", "Doe", "Roe"))
    assert dealt([mueller, doe, roe], list_uri=str(path)) == {mueller: "test", doe: "val"}


def test_a_list_deals_by_name_however_its_letters_are_put_together(tmp_path):
    """macOS writes `ü` as two characters, spreadsheets leave blanks."""
    (tmp_path / "splits.csv").write_text("patient,split\nMu\u0308ller , test\n")
    mueller = PSEUDONYMS.patient_id("M\u00fcller")
    assert dealt([mueller], list_uri=str(tmp_path / "splits.csv")) == {mueller: "test"}


@pytest.mark.parametrize("lines", ["Patient,Split\nMuellerHans,training\n", "patient,split\n,test\n"])
def test_a_wrong_list_is_an_error_without_names(tmp_path, lines):
    (tmp_path / "Klinik.csv").write_text(lines)
    with pytest.raises(UserError, match="Line 2") as caught:
        dealt(list_uri=str(tmp_path / "Klinik.csv"))
    assert "Mueller" not in str(caught.value)
    assert "Klinik" not in str(caught.value)


def test_a_list_with_the_line_ends_of_old_macs_is_read(tmp_path):
    (tmp_path / "splits.csv").write_bytes(b"patient,split\rMueller,test\r")
    mueller = PSEUDONYMS.patient_id("Mueller")
    assert dealt([mueller], list_uri=str(tmp_path / "splits.csv")) == {mueller: "test"}


def test_a_list_may_be_that_of_images_and_labels_and_separated_by_semicolons(tmp_path):
    lines = ["image;label;patient;split", "a.png;b.png;Mueller;test", "c.png;d.png;Mueller;test", "e.png;f.png;Doe;val"]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    mueller, doe = (PSEUDONYMS.patient_id(name) for name in ("Mueller", "Doe"))
    assert dealt([mueller, doe], list_uri=str(tmp_path / "pairs.csv")) == {mueller: "test", doe: "val"}


def test_a_list_that_is_no_table_is_told_as_that(tmp_path):
    (tmp_path / "splits.csv").write_text("patient,split\n" + 200_000 * "x" + ",test\n")
    with pytest.raises(UserError, match=r"`split.list_uri` is no CSV file"):
        dealt(list_uri=str(tmp_path / "splits.csv"))


@pytest.mark.parametrize("lines", ["", "x\n", "patient,split\n", "name,set\nMuellerHans,test\n"])
def test_a_list_that_names_nobody_is_not_blamed_on_the_patients(tmp_path, lines):
    (tmp_path / "splits.csv").write_text(lines)
    with pytest.raises(UserError, match=r"`split.list_uri` names no patient\. It is a CSV file"):
        dealt(list_uri=str(tmp_path / "splits.csv"))


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
    assert "all are in quarantine" in check_splits(counts(train=0, val=0, test=0))


@pytest.mark.parametrize(
    ("keys", "cure"),
    [({}, "split.method=balanced"), ({"method": "balanced"}, "Raise its share"), ({"list_uri": "x.csv"}, "list_uri")],
)
def test_an_empty_split_is_told_with_what_helps(keys, cure):
    (told,) = explain_empty(counts(train=9, val=0, test=2), SplitConfig(**keys))
    assert "Split val is empty (patients: train 9, val 0, test 2)" in told
    assert cure in told


def test_where_nothing_can_be_used_no_split_is_told():
    assert explain_empty(counts(train=0, val=0, test=0), SplitConfig()) == []


def test_a_split_that_was_not_asked_for_may_be_empty():
    assert explain_empty(counts(train=9, val=0, test=0), SplitConfig(val_fraction=0, test_fraction=0)) == []
