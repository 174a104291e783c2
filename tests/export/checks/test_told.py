"""What a failed check says, of facts that no folder is loaded for."""

import pytest

from sa2va_ray.export.checks.folder import _dtypes_told, _facts

FACTS = {
    "problems": {},
    "code": "transformers_modules.x",
    "num_parameters": 1_200,
    "dtypes": {"mlp1": {"bfloat16": 4}},
    "not_finite": [],
    "tokenizer_size": 9,
    "embedding_rows": 9,
    "head_rows": 9,
    "config_seg_token_id": 7,
    "seg_ids": [7],
}
MANIFEST = {"num_parameters": 1_200, "vocabulary": 9, "seg_token_id": 7}


@pytest.mark.parametrize(
    ("said", "told"), [(1_201, "1,200, not 1201"), ("x", "1,200, not x"), (None, "1,200, not None")]
)
def test_a_number_of_parameters_that_is_none_is_a_failed_check(said, told):
    assert all(check.passed for check in _facts(FACTS, MANIFEST))
    (failed,) = [check for check in _facts(FACTS, {**MANIFEST, "num_parameters": said}) if not check.passed]
    assert (failed.name, failed.detail) == ("parameters", told)


def test_dtypes_that_the_manifest_does_not_name_are_told_as_that():
    """The files may have what they should, and the table would call that the fault."""
    found = {"mlp1": {"bfloat16": 4}}
    assert _dtypes_told(found, {}, {"bfloat16"}, {"dtypes": found}) == "bfloat16 in 1 modules"
    assert "the manifest says otherwise" in _dtypes_told(found, {}, {"bfloat16"}, {"dtypes": None})
    assert _dtypes_told(found, {"mlp1": {"float32": 1}}, {"bfloat16"}, {"dtypes": found}).startswith("not bfloat16: ")
