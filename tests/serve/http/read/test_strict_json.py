import json
from contextlib import suppress

import pytest

from sa2va_ray.serve.http.read.strict_json import parse_strict_json


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "Expecting value"),
        (b"{}x", "Extra data, at character 2"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "a key twice"),
        (b'["\xff"]', "not UTF-8"),
        ('["\ud800"]', "half of a surrogate pair"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'[{"\\udfff": 1}]', "half of a surrogate pair"),
        (b'"\\ude00\\ud83d"', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"NaN", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"1e400", "too large"),
        (b"-1e400", "too large"),
        (b"9" * 309, "more than 308 digits"),
        (b"9" * 5000, "more than 308 digits"),
    ],
)
def test_what_is_refused_and_not_repeated(data, says):
    with pytest.raises(ValueError, match=says) as caught:
        parse_strict_json(data)
    assert len(str(caught.value)) < 100
    assert type(caught.value) is ValueError


def test_any_depth_is_a_value_or_an_error():
    """Near Python's limit the parts that read and check reach it at different depths."""
    for depth in range(100, 1200, 7):
        with suppress(ValueError):
            parse_strict_json("[" * depth + "]" * depth)


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "grün 😀 \0"]}, [], "", 10**300, -(2.0**1000)])
def test_what_is_json(value):
    for ensure_ascii in (True, False):
        text = json.dumps(value, ensure_ascii=ensure_ascii)
        assert (
            parse_strict_json(text)
            == parse_strict_json(text.encode())
            == parse_strict_json(b"\xef\xbb\xbf" + text.encode())
            == value
        )
