import re

import pytest

from sa2va_ray.prepare.config import PrepareConfig
from sa2va_ray.prepare.identity.pseudonyms import Pseudonyms, names_patient
from sa2va_ray.prepare.records import Annotation, Record, Rejected

PATTERN = PrepareConfig.model_fields["patient_pattern"].default
WITH_RUN = r"(?P<patient>\w+)-(?P<run>\d+)-(?P<frame>\w+)"


def record(name, **fields):
    return Record(0, name, name, Annotation({}), **fields)


def test_ids_are_keyed_and_tell_nothing():
    name = "images/doe_frame_000012.jpg"
    identity = Pseudonyms(b"key", PATTERN).identify(record(name))
    ids = (identity.sample_id, identity.patient_id, identity.run_id)
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)
    assert identity.frame == 12
    assert identity == Pseudonyms(b"key", PATTERN).identify(record(name))
    assert identity.patient_id != Pseudonyms(b"other key", PATTERN).identify(record(name)).patient_id


def test_half_a_character_that_json_can_hold_has_a_pseudonym_too():
    pseudonyms = Pseudonyms(b"key", PATTERN)
    assert pseudonyms.annotator_id("\ud800") != pseudonyms.annotator_id("\ud801")


def test_frames_share_the_patient_and_runs_do_not_share_the_run():
    pseudonyms = Pseudonyms(b"key", WITH_RUN)
    first, second, other_run = (
        pseudonyms.identify(record(f"{name}.png")) for name in ("doe-1-1", "doe-1-2", "doe-2-1")
    )
    assert first.patient_id == second.patient_id == other_run.patient_id
    assert first.run_id == second.run_id != other_run.run_id
    assert len({first.sample_id, second.sample_id, other_run.sample_id}) == 3


def test_a_file_that_says_it_itself_is_not_asked_for_its_name():
    pseudonyms = Pseudonyms(b"key", PATTERN)
    found = [
        pseudonyms.identify(record(f"scan.dcm#{frame}", patient="doe", run=run, frame=frame))
        for frame, run in ((0, "1.2"), (4, "1.2"), (4, "1.3"))
    ]
    assert [each.frame for each in found] == [0, 4, 4]
    assert found[0].run_id == found[1].run_id != found[2].run_id
    assert found[0].patient_id == pseudonyms.patient_id("doe")


def test_files_that_name_no_run_have_one_for_each_patient():
    pseudonyms = Pseudonyms(b"key", PATTERN)
    names = (("a.png", "doe"), ("b.png", "doe"), ("c.png", "roe"))
    first, second, other = (pseudonyms.identify(record(name, patient=patient)) for name, patient in names)
    assert first.run_id == second.run_id != other.run_id


def test_folders_are_part_of_the_path_that_the_pattern_sees():
    pseudonyms = Pseudonyms(b"key", r"(?P<patient>\w+)/run(?P<run>\d+)/.*_(?P<frame>\d+)")
    identity = pseudonyms.identify(record("doe/run3/image_017.tif"))
    assert identity.patient_id == pseudonyms.patient_id("doe")
    assert identity.frame == 17


def test_an_image_without_a_frame_number_is_frame_0():
    assert Pseudonyms(b"key", r"(?P<patient>\d+)_training").identify(record("21_training.png")).frame == 0


@pytest.mark.parametrize("name", ["roe.jpg", "roe-1-last.jpg", "roe-1-1234567890123456789.jpg"])
def test_a_name_that_does_not_match_is_rejected_without_saying_it(name):
    with pytest.raises(Rejected) as caught:
        Pseudonyms(b"key", WITH_RUN).identify(record(name))
    assert caught.value.code == "name_mismatch"
    assert "roe" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "patient"),
    [
        ("vessels of MuellerHans", "MuellerHans"),
        ("vessels of mueller, hans", "MuellerHans"),
        ("Hans_M\u00fcller left", "m\u00fcllerHANS"),
        ("MUELLERHANS-left", "Mueller-Hans"),
        ("left artery Mueller", "MuellerHans"),
        ("vessel 4711", "4711"),
        ("vessel of p1", "P1"),
        ("7: artery", "7"),
        ("\u738b\u5c0f\u660e artery", "\u738b\u5c0f\u660e"),
        ("\u8840\u7ba1\u738b\u4f1f", "\u738b\u4f1f"),
        ("\u8840\u7ba1 \u738b \u4f1f", "\u738b_\u4f1f"),
        ("\u738b\u4f1f\u7684\u8840\u7ba1", "\u738b\u4f1f_12"),
        ("\uae40\ucca0\uc758 \ud608\uad00", "\uae40\ucca0"),
        ("vessel of Mueller", "M\u00fcller"),
        ("vessel of Muller", "M\u00fcller"),
        ("Vessel Muller", "Mueller, Hans"),
        ("Vessel M\u00fcller", "Mueller, Hans"),
        ("Vessel Mu\u0308ller", "Mueller, Hans"),
        ("vessel jaeger", "J\u00e4ger_1"),
        ("vessel of Goethe", "G\u00f6the"),
        ("vessel of Gross", "Gro\u00df"),
        ("Soren", "S\u00f8ren"),
        ("S\u00f8ren", "Soeren"),
        ("lukasz", "\u0141ukasz"),
        ("vessel of dang", "\u0110\u1eb7ng"),
        ("Ore", "\u00f8re"),
        ("vessel of Haakon", "H\u00e5kon"),
        ("vessel of Kjaer", "Kj\u00e6r"),
        ("area Eva Lang", "EvaLang"),
        ("vessel 19700101", "Mueller_19700101"),
        ("vessel 4711", "P4711"),
        ("vessel P04711b", "4711"),
        ("p12b vessel", "P12"),
        ("p12 vessel", "P0012"),
        ("patient 0012", "12"),
        ("patient 12", "0012"),
    ],
)
def test_a_text_that_names_the_patient_is_found(text, patient):
    assert names_patient(text, patient)


@pytest.mark.parametrize(
    ("text", "patient"),
    [
        ("blood vessels", "MuellerHans"),
        ("vessel 12", "1"),
        ("vessel 10", "1"),
        ("vessel 0", "10"),
        ("vessel 1", "P1"),
        ("vessel 12", "P12"),
        ("vessel p121", "P12"),
        ("vessel 120", "P12"),
        ("vessel 47111", "P4711"),
        ("vessel 7", "P0007"),
        ("vessel", "vessel12"),
        ("LAD1", "1"),
        ("blood vessels of the aorta", "Bloeder"),
        ("\u8840\u7ba1", "\u738b\u4f1f"),
        ("\u738b", "\u738b\u4f1f"),
        ("\u738b\u8840\u7ba1", "\u738b"),
        ("artery", "art"),
        ("vessel", "v07"),
        ("left artery", "DOE-L"),
        ("", "doe"),
        ("blood vessels", "---"),
        ("blood vessels", ""),
    ],
)
def test_other_texts_are_not_taken_for_names(text, patient):
    assert not names_patient(text, patient)
