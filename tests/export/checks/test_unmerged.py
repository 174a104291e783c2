import pytest
import torch

from sa2va_ray.export.checks.unmerged import _is_rounded


@pytest.mark.parametrize(
    ("stored", "is_rounded"),
    [
        ([1.0, 0.5, 0.0], True),
        ([1.0, 0.5, 2e-7], True),  # where 0.1 and -0.1 were summed in another order
        ([1.0, 0.5 + 2**-9, 0.0], True),  # the nearest of bfloat16, with a step of 2**-8
        ([1.0, 0.5 + 2**-7, 0.0], False),
        ([1.0, 0.5, 2e-5], False),
        ([1.0, float("nan"), 0.0], False),
    ],
)
def test_a_value_may_differ_by_its_rounding_and_by_that_of_what_cancels_in_it(stored, is_rounded):
    assert _is_rounded(torch.tensor(stored), torch.tensor([1.0, 0.5, 0.0])) is is_rounded


def test_what_is_smaller_than_any_number_of_bfloat16_becomes_zero():
    merged = torch.full((2, 3), 1e-42)
    assert _is_rounded(merged.bfloat16(), merged)
    assert not _is_rounded(torch.full((2, 3), 1e-39), merged)


def test_what_cancels_is_held_against_its_own_row():
    merged = torch.tensor([[1000.0, 0.0], [1.0, 0.0]])
    assert _is_rounded(torch.tensor([[1000.0, 2e-4], [1.0, 0.0]]), merged)
    assert not _is_rounded(torch.tensor([[1000.0, 0.0], [1.0, 2e-4]]), merged)
