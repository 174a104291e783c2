import pytest

from sa2va_ray.prepare.identity.alike import explain_alike


@pytest.mark.parametrize("typed", [["P7", "p7"], ["P007", "P7"], ["17", "0017"], ["Doe  Jo", "doe jo"]])
def test_one_name_in_two_spellings_is_told_without_it(typed):
    (told,) = explain_alike({2: "other", 3: typed[0], 4: typed[0], 9: typed[1]})
    assert told.startswith("2 patients may be 1: ")
    assert "(items 3 and 9)." in told
    assert not any(f" {name}" in told for name in typed)


@pytest.mark.parametrize("names", [["P7", "P70"], ["P7", "P07a"], ["10", "1"], ["1_11", "11_1"], ["P1", "P-1"]])
def test_other_names_are_not_taken_for_one(names):
    assert explain_alike(dict(enumerate([*names, names[0]]))) == []


def test_no_more_than_ten_are_listed():
    (told,) = explain_alike({number: f"{'p' if number % 2 else 'P'}{number // 2}" for number in range(24)})
    assert told.startswith("24 patients may be 12: ")
    assert "(items 0 and 1; 2 and 3; " in told
    assert "; 18 and 19; ...)." in told
