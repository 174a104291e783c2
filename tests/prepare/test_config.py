import pytest

from sa2va_ray.config import UserError
from sa2va_ray.prepare.config import PrepareConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split.val_fraction=0.8", "sum must be below 1"),
        ("patient_pattern=(?P<patient>[a-z]", "no regular expression"),
        ("patient_pattern='(.+)_frame_'", "no group"),
        ("phrase=''", "phrase"),
        ('phrase="a\\0b"', "control character"),
        ("private_table=s3://bucket/table.csv", "give a local path"),
        ("pseudonym_key_file=s3://bucket/key", "give a local path"),
        ("nnunet_out=s3://bucket/nnUNet_raw/vessels", "end it with a name as Dataset001_vessels"),
        ("nnunet_out=/data/Dataset1_vessels", "end it with a name as Dataset001_vessels"),
    ],
)
def test_wrong_values_are_named(override, message):
    with pytest.raises(UserError, match=message):
        PrepareConfig.load(["source=a", "out=b", override])


@pytest.mark.parametrize("wrong", ["phrase=background", "phrase=ignore", "classes={background: [1], ignore: [2]}"])
def test_phrases_that_nnunet_cannot_have_are_refused_before_the_work(wrong):
    given = ["source=a", "out=b", "nnunet_out=/data/Dataset001_vessels"]
    with pytest.raises(UserError, match="means something else in nnU-Net's dataset"):
        PrepareConfig.load([*given, wrong])
    assert PrepareConfig.load([*given, "classes={vein: [1], ignore: [2]}"]).nnunet_out


@pytest.mark.parametrize("wrong", ["label_size=[0,0]", "label_size=[-1,4]", "phrase=' '", "ignore_labels=['']"])
def test_empty_texts_and_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=wrong.partition("=")[0]):
        PrepareConfig.load(["source=a", "out=b", wrong])


def test_the_phrase_is_compared_as_texts_of_annotations_are():
    assert PrepareConfig(source="a", out="b", phrase=" Gefa\u0308\u00dfe ").phrase == "Gef\u00e4\u00dfe"


def test_the_unicode_form_of_a_label_pattern_does_not_count():
    decomposed = PrepareConfig(source="a", out="b", label_pattern="Mu\u0308ll/{stem}.png")
    assert decomposed.label_pattern == "M\u00fcll/{stem}.png"
