"""A form is a line in one table: whoever else lists the forms is held against it."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from sa2va_ray.client import Options
from sa2va_ray.serve.http.encode.output_forms import DEFAULT_OUTPUT, OUTPUT_FORMS
from sa2va_ray.serve.http.protocol import Mask, SegmentOptions

REFERENCE = Path(__file__).parents[4] / "docs/en/serve_reference.md"


@pytest.mark.parametrize("name", OUTPUT_FORMS)
def test_each_form_is_an_option_of_the_request_and_a_field_of_the_reply(name):
    assert SegmentOptions(output=name).output == name
    assert name in Mask.model_fields


def test_no_other_form_is_taken():
    assert SegmentOptions().output == DEFAULT_OUTPUT
    with pytest.raises(ValidationError, match="'rle'"):
        SegmentOptions(output="svg")


def test_the_client_offers_the_same_forms():
    assert list(get_args(get_type_hints(Options)["output"])) == list(OUTPUT_FORMS)


def test_the_reference_has_a_row_for_each_form():
    table = REFERENCE.read_text().split("| `output` | |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(OUTPUT_FORMS)
