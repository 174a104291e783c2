"""Options of a request: what is wrong is told in little time and memory, however much of it there is."""

import time

import pytest

from sa2va_ray.serve.http.read.options import parse_options
from sa2va_ray.serve.problems import Problem

MANY = {f"name {number}": 1 for number in range(200_000)}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": [1] * 1_000_000}, "prompt.list[constrained-str].0: Input should be a valid string"),
        (MANY, "name 0: Extra inputs are not permitted"),
        ({"cleanup": MANY}, "cleanup.name 0: Extra inputs are not permitted"),
        ({"threshold": True}, "threshold: Value error, a number is asked for, not true or false"),
        ({"model": ""}, "model: String should have at least 1 character"),
    ],
    ids=["prompts", "names", "names of clean-up", "true", "no name"],
)
def test_wrong_fields(fields, told):
    start = time.process_time()
    with pytest.raises(Problem) as refused:
        parse_options(fields)
    assert time.process_time() - start < 1  # an error for each of them takes many seconds
    assert told.split(": ")[1] in refused.value.detail
    assert refused.value.detail.startswith(told[:6])
    assert refused.value.detail.endswith(".")
    assert refused.value.status == 422
